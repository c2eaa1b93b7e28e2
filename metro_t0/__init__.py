"""ELECTRA-style T5 pretraining with model-generated signals (METRO-T0), without any training framework."""

__version__ = "0.2.0"
