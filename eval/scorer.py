"""A model with everything that scoring needs: text in, scores of answer choices out."""

from __future__ import annotations

from collections.abc import Sequence

from eval.batching import run_batches
from eval.encoding import QuestionEncoder
from eval.loading import LoadedModel, decoder_start_ids
from eval.methods import choose_method
from eval.ranking import ChoiceScore, Question, score_choices
from eval.settings import MAX_TOKENS, ScoringSettings
from metro_t0.errors import UserError
from metro_t0.progress import progress


class ChoiceScorer:
    """A model, its tokenizer and a token budget."""

    def __init__(self, loaded: LoadedModel, settings: ScoringSettings, max_tokens: int | None = None) -> None:
        """max_tokens: default by device. Raises `UserError` for a model that cannot be scored (see `eval.methods`)."""
        self.model = loaded.model
        self.decoder_start = decoder_start_ids(loaded.model)
        self.encoder = QuestionEncoder(
            loaded.tokenizer,
            settings.max_source_tokens,
            settings.max_choice_tokens,
            begins_by_force=len(self.decoder_start) > 1,
        )
        end, pad = int(loaded.tokenizer.eos_token_id), loaded.tokenizer.pad_token_id
        self.pad_id = int(pad if pad is not None else end)
        self.max_tokens = max_tokens or MAX_TOKENS[self.model.device.type]
        self.method = choose_method(self.model, self.decoder_start, self.pad_id, end, settings.max_source_tokens)

    def score(
        self, sources: Sequence[str], choices: Sequence[Sequence[str]], description: str | None = None
    ) -> tuple[list[list[ChoiceScore]], list[int]]:
        """Scores of every choice of every prompt, and the prompts' lengths in tokens."""
        questions = self.encoder.encode(sources, choices)
        scores = self.score_questions(questions, self.decoder_start, description)
        return scores, [len(question.source) for question in questions]

    def score_questions(
        self,
        questions: Sequence[Question],
        decoder_start: Sequence[int],
        description: str | None = None,
        with_greedy: bool = False,
    ) -> list[list[ChoiceScore]]:
        """Scores of every choice of every question, in batches of similar length.

        description: of the progress bar; None: none. Raises `UserError` for prompts that are too long for the model.
        """
        lengths = [len(question.source) for question in questions]
        scores: list[list[ChoiceScore]] = [[] for _ in questions]

        def work(batch: list[int], max_tokens: int) -> None:
            self.max_tokens = max_tokens  # what fitted once is kept for the next template
            of_batch = [questions[i] for i in batch]
            try:
                found = score_choices(
                    self.model, of_batch, decoder_start, self.pad_id, max_tokens, self.method, with_greedy
                )
            except IndexError:
                raise UserError(
                    f"a prompt of {max(lengths[i] for i in batch)} tokens, or a choice of "
                    f"{max(len(choice) for q in of_batch for choice in q.choices)}, is longer than the model's table "
                    "of positions; give a smaller --max-source-tokens or --max-choice-tokens"
                ) from None
            for i, row in zip(batch, found, strict=True):
                scores[i] = row

        done = (i for batch in run_batches(lengths, self.max_tokens, work) for i in batch)
        for _ in progress(done, description, len(questions), "questions") if description else done:
            pass
        return scores
