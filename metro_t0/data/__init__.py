"""Corpora to documents to token files: sources, binarization, the embedded corpus, the file format."""
