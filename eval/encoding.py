"""Text to token ids: prompts and answer choices for rank classification."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from eval.ranking import Question
from metro_t0.errors import UserError

TEXTS_PER_CALL = 2048


@dataclass
class QuestionEncoder:
    """Encodes prompts and choices; every distinct choice text is tokenized once in a run.

    A choice is its tokens and the end token. A start token that the tokenizer puts before it is taken off: what
    the decoder reads first is the model's matter (`eval.loading.decoder_start_ids`). So is a language before it
    (mBART-50, NLLB) where generation is forced to begin with one.
    """

    tokenizer: PreTrainedTokenizerBase
    max_source_tokens: int = 512
    """Most tokens of a prompt, special tokens included; the rest is cut off at the tokenizer's `truncation_side`."""
    max_choice_tokens: int = 256
    """Most tokens of a choice, end token included."""
    begins_by_force: bool = False
    """Whether the model reads a first token that generation is forced to write."""
    _choice_ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def _starts(self) -> set[int | None]:
        """What is taken off the beginning of a choice."""
        tokenizer = self.tokenizer
        specials = tokenizer.all_special_ids if self.begins_by_force else ()
        return {tokenizer.bos_token_id, *specials} - {tokenizer.eos_token_id, tokenizer.unk_token_id}

    def encode(self, sources: Sequence[str], choices: Sequence[Sequence[str]]) -> list[Question]:
        """One `Question` per prompt, choices in their order."""
        self._learn_choices(choice for row in choices for choice in row)
        return [
            Question(source, [self._choice_ids[choice] for choice in row])
            for source, row in zip(self._encode_sources(sources), choices, strict=True)
        ]

    def _encode_sources(self, sources: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = []
        for start in range(0, len(sources), TEXTS_PER_CALL):
            part = list(sources[start : start + TEXTS_PER_CALL])
            ids += self.tokenizer(part, truncation=True, max_length=self.max_source_tokens)["input_ids"]
        if not all(ids):
            raise UserError(f"the tokenizer of {self.tokenizer.name_or_path} gives no token for a prompt; is it whole?")
        return ids

    def _learn_choices(self, choices: Iterable[str]) -> None:
        new = list(dict.fromkeys(choice for choice in choices if choice not in self._choice_ids))
        for start in range(0, len(new), TEXTS_PER_CALL):
            part = new[start : start + TEXTS_PER_CALL]
            for text, ids in zip(part, self.tokenizer(text_target=part)["input_ids"], strict=True):
                self._choice_ids[text] = self._frame(ids)

    def _frame(self, ids: list[int]) -> tuple[int, ...]:
        end = self.tokenizer.eos_token_id
        if ids and ids[0] in self._starts:
            ids = ids[1:]
        if end in ids[-2:]:  # mBART writes the language behind the end
            ids = ids[: len(ids) - 1 - ids[::-1].index(end)]
        return (*ids[: self.max_choice_tokens - 1], end)
