"""The project's tokenizer as a fast (Rust) tokenizer of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizerFast

from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.vocabulary import BOS, EOS, PAD, UNK


class MetroT5TokenizerFast(PreTrainedTokenizerFast):
    """One class for our own vocabularies and the released ones; `<s> ... </s>` around every text.

    Everything it does is written into tokenizer.json and tokenizer_config.json, so that a plain
    `PreTrainedTokenizerFast` gives the same ids where this package is not installed. Text is plain text: "</s>" in it
    is four characters; load with `split_special_tokens=False` to have it read as the token.
    """

    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]

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
