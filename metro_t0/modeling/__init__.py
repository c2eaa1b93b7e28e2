"""The model: config and presets, attention, layers, encoder-decoder, auxiliary, heads, initial weights."""

from metro_t0.modeling.config import PRESETS, ModelConfig, preset
from metro_t0.modeling.encoder_decoder import T5
from metro_t0.modeling.pretraining import MetroT5, PretrainingBatch, PretrainingOutput

__all__ = ["PRESETS", "T5", "MetroT5", "ModelConfig", "PretrainingBatch", "PretrainingOutput", "preset"]
