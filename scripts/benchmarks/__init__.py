"""Measured claims of docs/benchmarks.md: python -m scripts.benchmarks.NAME, from the repository's root."""
