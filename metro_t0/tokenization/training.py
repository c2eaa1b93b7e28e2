"""Training a BPE vocabulary with the Rust trainer of `tokenizers`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, trainers

from metro_t0.errors import UserError
from metro_t0.files import atomic_path
from metro_t0.progress import working
from metro_t0.tokenization.normalization import WORD_MARK, build_normalizer, nfkc, word_splitter
from metro_t0.tokenization.settings import BpeSettings
from metro_t0.tokenization.tokenizer import DICT_NAME, TOKENIZER_NAME, Tokenizer, complete
from metro_t0.tokenization.vocabulary import SPECIAL_TOKENS, UNK, write_vocabulary

# Characters per string handed to the Rust trainer, which works on many strings in parallel.
CHARACTERS_PER_BATCH = 1 << 16
# Names of special tokens and sentinels, but for their last character. In "a</s>b" the trainer would merge a piece of
# that name, which has the special token's id already.
RESERVED = re.compile(rf"({'|'.join(token[:-1] for token in SPECIAL_TOKENS)}|<sen\d+)>")


def train_bpe(raw_words: Counter[str], settings: BpeSettings, directory: Path) -> Tokenizer:
    """Train on white-space separated words and their counts; write dict.txt and tokenizer.json into `directory`.

    dict.txt gives the count of each piece in the training text. Raises `UserError` where there are no words or they
    do not give `vocab_size` pieces.
    """
    words = _normalized_counts(raw_words, settings)
    if not words:
        raise UserError("no text to train a vocabulary on: the input holds no words")
    alphabet = _alphabet(words, settings.character_coverage)
    if len(SPECIAL_TOKENS) + len(alphabet) > settings.vocab_size:
        raise UserError(
            f"--vocab-size {settings.vocab_size} is too small: {len(alphabet)} single characters are needed for "
            f"--character-coverage {settings.character_coverage}; lower the coverage or raise the size"
        )
    rust = _train(words, alphabet, settings)
    if rust.get_vocab_size() < settings.vocab_size:
        raise UserError(
            f"--vocab-size {settings.vocab_size} is larger than the text can give: it gives "
            f"{rust.get_vocab_size()} pieces; give more text or a smaller size"
        )
    return _save(rust, words, directory)


def _normalized_counts(raw: Counter[str], settings: BpeSettings) -> Counter[str]:
    """Counts of normalized words, each with its word mark; a reserved name is cut, so that no piece is one."""
    normalizer = build_normalizer(nfkc(), settings.lowercase)
    counts: Counter[str] = Counter()
    for word, count in raw.items():
        for part in RESERVED.sub(rf"\1{WORD_MARK}>", normalizer.normalize_str(word)).split(WORD_MARK):
            if part:
                counts[WORD_MARK + part] += count
    return counts


def _alphabet(words: Counter[str], coverage: float) -> list[str]:
    """The most frequent characters, as many as cover the text, sorted; the word mark is always among them."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    needed = coverage * counts.total()
    kept, covered = {WORD_MARK}, 0
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= needed:
            break
        kept.add(character)
        covered += count
    return sorted(kept)


def _train(words: Counter[str], alphabet: list[str], settings: BpeSettings) -> RustTokenizer:
    rust = RustTokenizer(models.BPE(unk_token=UNK, fuse_unk=True))
    rust.pre_tokenizer = word_splitter()  # the words are normalized already
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    with working(f"merge pieces into a vocabulary of {settings.vocab_size:,}"):
        rust.train_from_iterator(_repeated(words), trainer)
    rust.normalizer = build_normalizer(nfkc(), settings.lowercase)
    return rust


def _repeated(words: Counter[str]) -> Iterator[str]:
    """Each word as often as it occurred: the trainer counts words itself and takes no counts."""
    for word, count in sorted(words.items()):
        at_once = max(1, CHARACTERS_PER_BATCH // len(word))
        for start in range(0, count, at_once):
            yield word * min(at_once, count - start)


def _save(rust: RustTokenizer, words: Counter[str], directory: Path) -> Tokenizer:
    directory.mkdir(parents=True, exist_ok=True)
    pieces = sorted(rust.get_vocab().items(), key=lambda item: item[1])[len(SPECIAL_TOKENS) :]
    counts = _piece_counts(rust, words)
    complete(rust)
    with atomic_path(directory / TOKENIZER_NAME) as temporary:
        rust.save(str(temporary))
    write_vocabulary(directory / DICT_NAME, ((piece, counts[index]) for piece, index in pieces))
    return Tokenizer.load(directory)


def _piece_counts(rust: RustTokenizer, words: Counter[str]) -> Counter[int]:
    """How often each piece occurs in the training text."""
    bare = RustTokenizer(rust.model)
    counts: Counter[int] = Counter()
    for encoding, count in zip(bare.encode_batch_fast(list(words)), words.values(), strict=True):
        for index in encoding.ids:
            counts[index] += count
    return counts
