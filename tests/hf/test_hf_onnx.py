"""ONNX graphs: any batch size and length, and the tokens of generate() by a loop over onnxruntime alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hf_helpers import randomized
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from metro_t0.errors import UserError
from metro_t0.hf.export import save_directory, to_hugging_face
from metro_t0.modeling import MetroT5, ModelConfig
from metro_t0.tokenization import Tokenizer


def test_graphs_generate_as_the_model(small_config: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from metro_t0.hf.onnx_export import to_onnx

    model = to_hugging_face(randomized(MetroT5(small_config, pad_id=1), deviation=0.1))
    save_directory(model, tmp_path / "model", tokenizer)
    assert to_onnx(tmp_path / "model", tmp_path / "onnx") < 1e-5  # the command's own comparison

    fast = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    batch = fast(["the quick brown fox jumps over the lazy dog", "it isn't", "dog"], padding=True, return_tensors="np")
    encoder, decoder = (
        onnxruntime.InferenceSession(tmp_path / "onnx" / f"{name}_model.onnx") for name in ("encoder", "decoder")
    )
    (hidden,) = encoder.run(None, dict(batch))
    tokens = np.full((3, 1), 2)
    for _ in range(6):
        inputs = {
            "input_ids": tokens,
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": batch["attention_mask"],
        }
        (logits,) = decoder.run(None, inputs)
        tokens = np.concatenate((tokens, logits[:, -1:].argmax(-1)), axis=1)
    reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    expected = reloaded.generate(**tensors, max_new_tokens=6).numpy()
    for row, wanted in zip(tokens, expected, strict=True):
        end = next((i for i, token in enumerate(wanted) if i and token == 2), len(wanted) - 1)
        assert row[: end + 1].tolist() == wanted[: end + 1].tolist()


def test_another_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from metro_t0.hf.onnx_export import to_onnx

    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match="not a METRO-T5"):
        to_onnx(tmp_path, tmp_path / "onnx")
