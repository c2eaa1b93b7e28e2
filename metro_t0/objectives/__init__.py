"""Masking patterns, decoding targets, the three losses and the metrics people watch."""
