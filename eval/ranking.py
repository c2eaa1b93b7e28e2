"""Rank classification: score every answer choice of a prompt by its log-probability and take the highest.

The score of a choice is the sum, over its tokens and the end token, of log p(token | prompt, earlier tokens)
(Brown et al. 2020, section 2.4; Sanh et al. 2022, section 5). A choice costs few tokens and a prompt costs many,
so the work is arranged around the prompt:

    encoder                         once per prompt
    cross-attention keys, values    once per prompt
    tokens all choices begin with   once per prompt (at the least, the decoder's start token)
    the rest                        once per distinct choice, all reading the prompt's one copy of keys and values

The same numbers come out as from running the whole model on every (prompt, choice) pair. Decoders that do not allow
all of it are found out before anything is scored (`eval.methods`).

Shapes: P prompts, C choices of all prompts, G most choices of a prompt, S source tokens, T target tokens,
V vocabulary, H heads, K features per head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import Cache, EncoderDecoderCache, PreTrainedModel
from transformers.utils import ModelOutput

from metro_t0.errors import UserError
from metro_t0.rows import pad_rows
from metro_t0.token_budget import length_sorted_batches

TARGET_TOKEN = 8
"""Source tokens that weigh as much as the logits of one target token, roughly (32,000 pieces, base size)."""


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
    is_greedy: bool | None = None
    """Whether greedy decoding writes this choice; None: not asked for."""


def check_finite(what: str, scores: Sequence[Sequence[ChoiceScore]], dtype: torch.dtype) -> None:
    """Raise `UserError` where a sum is NaN or infinite: the highest of such numbers is no answer.

    what: what was scored, for the message. scores: per prompt, of its choices. dtype: of the model.
    """
    rows = sum(not all(math.isfinite(score.log_probability) for score in row) for row in scores)
    if rows:
        raise UserError(f"{what}: scores of {rows} of {len(scores)} prompts are {not_finite_cause(dtype)}")


def not_finite_cause(dtype: torch.dtype) -> str:
    """The end of a message about numbers that are none: what they are, and what is the likely cause."""
    if dtype == torch.float16:
        return "NaN or infinite, so there is no result; float16 overflows: use --dtype bfloat16 or float32"
    return "NaN or infinite, so there is no result; check the model's weights"


class Method(Enum):
    """How much of the work on a prompt its choices share; which one a model allows: `eval.methods`."""

    SHARED_KEYS = "encoder, common beginning and one copy of the prompt's keys and values"
    COPIED_KEYS = "encoder and common beginning; keys and values are copied for every choice"
    ONE_AT_A_TIME = "encoder; no cache, one prompt and one choice at a time"


@torch.inference_mode()
def score_choices(
    model: PreTrainedModel,
    questions: Sequence[Question],
    decoder_start: Sequence[int],
    pad_id: int,
    max_tokens: int,
    method: Method = Method.SHARED_KEYS,
    with_greedy: bool = False,
) -> list[list[ChoiceScore]]:
    """Score all choices of a batch of prompts.

    decoder_start: ids fed to the decoder before the first token of a choice, never scored.
    max_tokens: budget of tokens decoded together, which bounds the memory of the logits: a target token counts as
        `TARGET_TOKEN` source tokens. A model whose attention is not torch's fused one (SDPA) needs a copy of the
        prompt's keys and values for every choice; there the prompt's tokens count too. All prompts of `questions`
        are encoded together: see `eval.batching`.
    with_greedy: also find out whether greedy decoding would write each choice.
    Returns, per prompt, the scores in the order of its choices. Equal choices of one prompt get equal scores.
    """
    batch = _Batch(questions, model.device)
    if method is Method.ONE_AT_A_TIME:
        _score_one_at_a_time(model, batch, decoder_start, with_greedy)
    else:
        _score_together(model, batch, decoder_start, pad_id, max_tokens, method, with_greedy)
    return batch.results(with_greedy)


class _Batch:
    """The distinct choices of all prompts in a row, and what is known of them so far."""

    def __init__(self, questions: Sequence[Question], device: torch.device) -> None:
        self.questions = questions
        self.distinct = [list(dict.fromkeys(question.choices)) for question in questions]
        self.choices = [choice for row in self.distinct for choice in row]
        self.owner_C = torch.tensor([p for p, row in enumerate(self.distinct) for _ in row], device=device)
        self.score_C = torch.zeros(len(self.choices), device=device)
        self.greedy_C = torch.ones(len(self.choices), dtype=torch.bool, device=device)

    def results(self, with_greedy: bool) -> list[list[ChoiceScore]]:
        """Per prompt, in the order of its choices."""
        sums = iter(self.score_C.tolist())
        greedy: Iterator[bool | None] = iter(self.greedy_C.tolist()) if with_greedy else repeat(None)
        results = []
        for question, row in zip(self.questions, self.distinct, strict=True):
            scores = {choice: ChoiceScore(next(sums), len(choice), next(greedy)) for choice in row}
            results.append([scores[choice] for choice in question.choices])
        return results


def _score_together(
    model: PreTrainedModel, batch: _Batch, decoder_start: Sequence[int], pad_id: int, max_tokens: int,
    method: Method, with_greedy: bool,
) -> None:  # fmt: skip
    device, choices = model.device, batch.choices
    shared = min(shared_prefix_length(row) for row in batch.distinct)
    source_PS, mask_PS = pad_right([question.source for question in batch.questions], pad_id, device)
    encoded = model.get_encoder()(input_ids=source_PS, attention_mask=mask_PS)
    prefix_PT, _ = pad_right([[*decoder_start, *row[0][:shared]] for row in batch.distinct], pad_id, device)
    prefix = model(encoder_outputs=encoded, attention_mask=mask_PS, decoder_input_ids=prefix_PT, use_cache=True)
    if not isinstance(prefix.past_key_values, EncoderDecoderCache):
        raise TypeError(f"{type(model).__name__} returns no EncoderDecoderCache from its decoder")

    first_CT = torch.tensor([choice[: shared + 1] for choice in choices], device=device)
    step_T = torch.arange(shared + 1, device=device)
    log_p_PTV = prefix.logits[:, len(decoder_start) - 1 :].float().log_softmax(-1)
    batch.score_C += log_p_PTV[batch.owner_C[:, None], step_T, first_CT].sum(-1)
    if with_greedy:
        batch.greedy_C &= (log_p_PTV.argmax(-1)[batch.owner_C] == first_CT).all(-1)

    sharing = method is Method.SHARED_KEYS and model.config._attn_implementation == "sdpa"
    unfinished = [c for c, choice in enumerate(choices) if len(choice) > shared + 1]
    copied = 0 if sharing else source_PS.shape[1]
    lengths = [TARGET_TOKEN * (len(choices[c]) - shared - 1) + copied for c in unfinished]
    for indices in length_sorted_batches(lengths, max_tokens):
        group = sorted(unfinished[index] for index in indices)
        rows_C = batch.owner_C[group]
        prompts_P, member_C = rows_C.unique(return_inverse=True) if sharing else (rows_C, torch.arange(len(group)))
        target_CT, target_mask_CT = pad_right([choices[c][shared:] for c in group], pad_id, device)
        with SharedCrossAttention(member_C.to(device)) if sharing else nullcontext():
            rest = model(
                encoder_outputs=_of_rows(encoded, len(group)),
                attention_mask=mask_PS.index_select(0, rows_C),
                decoder_input_ids=target_CT[:, :-1],
                past_key_values=_select_rows(prefix.past_key_values, rows_C, prompts_P),
                use_cache=True,
            )
        expected_CT, counted_CT = target_CT[:, 1:], target_mask_CT[:, 1:].bool()
        batch.score_C[group] += (_log_p(rest.logits, expected_CT) * counted_CT).sum(-1)
        if with_greedy:
            batch.greedy_C[group] &= ((rest.logits.argmax(-1) == expected_CT) | ~counted_CT).all(-1)


def _score_one_at_a_time(
    model: PreTrainedModel, batch: _Batch, decoder_start: Sequence[int], with_greedy: bool
) -> None:
    """From the definition, for decoders that take no cache or do not mask the future with one."""
    device, number = model.device, 0
    for question, row in zip(batch.questions, batch.distinct, strict=True):
        source = torch.tensor([question.source], device=device)
        mask = torch.ones_like(source)
        encoded = model.get_encoder()(input_ids=source, attention_mask=mask)
        for choice in row:
            given = torch.tensor([[*decoder_start, *choice[:-1]]], device=device)
            # FSMT hides the future from its decoder only where it is given the source's ids, too.
            inputs = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": given}
            output = model(**inputs, encoder_outputs=encoded, use_cache=False)
            logits, expected = output.logits[:, len(decoder_start) - 1 :], torch.tensor([choice], device=device)
            batch.score_C[number] = _log_p(logits, expected).sum()
            if with_greedy:
                batch.greedy_C[number] = (logits.argmax(-1) == expected).all()
            number += 1


def _log_p(logits_CTV: Tensor, ids_CT: Tensor) -> Tensor:
    """(C, T) float32 log-probabilities of the given tokens."""
    losses = F.cross_entropy(logits_CTV.flatten(0, 1).float(), ids_CT.flatten(), reduction="none")
    return -losses.view_as(ids_CT)


def _of_rows(encoded: ModelOutput, rows: int) -> ModelOutput:
    """The encoder's output for as many rows as the mask has. It is not read, its keys being in the cache."""
    found = copy.copy(encoded)
    found["last_hidden_state"] = encoded[0][:1].expand(rows, -1, -1)
    return found


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
    ids = torch.from_numpy(pad_rows(rows, pad_id))
    lengths = torch.tensor([*map(len, rows)])  # the padding id may be that of a token
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids.to(device), mask.to(device)


