"""Which of the ways to score (`eval.ranking.Method`) computes a model's true scores: tried on a probe, not looked up.

"Any encoder-decoder model" includes decoders that mix both attentions (T5Gemma 2), that take one token at a time from a
cache (ProphetNet), or that read the future where there is one (FSMT), and classes that came with a model.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from eval.batching import is_out_of_memory
from eval.ranking import ChoiceScore, Method, Question, score_choices
from metro_t0.errors import UserError, one_line

logger = logging.getLogger(__name__)

SHORT_PROMPTS = (3, 17)
PROBE_CHOICES = ((0, 3), (0, 1), (3, 2))
"""Of each choice, the tokens it has in common with others and its own."""
TOLERANCE = 1e-3
HALF_PRECISION_TOLERANCE = 0.05
"""Relative to the score; what rounding in 8 bits makes of equal computations in another order."""
POSITIONS = ("max_encoder_position_embeddings", "max_position_embeddings", "max_positions")


def choose_method(
    model: PreTrainedModel, decoder_start: Sequence[int], pad_id: int, end_id: int, longest: int
) -> Method:
    """The fastest method whose scores of a few prompts equal those of the whole model on one pair at a time.

    longest: tokens of the longest prompt that will be scored; one of the prompts has that many.
    Raises `UserError` for a model that cannot be scored, or whose scores change from call to call.
    """
    _use_full_attention(model)
    questions = probe(model, end_id, longest)
    expected = _flat(_reference(model, questions, decoder_start, pad_id))
    if not expected.isfinite().all():
        return Method.SHARED_KEYS  # no number to compare; scoring counts such prompts and refuses them
    for method in (Method.SHARED_KEYS, Method.COPIED_KEYS):
        try:
            found = _flat(score_choices(model, questions, decoder_start, pad_id, 10_000, method))
        except Exception as error:  # of a class that nobody here may know
            if is_out_of_memory(error):
                raise
            logger.debug("%s: %s: %s", type(model).__name__, method.name, error)
            continue
        if _agree(found, expected, model.dtype):
            return method
    again = _flat(_reference(model, questions, decoder_start, pad_id))
    if not _agree(again, expected, model.dtype):
        raise UserError(
            f"{type(model).__name__}: the scores of one prompt differ by {float((again - expected).abs().max()):.2g} "
            "between two calls, so they are no scores; is something in it drawn at random?"
        )
    logger.warning("%s: scored one prompt and one choice at a time, which is slow", type(model).__name__)
    return Method.ONE_AT_A_TIME


def probe(model: PreTrainedModel, end_id: int, longest: int) -> list[Question]:
    """Prompts of three lengths with choices that share beginnings, of arbitrary tokens."""
    draw = random.Random(0)
    size = model.get_input_embeddings().num_embeddings
    positions = [value for name in POSITIONS if isinstance(value := getattr(model.config, name, None), int)]
    limit = min([longest, *positions]) - 2

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(size // 2, size) for _ in range(count))

    questions = []
    for length in (*SHORT_PROMPTS, max(limit, 1)):
        common = tokens(max(shared for shared, _ in PROBE_CHOICES))
        choices = [(*common[:shared], *tokens(own), end_id) for shared, own in PROBE_CHOICES]
        questions.append(Question([*tokens(min(length, max(limit, 1))), end_id], choices))
    return questions


def _reference(
    model: PreTrainedModel, questions: Sequence[Question], decoder_start: Sequence[int], pad_id: int
) -> list[list[ChoiceScore]]:
    try:
        return score_choices(model, questions, decoder_start, pad_id, 1, Method.ONE_AT_A_TIME)
    except Exception as error:  # of a class that nobody here may know
        if is_out_of_memory(error) or isinstance(error, UserError):
            raise
        reason = one_line(str(error))[:200] or type(error).__name__
        raise UserError(f"{type(model).__name__}: a text model of this class cannot be scored: {reason}") from None


def _flat(scores: Sequence[Sequence[ChoiceScore]]) -> torch.Tensor:
    return torch.tensor([score.log_probability for row in scores for score in row], dtype=torch.float64)


def _agree(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    relative = 1e-5 if dtype == torch.float32 else HALF_PRECISION_TOLERANCE
    absolute = TOLERANCE if dtype == torch.float32 else 10 * HALF_PRECISION_TOLERANCE
    return torch.allclose(found, expected, rtol=relative, atol=absolute)


def _use_full_attention(model: PreTrainedModel) -> None:
    """BigBird draws its block-sparse pattern by the padded length, and leaves it for good at the first short text."""
    for module in model.modules():
        if hasattr(module, "set_attention_type") and getattr(module, "attention_type", None) == "block_sparse":
            module.set_attention_type("original_full")
