"""From token blocks to the batch of an objective: what the encoder reads, what the decoder reads and must predict.

METRO (paper section 3.2 and table 4):
  masked_loss   the decoder predicts all of X^orig, the loss counts masked positions only (the paper's choice)
  all_tokens    the loss counts every position
  masked_only   the decoder predicts the masked tokens alone, one after the other (the ill-formed target)
T5 (span corruption, and its all-token variant):
  spans         a sentinel and the tokens of each span
  all_tokens    the whole original text
SpacTor-T5 (Ye et al. 2024, arXiv 2401.13160): T5's, while an auxiliary replaces tokens outside of the spans
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metro_t0.errors import UserError
from metro_t0.modeling.config import ModelConfig
from metro_t0.modeling.pretraining import PretrainingBatch
from metro_t0.objectives.masking import MaskingConfig, WordIds, apply_masks, choose_positions
from metro_t0.randomness import Stream
from metro_t0.rows import Ids, pad_flat, pad_rows, shift_right
from metro_t0.spans import Flags, corrupt_spans

COLUMNS = 16
MetroTarget = Literal["masked_loss", "all_tokens", "masked_only"]
T5Target = Literal["spans", "all_tokens"]


def check_target(
    config: ModelConfig, target: str, weighted_by_rtd: bool = False, within_documents: bool = False
) -> None:
    """Refuse combinations that make no sense, with the reason. target: `MetroTarget`, or "spans" for T5's."""
    if weighted_by_rtd and config.rtd == "none":
        raise UserError("weighted_clm needs the RTD head's probabilities, but the model field rtd is none")
    wants_source = {
        "clm_head=copy": config.clm_head == "copy",
        "rtd=decoder": config.rtd == "decoder",
        "weighted_clm": weighted_by_rtd,
        "within_documents": within_documents,
    }
    clashes = [name for name, is_wanted in wants_source.items() if is_wanted]
    if clashes and target in ("masked_only", "spans"):
        problem = "decoder positions no longer match the source"
        raise UserError(f"decoding_target={target} does not go with {clashes[0]}: {problem}")


@dataclass(frozen=True)
class MetroBatches:
    """Makes METRO batches.

    probe_unmasked adds logits at as many unmasked positions, for metrics in validation. document_end, the id whose
    second occurrence in a row ends a document (fairseq's empty line), keeps attention within documents.
    """

    masking: MaskingConfig
    words: WordIds
    decoder_start: int
    target: MetroTarget = "masked_loss"
    probe_unmasked: bool = False
    document_end: int | None = None

    def __call__(self, tokens: Ids, examples: Sequence[int], stream: Stream) -> PretrainingBatch:
        """tokens (B, T) padded on the right; examples: their indices in the data set."""
        chosen = choose_positions(tokens, examples, self.masking, self.words, stream)
        masked = apply_masks(tokens, chosen, examples, self.masking, self.words, stream)
        target, wanted, in_loss = self._decoder_side(tokens, chosen, examples, stream)
        return PretrainingBatch(
            source_tokens=torch.from_numpy(tokens),
            clm_in_loss=None if in_loss is None else torch.from_numpy(in_loss[wanted]),
            documents=self._documents(tokens),
            decoder_writes="masked" if self.target == "masked_only" else "source",
            has_padding=bool((tokens == self.words.pad_id).any()),
            **_read_and_predicted(target, wanted, self.decoder_start),
            **_masks(masked, chosen, examples, stream),
        )

    def _documents(self, tokens: Ids) -> Tensor | None:
        if self.document_end is None:
            return None
        ends = tokens == self.document_end
        after_two = np.zeros_like(ends)
        after_two[:, 2:] = ends[:, 1:-1] & ends[:, :-2]
        numbers = 1 + after_two.cumsum(1)
        return torch.from_numpy(np.where(tokens == self.words.pad_id, 0, numbers))

    def _decoder_side(
        self, tokens: Ids, chosen: Flags, examples: Sequence[int], stream: Stream
    ) -> tuple[Ids, Flags, Flags | None]:
        """Decoder target (B, T), positions whose logits are needed, and which of them count in the loss."""
        if self.target == "masked_only":
            target = pad_rows([row[flags] for row, flags in zip(tokens, chosen, strict=True)], self.words.pad_id)
            return target, target != self.words.pad_id, None
        if self.target == "all_tokens":
            return tokens, tokens != self.words.pad_id, None
        if not self.probe_unmasked:
            return tokens, chosen, None
        probe = stream.uniforms("probe", examples, tokens.shape[1]) < self.masking.mask_ratio
        return tokens, chosen | (probe & self.words.is_word(tokens)), chosen


