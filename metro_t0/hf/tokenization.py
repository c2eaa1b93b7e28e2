"""The project's tokenizer as a fast (Rust) tokenizer of `transformers`, with the word table for plain batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tokenizers import processors
from transformers import BatchEncoding, PreTrainedTokenizerFast

from metro_t0.hf.plain_batches import Options, PlainBatch, as_lists, as_table, frame, is_large_batch, truncate
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.encoder import RustEncoder
from metro_t0.tokenization.vocabulary import BOS, EOS, PAD, UNK
from metro_t0.tokenization.word_cache import WordCache


class MetroT5TokenizerFast(PreTrainedTokenizerFast):
    """One class for our own vocabularies and the released ones; `<s> ... </s>` around every text.

    Everything it does is written into tokenizer.json and tokenizer_config.json, so that a plain
    `PreTrainedTokenizerFast` gives the same ids where this package is not installed. Text is plain text: "</s>" in it
    is four characters; load with `split_special_tokens=False` to have it read as the token.

    A large list of texts is encoded through the word table of `metro_t0.tokenization`, many times faster, to the same
    result. All other calls (one text, pairs, words, offsets, overflowing tokens, special tokens read from text) are
    those of `transformers`. Replacing the model inside `backend_tokenizer` after such a call is not noticed.
    """

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    _words: WordCache | None = None
    _of_sources: Any = None  # the post-processor of sources, while targets are encoded
    _rules: tuple[bytes, ...] = ()  # of the backend when the word table was made

    @classmethod
    def from_vocabulary(cls, vocabulary: Tokenizer | str | Path, num_sentinels: int = 0, max_length: int | None = None,
                        ) -> MetroT5TokenizerFast:  # fmt: skip
        """From a tokenizer or a directory with dict.txt and tokenizer.json or sp.model.

        num_sentinels: sentinels after the pieces, so that all ids of a model have a name. max_length: where texts are
        cut when truncation is asked for.
        """
        tokenizer = vocabulary if isinstance(vocabulary, Tokenizer) else Tokenizer.load(vocabulary)
        settings = {} if max_length is None else {"model_max_length": max_length}
        return cls(
            tokenizer_object=tokenizer.to_fast(num_sentinels),
            bos_token=BOS, pad_token=PAD, eos_token=EOS, unk_token=UNK,
            split_special_tokens=True,
            clean_up_tokenization_spaces=False,
            model_input_names=list(cls.model_input_names),
            **settings,
        )  # fmt: skip

    def _switch_to_target_mode(self) -> None:
        """`text_target` has no `<s>`: targets are as fine-tuning makes them, pieces and `</s>`."""
        backend = self._tokenizer
        if self._of_sources is None:
            self._of_sources = backend.post_processor
            end = (self.eos_token, self.eos_token_id)
            backend.post_processor = processors.TemplateProcessing(
                single=f"$A {self.eos_token}", pair=f"$A $B {self.eos_token}", special_tokens=[end]
            )

    def _switch_to_input_mode(self) -> None:
        if self._of_sources is not None:
            self._tokenizer.post_processor, self._of_sources = self._of_sources, None

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        def in_rust() -> BatchEncoding:
            return super(MetroT5TokenizerFast, self)._encode_plus(text, text_pair, **options)

        asked = Options.of(options)
        if asked is None or text_pair is not None or not is_large_batch(text) or not self._is_plain(asked):
            return in_rust()
        try:
            return PlainBatch(self._encode_plain(text, asked), in_rust)
        except ValueError:  # half a surrogate pair in a text, or lengths that do not fit: Rust says it as ever
            return in_rust()

    def _is_plain(self, asked: Options) -> bool:
        """Whether the word table gives what is asked for; it is made where there is none for the backend as it is."""
        split = self.split_special_tokens if asked.split_special_tokens is None else asked.split_special_tokens
        if not split or not asked.plain or "token_type_ids" in self.model_input_names:
            return False
        backend = self._tokenizer
        parts = (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
        if any(part is None for part in parts):
            return False
        rules = tuple(part.__getstate__() for part in parts)
        if self._words is not None and rules == self._rules:
            return True
        backend.no_truncation()
        backend.no_padding()
        piece = backend.encode("a", add_special_tokens=False).ids
        framed = backend.encode("a").ids == [self.bos_token_id, *piece, self.eos_token_id]
        if not framed or any(not token.special for token in self.added_tokens_decoder.values()):
            return False
        self._words, self._rules = WordCache(RustEncoder(backend)), rules
        return True

    def _encode_plain(self, texts: list[str], asked: Options) -> dict[str, Any]:
        assert self._words is not None
        # Leaves the backend in the state that it would have.
        self.set_truncation_and_padding(
            asked.padding_strategy, asked.truncation_strategy, asked.max_length, asked.stride,
            asked.pad_to_multiple_of, asked.padding_side,
        )  # fmt: skip
        self._tokenizer.encode_special_tokens = True
        ids, sizes = self._words.encode(texts)
        if asked.room is not None:
            ids, sizes = truncate(ids, sizes, asked.room, self.truncation_side == "left")
        if asked.add_special_tokens:
            ids, sizes = frame(ids, sizes, self.bos_token_id, self.eos_token_id)
        length = asked.row_length(sizes)
        if length is None:
            rows, mask = as_lists(ids, sizes)
        else:
            left = (asked.padding_side or self.padding_side) == "left"
            rows, mask = as_table(ids, sizes, length, self.pad_token_id, left, asked.return_tensors)
        too_long = (size for size in (sizes.tolist() if length is None else [length]) if size > self.model_max_length)
        self._eventual_warn_about_too_long_sequence(range(next(too_long, 0)), asked.max_length, asked.verbose)
        named = "attention_mask" in self.model_input_names
        with_mask = named if asked.return_attention_mask is None else asked.return_attention_mask
        return {"input_ids": rows, "attention_mask": mask} if with_mask else {"input_ids": rows}

    def _add_tokens(self, *arguments: Any, **settings: Any) -> int:
        self._words = None
        added: int = super()._add_tokens(*arguments, **settings)
        return added

    def __getstate__(self) -> dict[str, Any]:
        """Without the word table: it can be large, and what the tokenizer does does not depend on it."""
        return self.__dict__ | {"_words": None, "_rules": ()}
