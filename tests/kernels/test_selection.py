"""Last layers at the needed positions alone: the same losses and gradients as everywhere, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metro_t0.kernels.selection import make_selection
from metro_t0.modeling import MetroT5, PretrainingBatch, preset
from metro_t0.objectives.batches import MetroBatches, SpanCorruptionBatches
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.randomness import Stream

PAD, EOS, WORDS, LENGTH = 1, 2, 60, 40
SMALL = preset(
    "demo", vocab_size=WORDS + LENGTH, d_model=16, ffn_dim=24, num_heads=2, head_dim=8, encoder_layers=1,
    decoder_layers=2, auxiliary_layers=2, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
WORD_IDS = WordIds(pad_id=PAD, mask_id=WORDS, first_word=4, end_of_words=WORDS)


def make_batch(kind: str) -> PretrainingBatch:
    """Rows with different numbers of masks, one of them short; `documents`: several in a row; `none`: a row without."""
    tokens = np.random.default_rng(3).integers(4, WORDS, (4, LENGTH))
    tokens[1, -15:] = PAD
    if kind == "documents":
        tokens[:, 17:19] = EOS
    if kind == "none":
        tokens[2, 1:] = PAD
        tokens[2, 0] = 0
    masking = MaskingConfig(mask_ratio=0.15)
    if kind == "spans":
        return SpanCorruptionBatches(masking, WORD_IDS, WORDS, EOS, "spans")(tokens, range(4), Stream(1, 1))
    make = MetroBatches(masking, WORD_IDS, WORDS, document_end=EOS if kind == "documents" else None)
    return make(tokens, range(4), Stream(1, 1))


def outputs(model: MetroT5, batch: PretrainingBatch) -> list[Tensor]:
    """All logits, and the gradients of a sum that depends on every one of them."""
    model.zero_grad()
    output = model(batch)
    logits = [
        x for x in (output.clm_logits, output.noise and output.noise.logits, *output.heads.values()) if x is not None
    ]
    torch.stack([x.sin().sum() for x in logits]).sum().backward()
    return [*logits, *(p.grad for p in model.parameters() if p.grad is not None)]


VARIANTS: list[dict[str, Any]] = [
    {}, {"attention_backend": "eager"}, {"norm_placement": "pre", "norm_kind": "rms", "gated_ffn": True},
    {"clm_head": "copy"}, {"clm_head": "projection"}, {"decoder_layers": 1, "auxiliary_layers": 1},
    {"activation_checkpointing": True}, {"relative_positions": "both", "relative_rule": "t5"},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "documents", "none"])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_nothing_changes(changes: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    model = MetroT5(SMALL.replace(**changes), PAD).double()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = make_batch(kind)
    assert make_selection(batch.clm_positions, batch.most_clm_in_row, *batch.source_tokens.shape) is not None
    everywhere = replace(batch, most_clm_in_row=None, most_masked_in_row=None)
    rounding = 1e-6 if changes.get("attention_backend") == "eager" else 1e-12  # its softmax is in fp32 on purpose
    for found, expected in zip(outputs(model, batch), outputs(model, everywhere), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=rounding)


def test_less_is_computed() -> None:
    """The feed-forward of a last layer sees the needed positions alone."""
    model, batch = MetroT5(SMALL, PAD), make_batch("plain")
    seen = {}
    for name, stack in (("decoder", model.main.decoder), ("auxiliary", model.auxiliary.stack)):
        stack.layers[-1].feed_forward.register_forward_hook(lambda _, x, __, name=name: seen.update({name: x[0].shape}))
    model(batch)
    needed = (len(batch.clm_positions), SMALL.d_model)
    assert seen == {"decoder": needed, "auxiliary": needed}


@pytest.mark.parametrize("wrong", ["rtd on the decoder", "spans", "not known"])
def test_everything_is_computed_where_it_is_needed(wrong: str) -> None:
    batch = make_batch("spans" if wrong == "spans" else "plain")
    if wrong == "not known":
        batch.most_clm_in_row = None
    changes = {
        "rtd on the decoder": {"rtd": "decoder"},
        "spans": {"auxiliary_layers": 0, "rtd": "none"},
        "not known": {},
    }[wrong]
    model, shapes = MetroT5(SMALL.replace(**changes), PAD), []
    model.main.decoder.layers[-1].feed_forward.register_forward_hook(lambda _, x, __: shapes.append(x[0].dim()))
    model(batch)
    assert shapes == [3]


def test_positions_keep_their_places() -> None:
    positions = torch.tensor([1, 3, 8, 10, 11])  # rows of 4: two, none, three
    at = make_selection(positions, 3, 3, 4)
    assert at is not None
    x = torch.arange(12.0).view(3, 4, 1)
    assert torch.equal(at.from_rows(at.to_rows(at.select(x))), x.flatten(0, 1)[positions])
    assert at.columns.tolist() == [[1, 3, 0], [0, 0, 0], [0, 2, 3]]
    assert make_selection(positions, 4, 3, 4) is None
    assert make_selection(positions, None, 3, 4) is None
