"""The tokenizer: text to fairseq ids and back."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, processors
from tokenizers import Tokenizer as RustTokenizer

from metro_t0.errors import UserError
from metro_t0.files import atomic_path, read_json
from metro_t0.tokenization.encoder import RustEncoder, flatten
from metro_t0.tokenization.normalization import WORD_MARK, word_splitter
from metro_t0.tokenization.sentencepiece_model import convert, read_sentencepiece_model
from metro_t0.tokenization.vocabulary import (
    BOS,
    BOS_ID,
    EOS,
    EOS_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    UNK_ID,
    Vocabulary,
    sentinel,
)
from metro_t0.tokenization.word_cache import WordCache

DICT_NAME = "dict.txt"
TOKENIZER_NAME = "tokenizer.json"
SENTENCEPIECE_NAME = "sp.model"
# Less text is encoded sooner without the word table.
MIN_CHARACTERS = 400


class Tokenizer:
    """Normalization, pieces and ids of one vocabulary directory.

    The directory holds dict.txt and either tokenizer.json (Rust `tokenizers`) or sp.model (the METRO-T0 release,
    converted while loading). Ids are fairseq's: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, then the lines of dict.txt.
    All text is plain text: "</s>" in it is four characters, not the token.
    """

    bos_id, pad_id, eos_id, unk_id = BOS_ID, PAD_ID, EOS_ID, UNK_ID

    def __init__(self, directory: Path, vocabulary: Vocabulary, rust: RustTokenizer) -> None:
        self.directory = directory
        self.vocabulary = vocabulary
        self._tokens = vocabulary.tokens()
        self._rust = complete(rust)
        self._encoder = RustEncoder(self._rust)
        self._cache = WordCache(self._encoder)

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Load a vocabulary directory. Raises `UserError` where files are missing or do not belong together."""
        directory = Path(directory)
        vocabulary = Vocabulary.read(directory / DICT_NAME)
        json_path, model_path = directory / TOKENIZER_NAME, directory / SENTENCEPIECE_NAME
        if json_path.is_file():
            return cls(directory, vocabulary, _read_tokenizer_json(json_path, vocabulary))
        if model_path.is_file():
            return cls(directory, vocabulary, convert(read_sentencepiece_model(model_path), vocabulary, model_path))
        raise UserError(f"{directory}: holds neither {TOKENIZER_NAME} nor {SENTENCEPIECE_NAME}")

    @property
    def dict_path(self) -> Path:
        """The vocabulary file."""
        return self.directory / DICT_NAME

    @property
    def fingerprint(self) -> str:
        """SHA-256 of dict.txt, hexadecimal."""
        return self.vocabulary.fingerprint

    @property
    def rules_fingerprint(self) -> str:
        """SHA-256 of the normalization and the model, hexadecimal."""
        return hashlib.sha256(self._rust.to_str().encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        """Ids of the pieces of a text, without `<s>` and `</s>`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without `<s>` and `</s>`."""
        ids, sizes = self.encode_flat(texts)
        flat, ends = ids.tolist(), np.cumsum(sizes).tolist()
        return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def encode_flat(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all texts back to back, (total,) int32, and the number of ids of each text, (texts,) int64."""
        if sum(map(len, texts)) < MIN_CHARACTERS:
            return flatten(self._encoder.encode_texts(list(texts)))
        return self._cache.encode(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids: pieces joined, word marks turned into spaces; special tokens and sentinels are skipped."""
        first, end = len(SPECIAL_TOKENS), len(self._tokens)
        return "".join(self._tokens[i] for i in ids if first <= i < end).replace(WORD_MARK, " ").strip()

    def to_fast(self, num_sentinels: int = 0) -> RustTokenizer:
        """A separate Rust tokenizer for Hugging Face: sentinels after the pieces, `<s>` and `</s>` around a text.

        Other than `encode`, it reads the names of special tokens in a text as these tokens.
        """
        fast = RustTokenizer.from_str(self._rust.to_str())
        fast.add_special_tokens([_special(sentinel(index)) for index in range(num_sentinels)])
        return fast

    def save(self, directory: str | Path) -> None:
        """Write dict.txt and tokenizer.json (which `transformers` loads too) into a directory."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(directory / TOKENIZER_NAME) as temporary:
            self._rust.save(str(temporary))
        with atomic_path(directory / DICT_NAME) as temporary:
            shutil.copyfile(self.dict_path, temporary)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Path, Vocabulary, RustTokenizer]]:
        return Tokenizer, (self.directory, self.vocabulary, self._rust)


def complete(rust: RustTokenizer) -> RustTokenizer:
    """Give a normalizer and model the parts that all vocabularies share: splitting, decoding, special tokens."""
    rust.pre_tokenizer = word_splitter()
    rust.decoder = decoders.Metaspace(replacement=WORD_MARK, prepend_scheme="always")
    rust.add_special_tokens([_special(token) for token in SPECIAL_TOKENS])
    rust.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", pair=f"{BOS} $A {EOS} {EOS} $B {EOS}", special_tokens=[(BOS, BOS_ID), (EOS, EOS_ID)]
    )
    return rust


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


class Model(TypedDict):
    """The model of a tokenizer.json, of either kind."""

    type: Literal["BPE", "Unigram"]
    continuing_subword_prefix: NotRequired[Literal["", None]]
    end_of_word_suffix: NotRequired[Literal["", None]]
    unk_token: NotRequired[str | None]
    dropout: NotRequired[None]


class TokenizerFile(TypedDict):
    """A tokenizer.json."""

    normalizer: dict[str, Any]
    model: Model


def _read_tokenizer_json(path: Path, vocabulary: Vocabulary) -> RustTokenizer:
    read_json(path, TokenizerFile)  # of another shape, the Rust side may panic instead of raising
    try:
        rust = RustTokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises Exception itself, whatever is wrong
        raise UserError(f"{path}: not a tokenizer file ({error})") from None
    for index, token in enumerate(vocabulary.tokens()):
        if rust.token_to_id(token) != index:
            raise UserError(
                f"{path}: {token!r} has id {rust.token_to_id(token)}, in {DICT_NAME} it is {index}; "
                "the two files do not belong together"
            )
    pieces = rust.get_vocab_size(with_added_tokens=False)
    if pieces > len(vocabulary):
        raise UserError(
            f"{path}: has {pieces} pieces, {DICT_NAME} {len(vocabulary)}; the two files do not belong together"
        )
    return rust
