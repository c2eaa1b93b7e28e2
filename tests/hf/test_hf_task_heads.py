"""Classifiers and question answering: they learn, load from a pretrained directory, and do not see padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_helpers import randomized
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from metro_t0.hf.export import save_directory, to_hugging_face
from metro_t0.modeling import MetroT5, ModelConfig
from metro_t0.tokenization import Tokenizer

TEXTS = ["the quick brown fox jumps", "it isn't hard !", "dog"]
LABELS: dict[Any, dict[str, torch.Tensor]] = {
    AutoModelForSequenceClassification: {"labels": torch.tensor([0, 2, 1])},
    AutoModelForQuestionAnswering: {
        "start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 2, 1]),
    },
    AutoModelForTokenClassification: {},  # made from the ids
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(small_config: ModelConfig, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model"
    save_directory(to_hugging_face(randomized(MetroT5(small_config, pad_id=1), deviation=0.1)), path, tokenizer)
    return path


def load(auto: Any, directory: Path) -> Any:
    torch.manual_seed(0)
    settings = {} if auto is AutoModelForQuestionAnswering else {"num_labels": 3}
    return auto.from_pretrained(directory, **settings).eval()


def outputs(model: Any, batch: Any) -> torch.Tensor:
    """All scores of real tokens, or of texts."""
    found = model(**batch)
    scores = found.logits if "logits" in found else torch.stack((found.start_logits, found.end_logits), dim=-1)
    return scores if scores.dim() == 2 else scores[batch["attention_mask"].bool()]


@pytest.mark.parametrize("auto", LABELS, ids=lambda auto: auto.__name__)
def test_heads(auto: Any, directory: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    model = load(auto, directory)
    pretrained = AutoModelForSeq2SeqLM.from_pretrained(directory).state_dict()
    shared = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("main.")}
    assert shared
    assert all(torch.equal(tensor, pretrained[name]) for name, tensor in shared.items())

    with torch.no_grad():
        expected = outputs(model, batch)
        left = AutoTokenizer.from_pretrained(directory, padding_side="left")(TEXTS, padding=True, return_tensors="pt")
        torch.testing.assert_close(outputs(model, left), expected, rtol=1e-4, atol=1e-5)

    labels = LABELS[auto] or {"labels": (batch["input_ids"] % 3).masked_fill(batch["attention_mask"] == 0, -100)}
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = model(**batch, **labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]

    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(outputs(load(auto, tmp_path), batch), outputs(model, batch))


def test_a_text_without_end_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="without </s>"):
        load(AutoModelForSequenceClassification, directory)(torch.tensor([[0, 9, 9]]))


def test_encoder_for_feature_extraction(directory: Path) -> None:
    model = AutoModelForTextEncoding.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    features = pipeline("feature-extraction", model=model, tokenizer=tokenizer)(TEXTS[0])
    expected = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(torch.tensor(features), expected)
