"""What goes unseen on one CPU: waits for the device, tensors made on the host, metrics that differ by process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from objective_variants import (
    EOS,
    EXAMPLES,
    METRO_VARIANTS,
    PAD,
    STREAM,
    TINY,
    WORDS,
    Variant,
    batches_of,
    make_model,
    texts,
)  # fmt: skip
from torch import Tensor

from metro_t0.modeling import MetroT5, PretrainingBatch
from metro_t0.objectives.batches import MetroBatches, SpanCorruptionBatches
from metro_t0.objectives.losses import clm_loss, mlm_loss, pretraining_metrics, rtd_loss
from metro_t0.rows import pad_rows


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*METRO_VARIANTS, "t5_spans", "documents"])
def test_a_training_step_neither_waits_for_the_device_nor_leaves_it(name: str, backend: str) -> None:
    """On the device that holds no values, whatever a GPU would have to be waited for is an error.

    So is a tensor that was made on the host. Both would go unseen on the CPU.
    """
    baseline = Variant({"auxiliary_layers": 0, "rtd": "none"})
    variant = {"t5_spans": baseline, "documents": Variant(), **METRO_VARIANTS}[name]
    config = TINY.replace(**variant.model, dropout=0.1, attention_dropout=0.1, attention_backend=backend)
    model = MetroT5(config, PAD).to("meta")
    make: MetroBatches | SpanCorruptionBatches = batches_of(variant, probe=True)
    if name == "documents":
        make = replace(make, document_end=EOS)
    if name == "t5_spans":
        make = SpanCorruptionBatches(variant.masking, WORDS, WORDS.mask_id, EOS)
    made = vars(make(pad_rows(texts(), PAD), EXAMPLES, STREAM))
    batch = PretrainingBatch(**{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in made.items()})
    optimizer = torch.optim.AdamW(model.parameters())

    output = model(batch)
    losses = [clm_loss(batch, output, variant.weighted)]
    if output.noise is not None:
        losses.append(mlm_loss(output))
    if "rtd_head" in output.heads:
        losses.append(rtd_loss(output))
    counts = pretraining_metrics(batch, output)
    torch.stack([part.mean for part in losses]).sum().backward()
    optimizer.step()

    assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {"meta"}
    assert {number.device.type for pair in counts.values() for number in pair} == {"meta"}


@pytest.mark.parametrize("name", METRO_VARIANTS)
def test_metrics_have_the_same_names_in_training_and_validation(name: str) -> None:
    """Processes add theirs up key by key; at the end of an epoch some of them may hold a batch of validation."""
    variant = METRO_VARIANTS[name]
    model, names = make_model(variant), []
    for probe in (False, True):
        batch = batches_of(variant, probe)(pad_rows(texts(), PAD), EXAMPLES, STREAM)
        names.append(list(pretraining_metrics(batch, model(batch))))
    assert names[0] == names[1]


@pytest.mark.parametrize("step", [Tensor.item, Tensor.nonzero, lambda x: x[x > 0], lambda x: x + torch.ones(2)])
def test_what_the_step_must_not_do_is_an_error(step: Callable[[Tensor], Any]) -> None:
    with pytest.raises(RuntimeError):
        step(torch.ones(2, device="meta"))
