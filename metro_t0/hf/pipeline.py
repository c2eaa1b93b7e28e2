"""The `text2text-generation` pipeline, which transformers 5 dropped: text in, generated text out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, Pipeline


class Text2TextGenerationPipeline(Pipeline):
    """`pipeline(texts, **generation settings)` -> [{"generated_text": ...}] per text.

    Where transformers loads the directory with `trust_remote_code=True`, `pipeline("text2text-generation", ...)` makes
    one; where this package is imported, `Text2TextGenerationPipeline(model=..., tokenizer=...)` does. Sources longer
    than the model's positions are cut.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = True
    # Greedy, and as long as the targets of prompt-finetuning, unless the caller says otherwise.
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def _sanitize_parameters(self, **generation: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, generation, {}

    def preprocess(self, inputs: str, **settings: Any) -> dict[str, Tensor]:
        """One text -> ids and mask, (1, S)."""
        longest = self.model.config.max_position_embeddings
        return dict(self.tokenizer(inputs, return_tensors="pt", truncation=True, max_length=longest))

    def _forward(self, model_inputs: dict[str, Tensor], **generation: Any) -> dict[str, Tensor]:
        ids = self.model.generate(**model_inputs, **self._prepare_generate_kwargs(generation))
        sequences = ids if isinstance(ids, torch.Tensor) else ids.sequences
        return {"ids": sequences.unflatten(0, (model_inputs["input_ids"].size(0), -1))}

    def postprocess(self, model_outputs: dict[str, Tensor], **settings: Any) -> list[dict[str, str]]:
        """(1, returned sequences, T) ids -> their texts without special tokens."""
        texts = self.tokenizer.batch_decode(model_outputs["ids"][0], skip_special_tokens=True)
        return [{"generated_text": text} for text in texts]
