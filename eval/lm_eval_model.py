"""A model class for lm-evaluation-harness: its tasks, the scoring of `eval.ranking`.

    python -m eval.harness --model metro-t0 --model_args pretrained=my_model/ --tasks hellaswag,arc_easy

It is the harness's own `hf` class but for log-likelihoods: the choices of a context are grouped, so that the context is
encoded once and the tokens that the choices share are decoded once. Two ways to score, `scoring=` in --model_args:

    harness   what `--model hf` computes: the tokens of a choice alone; a context that is too long loses its beginning
    metro     what metro-t0-eval computes: the end token is part of a choice; a context that is too long loses its end;
              a first token that generation is forced to write (BART's <s>) is read before the choice

The default is `metro` where the tokenizer reads the text of the end token as plain text, as METRO's does: no task can
write that token into a choice there. Otherwise it is `harness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from eval.loading import LoadedModel
from eval.ranking import ChoiceScore, Question, check_finite
from eval.scorer import ChoiceScorer
from eval.settings import ScoringSettings
from metro_t0.errors import UserError
from metro_t0.hf.loading import load_seq2seq

HARNESS, METRO = "harness", "metro"
Answer = tuple[float, bool]
"""Log-probability, and whether greedy decoding writes the choice."""


class _CompleteModels:
    """In place of transformers' Auto class while the model is loaded: all of its weights or an error."""

    from_pretrained = staticmethod(load_seq2seq)


@register_model("metro-t0")
class MetroT0LM(HFLM):
    """Any encoder-decoder model, scored by `eval.ranking`."""

    AUTO_MODEL_CLASS: Any = None

    def __init__(self, pretrained: Any, scoring: str | None = None, max_tokens: int | None = None, **options: Any):
        """Options are those of the harness's `hf` class; its `batch_size` counts for generation only.

        scoring: harness or metro, see above. max_tokens: token budget of a batch (default: by device).
        Raises `UserError` for another `scoring`, or a model that is not encoder-decoder or cannot be scored.
        """
        if scoring not in (None, HARNESS, METRO):
            raise UserError(f"scoring={scoring}: give {HARNESS} or {METRO}")
        super().__init__(pretrained, **{**options, "backend": "seq2seq"})
        if not self.config.is_encoder_decoder:
            raise UserError(f"{pretrained}: a {self.config.model_type} model is not encoder-decoder; take --model hf")
        self.scoring = scoring or (HARNESS if self._reads_end_token() else METRO)
        settings = ScoringSettings(max_source_tokens=self._max_length or ScoringSettings.max_source_tokens)
        loaded = LoadedModel(self.model, self.tokenizer, {})
        self.scorer = ChoiceScorer(loaded, settings, int(max_tokens) if max_tokens else None)

    def _create_model(self, *arguments: Any, **options: Any) -> None:
        auto, self.AUTO_MODEL_CLASS = self.AUTO_MODEL_CLASS, _CompleteModels
        try:
            super()._create_model(*arguments, **options)
        finally:
            self.AUTO_MODEL_CLASS = auto

    def _reads_end_token(self) -> bool:
        ids = self.tokenizer.encode(str(self.tokenizer.eos_token), add_special_tokens=False)
        return bool(ids == [self.tokenizer.eos_token_id])

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Answer]:
        """Answers to requests whose arguments are a context and a continuation, as texts."""
        if self.scoring == HARNESS:
            answers: list[Answer] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
            return answers
        end = str(self.tokenizer.eos_token)
        pairs = [(context, text.removesuffix(end)) for context, text in (request.args for request in requests)]
        groups = _grouped(pairs)
        questions = self.scorer.encoder.encode(list(groups), [[text for _, text in rows] for rows in groups.values()])
        answers = self._answers(questions, list(groups.values()), self.scorer.decoder_start, disable_tqdm)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_ignored: Any
    ) -> list[Answer]:
        """Answers to encoded contexts and continuations, as the harness's own class returns them."""
        groups = _grouped([(tuple(context), tuple(ids)) for _, context, ids in requests])
        questions = [
            Question(context[-self.max_length :], [ids for _, ids in rows]) for context, rows in groups.items()
        ]
        answers = self._answers(questions, list(groups.values()), self.scorer.decoder_start[:1], disable_tqdm)
        for (texts, *_encoded), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _answers(
        self, questions: Sequence[Question], groups: Sequence[Sequence[tuple[int, Any]]], start: Sequence[int],
        quiet: bool,
    ) -> list[Answer]:  # fmt: skip
        """Scores back in the order of the requests. groups: of each question, the requests' numbers by choice."""
        title = None if quiet or self.rank else "contexts"
        scores = self.scorer.score_questions(questions, start, title, with_greedy=True)
        check_finite("log-likelihoods", scores, self.model.dtype)
        by_request: dict[int, ChoiceScore] = {}
        for rows, of_choices in zip(groups, scores, strict=True):
            by_request |= {number: score for (number, _), score in zip(rows, of_choices, strict=True)}
        found = [by_request[number] for number in range(len(by_request))]
        return [(score.log_probability, bool(score.is_greedy)) for score in found]


def _grouped(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, list[tuple[int, Any]]]:
    """Context -> (number of the pair, continuation), contexts in order of first appearance."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for number, (context, continuation) in enumerate(pairs):
        groups.setdefault(context, []).append((number, continuation))
    return groups