class SharedCrossAttention(TorchFunctionMode):
    """Within it, C rows of queries attend to the keys and values of P <= C prompts, which are nowhere repeated.

    The queries of a prompt's choices are laid side by side: G choices of T tokens are G * T queries. Any model can
    be run in it whose attention is `torch.nn.functional.scaled_dot_product_attention`; calls in which queries and keys
    have as many rows (self-attention) are left alone.
    """

    def __init__(self, prompt_C: Tensor) -> None:
        """prompt_C: the prompt of each choice, counted from 0, ascending and without gaps."""
        super().__init__()
        counts_P = prompt_C.bincount()
        self.prompt_C = prompt_C
        self.place_C = torch.arange(len(prompt_C), device=prompt_C.device) - (counts_P.cumsum(0) - counts_P)[prompt_C]
        # A prompt with fewer choices than others repeats its last one, and nobody reads what comes out.
        first_P = counts_P.cumsum(0) - counts_P
        place_G = torch.arange(int(counts_P.max()), device=prompt_C.device)
        self.choice_PG = first_P[:, None] + torch.minimum(place_G, counts_P[:, None] - 1)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by torch for every function while the mode is on."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and args[0].size(0) != args[1].size(0):
            return self._attend(*args, **kwargs)
        return function(*args, **kwargs)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **settings: Any) -> Tensor:
        """q (C, H, T, K), k and v (P, H, S, K), attn_mask to be broadcast to (C, H, T, S) -> (C, H, T, K)."""
        if attn_mask is not None:
            attn_mask = self._side_by_side(attn_mask.expand(q.size(0), -1, q.size(2), -1))
        attended = F.scaled_dot_product_attention(self._side_by_side(q), k, v, attn_mask=attn_mask, **settings)
        found: Tensor = attended.unflatten(2, (-1, q.size(2)))[self.prompt_C, :, self.place_C]
        return found

    def _side_by_side(self, x: Tensor) -> Tensor:
        """(C, H, T, K) -> (P, H, G * T, K)."""
        return x[self.choice_PG].transpose(1, 2).flatten(2, 3)


def _select_rows(cache: EncoderDecoderCache, rows_C: Tensor, prompts_P: Tensor) -> EncoderDecoderCache:
    """A new cache: self-attention of the rows `rows_C`, cross-attention of the rows `prompts_P` of the old one."""

    def selected(part: Cache, rows: Tensor) -> Cache:
        part = copy.copy(part)
        part.layers = [copy.copy(layer) for layer in part.layers]
        for layer in part.layers:
            layer.keys = layer.keys.index_select(0, rows)
            layer.values = layer.values.index_select(0, rows)
        return part

    own, cross = cache.self_attention_cache, cache.cross_attention_cache
    return EncoderDecoderCache(selected(own, rows_C), selected(cross, prompts_P))
