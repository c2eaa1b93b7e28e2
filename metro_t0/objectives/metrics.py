"""What people watch during pretraining, as pairs (hits, positions) that add up over batches and devices.

All are scalars on the model's device, without waiting for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metro_t0.modeling.pretraining import PretrainingBatch, PretrainingOutput

Ratio = tuple[Tensor, Tensor]


def mlm_metrics(batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, Ratio]:
    """Of the auxiliary.

    mlm_accuracy          right at masked positions
    replacement_rate      share of the masked positions where the sample differs from the original
    replaced_share        share of all real tokens that were replaced: the base rate of RTD
    """
    assert output.mlm_logits is not None
    assert output.replaced is not None
    assert batch.masked_positions is not None
    originals = batch.source_tokens.flatten()[batch.masked_positions]
    replaced_at_masks = output.replaced.flatten()[batch.masked_positions]
    return {
        "mlm_accuracy": _share(output.mlm_logits.argmax(-1) == originals, torch.ones_like(replaced_at_masks)),
        "replacement_rate": _share(replaced_at_masks, torch.ones_like(replaced_at_masks)),
        "replaced_share": _share(output.replaced, output.valid),
    }


def rtd_metrics(batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, Ratio]:
    """Of replaced token detection.

    rtd_recall            share of the replaced tokens that the RTD head detects
    rtd_specificity       share of the other real tokens that it takes for original
    """
    assert output.rtd_logits is not None
    assert output.replaced is not None
    detected = output.rtd_logits > 0
    return {
        "rtd_recall": _share(detected, output.replaced),
        "rtd_specificity": _share(~detected, output.valid & ~output.replaced),
    }


def clm_metrics(batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, Ratio]:
    """Of the decoder: accuracy, by kind of position where the auxiliary has replaced some of what it writes.

    clm_accuracy where it does not write the source; clm_accuracy_replaced, clm_accuracy_masked, clm_accuracy_unmasked
    """
    correct = _predictions(batch, output) == batch.clm_targets
    everywhere = torch.ones_like(correct)
    if output.replaced is None or batch.masked_positions is None or batch.decoder_writes == "other":
        return {"clm_accuracy": _share(correct, everywhere)}
    if batch.decoder_writes == "masked":
        return {"clm_accuracy_masked": _share(correct, everywhere)}
    masked = torch.zeros_like(output.replaced).flatten().index_fill(0, batch.masked_positions, True)
    at_masked = masked[batch.clm_positions]
    return {
        "clm_accuracy_masked": _share(correct, at_masked),
        "clm_accuracy_replaced": _share(correct, output.replaced.flatten()[batch.clm_positions]),
        # Of no position in training, which skips those logits. Always there: processes sum their metrics key by key.
        "clm_accuracy_unmasked": _share(correct, ~at_masked),
    }


def _predictions(batch: PretrainingBatch, output: PretrainingOutput) -> Tensor:
    """(C,) the decoder's most probable tokens; with the copy mechanism, of the mixture with the noised token."""
    if output.copy_logits is None or output.noised_tokens is None:
        return output.clm_logits.argmax(-1)
    probabilities = output.clm_logits.float().softmax(-1)
    best_p, best = probabilities.max(-1)
    noised = output.noised_tokens.flatten()[batch.clm_positions]
    noised_p = probabilities.gather(-1, noised[:, None]).squeeze(-1)
    copy = output.copy_logits.float().sigmoid()
    return torch.where(copy + (1 - copy) * noised_p > (1 - copy) * best_p, noised, best)


def _share(hits: Tensor, among: Tensor) -> Ratio:
    return (hits & among).sum(), among.sum()
