"""Rank classification: score every answer choice of a prompt by its log-probability and take the highest.

The score of a choice is the sum, over its tokens and the end token, of log p(token | prompt, earlier tokens)
(Brown et al. 2020, section 2.4; Sanh et al. 2022, section 5). A choice costs few tokens and a prompt costs many,
so the work is arranged around the prompt:

    encoder                         once per prompt
    cross-attention keys, values    once per prompt
    tokens all choices begin with   once per prompt (at the least, the decoder's start token)
    the rest                        once per distinct choice

The same numbers come out as from running the whole model on every (prompt, choice) pair.

Shapes: P prompts, C choices of all prompts, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import Cache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from eval.batching import length_sorted_batches
from metro_t0.errors import UserError


@dataclass(frozen=True)
class Question:
    """One prompt with its answer choices, as token ids."""

    source: Sequence[int]
    """Prompt, with the special tokens that the tokenizer adds."""
    choices: Sequence[tuple[int, ...]]
    """Answer choices; each ends with the end token and has no start token."""


@dataclass(frozen=True)
class ChoiceScore:
    """Score of one choice."""

    log_probability: float
    """Sum over the choice's tokens, natural logarithm."""
    num_tokens: int
    """Number of tokens summed, end token included."""


@torch.inference_mode()
def score_choices(
    model: PreTrainedModel,
    questions: Sequence[Question],
    decoder_start: Sequence[int],
    pad_id: int,
    max_tokens: int,
) -> list[list[ChoiceScore]]:
    """Score all choices of a batch of prompts.

    decoder_start: ids fed to the decoder before the first token of a choice, never scored.
    max_tokens: upper bound of (choices decoded together) x (source and target tokens), which bounds the memory
        of the expanded cross-attention. All prompts of `questions` are encoded together: see `eval.batching`.
    Returns, per prompt, the scores in the order of its choices. Equal choices of one prompt get equal scores.
    """
    device = model.device
    distinct = [list(dict.fromkeys(question.choices)) for question in questions]
    choices = [choice for row in distinct for choice in row]
    owner_C = torch.tensor([p for p, row in enumerate(distinct) for _ in row], device=device)
    shared = min(shared_prefix_length(row) for row in distinct)

    source_PS, mask_PS = pad_right([question.source for question in questions], pad_id, device)
    encoded = model.get_encoder()(input_ids=source_PS, attention_mask=mask_PS)
    prefix_PT, _ = pad_right([[*decoder_start, *row[0][:shared]] for row in distinct], pad_id, device)
    prefix = model(encoder_outputs=encoded, attention_mask=mask_PS, decoder_input_ids=prefix_PT, use_cache=True)

    if not isinstance(prefix.past_key_values, EncoderDecoderCache):
        raise UserError(
            f"model class {type(model).__name__} returns no EncoderDecoderCache from its decoder; "
            "use a sequence-to-sequence class of transformers 5 or later"
        )
    first_CT = torch.tensor([choice[: shared + 1] for choice in choices], device=device)
    step_T = torch.arange(shared + 1, device=device)
    log_p_PTV = prefix.logits[:, len(decoder_start) - 1 :].float().log_softmax(-1)
    score_C = log_p_PTV[owner_C[:, None], step_T, first_CT].sum(-1)

    unfinished = [c for c, choice in enumerate(choices) if len(choice) > shared + 1]
    lengths = [source_PS.shape[1] + len(choices[c]) for c in unfinished]
    for batch in length_sorted_batches(lengths, max_tokens):
        group = [unfinished[index] for index in batch]
        rows_C = owner_C[group]
        target_CT, target_mask_CT = pad_right([choices[c][shared:] for c in group], pad_id, device)
        rest = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded[0].index_select(0, rows_C)),
            attention_mask=mask_PS.index_select(0, rows_C),
            decoder_input_ids=target_CT[:, :-1],
            past_key_values=_select_rows(prefix.past_key_values, rows_C),
            use_cache=True,
        )
        log_p_CTV = rest.logits.float().log_softmax(-1)
        log_p_CT = log_p_CTV.gather(-1, target_CT[:, 1:, None])[..., 0]
        score_C[group] += (log_p_CT * target_mask_CT[:, 1:]).sum(-1)

    score_of = iter(score_C.tolist())
    results = []
    for question, row in zip(questions, distinct, strict=True):
        scores = {choice: ChoiceScore(next(score_of), len(choice)) for choice in row}
        results.append([scores[choice] for choice in question.choices])
    return results


def predict(scores: Sequence[ChoiceScore], length_normalized: bool = False) -> int:
    """Index of the best choice, the first of equals. Length-normalized: mean instead of sum over tokens."""
    values = [s.log_probability / (s.num_tokens if length_normalized else 1) for s in scores]
    return values.index(max(values))


def shared_prefix_length(choices: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all choices have in common, at least one token of each being left over."""
    limit = min(len(choice) for choice in choices) - 1
    for length in range(limit):
        if any(choice[length] != choices[0][length] for choice in choices):
            return length
    return limit


def pad_right(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack rows of ids. Returns (rows, longest) ids and mask (1 on tokens), int64."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids.to(device), mask.to(device)


def _select_rows(cache: EncoderDecoderCache, rows_C: torch.Tensor) -> EncoderDecoderCache:
    """A new cache whose row c is row `rows_C[c]` of the old one, which stays as it was."""

    def selected(part: Cache) -> Cache:
        part = copy.copy(part)
        part.layers = [copy.copy(layer) for layer in part.layers]
        for layer in part.layers:
            layer.keys = layer.keys.index_select(0, rows_C)
            layer.values = layer.values.index_select(0, rows_C)
        return part

    return EncoderDecoderCache(selected(cache.self_attention_cache), selected(cache.cross_attention_cache))