@dataclass(frozen=True)
class SpanCorruptionBatches:
    """Makes the T5 baseline's batches: every span becomes one sentinel in the source.

    replaced_ratio: share of the other tokens that the auxiliary fills in (SpacTor-T5). It reads `auxiliary_mask_id` at
    their places, which must be none of the spans' sentinels.
    """

    masking: MaskingConfig
    words: WordIds
    decoder_start: int
    eos_id: int
    target: T5Target = "spans"
    replaced_ratio: float = 0.0
    auxiliary_mask_id: int | None = None

    def __call__(self, tokens: Ids, examples: Sequence[int], stream: Stream) -> PretrainingBatch:
        """tokens (B, T) padded on the right; examples: their indices in the data set."""
        spans = MaskingConfig(self.masking.mask_ratio, "span", self.masking.mean_span_length)
        chosen = choose_positions(tokens, examples, spans, self.words, stream)
        real = tokens != self.words.pad_id
        (source, source_lengths), (spans_of, target_lengths) = corrupt_spans(
            tokens[real], chosen[real], real.sum(1), self.words.mask_id
        )
        target = tokens
        if self.target == "spans":
            target = pad_flat(spans_of, target_lengths, self.words.pad_id, self.eos_id)
        sources = pad_flat(source, source_lengths, self.words.pad_id)
        masks: dict[str, Any] = {}
        if self.replaced_ratio:
            assert self.auxiliary_mask_id is not None
            chosen = choose_positions(sources, examples, MaskingConfig(self.replaced_ratio), self.words, stream)
            masks = _masks(np.where(chosen, self.auxiliary_mask_id, sources), chosen, examples, stream)
        return PretrainingBatch(
            source_tokens=torch.from_numpy(sources),
            decoder_writes="other",
            has_padding=bool((sources == self.words.pad_id).any()),
            **_read_and_predicted(target, target != self.words.pad_id, self.decoder_start),
            **masks,
        )

    def expected_counts(self) -> dict[str, float]:
        """Positions that losses are means over, per word of text, on average and without special tokens."""
        spans, other = self.masking.mask_ratio, 1 - self.masking.mask_ratio
        sentinels = spans / self.masking.mean_span_length
        predicted = spans + sentinels if self.target == "spans" else 1.0
        return {"predicted": predicted, "masked": self.replaced_ratio * other, "source": other + sentinels}


def _read_and_predicted(target: Ids, wanted: Flags, decoder_start: int) -> dict[str, Any]:
    """What the decoder reads, and predicts at the `wanted` positions of its target (B, T)."""
    return {
        "decoder_input": shift_right(torch.from_numpy(target), decoder_start),
        "clm_positions": flat(wanted),
        "clm_targets": torch.from_numpy(target[wanted]),
        "most_clm_in_row": most_in_row(wanted),
    }


def _masks(masked: Ids, chosen: Flags, examples: Sequence[int], stream: Stream) -> dict[str, Any]:
    """What the auxiliary reads (B, S), and the `chosen` positions where it samples."""
    return {
        "masked_tokens": torch.from_numpy(masked),
        "masked_positions": flat(chosen),
        "most_masked_in_row": most_in_row(chosen),
        "sample_uniforms": torch.from_numpy(stream.uniforms("sample", examples, masked.shape[1])[chosen]),
    }


def most_in_row(flags: Flags) -> int:
    """(B, T) -> True values of the fullest row, rounded up: batches of nearly equal counts then have equal shapes."""
    return -(-int(flags.sum(1).max(initial=1)) // COLUMNS) * COLUMNS


def flat(flags: Flags) -> Tensor:
    """(B, T) -> (N,) positions of True in the flattened array, int64, ascending."""
    return torch.from_numpy(np.flatnonzero(flags))
