"""Which token ids the synthetic tasks use: those of T5, of one of our tokenizers, or a compact set without text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError, nearest
from metro_t0.files import read_json
from metro_t0.synthetic.ragged import Ragged
from metro_t0.tokenization.vocabulary import BOS_ID, EOS_ID, PAD_ID, SPECIAL_TOKENS

EXTRA_IDS = 100
LARGEST_SIZE = 2**16 - 1  # blocks hold ids as uint16, the last of which marks padding
NAME_TOKENIZER = "name a directory that holds it (t5:DIRECTORY)"
T5_TABLE = "data/t5_vocabulary.json"
COMPACT_NAMES = (
    "count", "deduplicate", "delete", "duplicate", "dyck", "dyck_sentences", "dyck_uniform", "first_token", "identity",
    "intersect", "last_token", "length", "lime_abduct", "lime_deduct", "lime_induct", "longest_word",
    "longest_word_length", "nonsense_summary", "replace", "reverse", "search", "set", "set1_minus_set2",
    "set2_minus_set1", "sort", "union",
)  # fmt: skip
"""Tasks whose names have ids in every compact vocabulary, in this order, for good: data and models hold these ids."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, eq=False)
class SyntheticVocabulary:
    """Token ids by their role.

    universe_low, universe_size: sequences are drawn from ids universe_low .. universe_low + universe_size - 1.
    size: number of ids; the last 100 of them are the extra ids, `extra(0)` the highest (T5's convention), but for
    `added` ids behind them: names of tasks that came later.
    names: task name -> ids of its prefix. numbers: value -> ids; values not there go through `encode`.
    encode: text to ids, where a tokenizer is at hand (numbers and Nonsense Summary need one).
    word_ids: whole words of generated text get one id of the universe each (a vocabulary without text).
    bos: first token of every source of a model with fairseq's conventions; T5 has none.
    dictionary: dict.txt of the tokenizer, where there is one.
    fingerprint: what a manifest records to tell two vocabularies apart.
    """

    fingerprint: str
    size: int
    universe_size: int
    yes: tuple[int, ...]
    no: tuple[int, ...]
    names: Mapping[str, tuple[int, ...]]
    universe_low: int = len(SPECIAL_TOKENS)
    pad: int = PAD_ID
    eos: int = EOS_ID
    bos: int | None = BOS_ID
    numbers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    encode: Encode | None = None
    word_ids: bool = False
    added: int = 0
    dictionary: str | None = None

    def __post_init__(self) -> None:
        if self.size > LARGEST_SIZE:
            raise UserError(f"vocabulary {self.fingerprint} has {self.size} ids; at most {LARGEST_SIZE} are supported")
        if self.universe_size < 2:
            raise UserError(
                f"vocabulary {self.fingerprint} leaves {self.universe_size} tokens to draw from; at least 2 are needed"
            )

    def extra(self, number: int) -> int:
        """Of the extra ids the highest is 0. The first divides name and input, then come the divider of words, the
        separator of two sequences, and the whole target where the output is empty."""
        return self.size - self.added - 1 - number

    @property
    def task_divider(self) -> int:
        return self.extra(0)

    @property
    def word_divider(self) -> int:
        return self.extra(1)

    @property
    def separator(self) -> int:
        return self.extra(2)

    @property
    def empty(self) -> int:
        return self.extra(3)

    @property
    def source_start(self) -> list[int]:
        """What a model reads before every source. Files do not hold it."""
        return [] if self.bos is None else [self.bos]

    @property
    def decoder_start(self) -> int:
        """First token the decoder reads: T5's padding, fairseq's end of sequence."""
        return self.pad if self.bos is None else self.eos

    @property
    def reserved(self) -> range:
        """All extra ids."""
        return range(self.extra(EXTRA_IDS - 1), self.extra(0) + 1)

    def in_universe(self, token: int) -> bool:
        return self.universe_low <= token < self.universe_low + self.universe_size

    def name(self, task: str) -> tuple[int, ...]:
        """Ids of a task's name. Raises `UserError` where this vocabulary has none for it."""
        if task not in self.names:
            raise UserError(f"vocabulary {self.fingerprint} has no prefix for task {task}; turn the task prefix off")
        return self.names[task]

    def answer(self, value: bool) -> tuple[int, ...]:
        """Ids of yes or no. Raises `UserError` where this vocabulary has none for them."""
        if not (self.yes and self.no):
            raise UserError(f"vocabulary {self.fingerprint} cannot write yes and no, which are answers of this task")
        return self.yes if value else self.no

    def number(self, value: int) -> tuple[int, ...]:
        """Ids of a decimal number. Raises `UserError` where they are not known."""
        known = self._known_numbers
        if value not in known:
            if self.encode is None:
                unknown = f"the ids of the number {value} are not known without its tokenizer"
                raise UserError(f"vocabulary {self.fingerprint}: {unknown}; {NAME_TOKENIZER}")
            known[value] = tuple(self.encode(str(value)))
        return known[value]

    @cached_property
    def _known_numbers(self) -> dict[int, tuple[int, ...]]:
        return dict(self.numbers)

    def encode_words(self, words: Sequence[str]) -> Ragged:
        """Ids of every word on its own; row i for word i. Raises `UserError` where this vocabulary cannot."""
        if self.word_ids and len(words) > self.universe_size:
            raise UserError(
                f"vocabulary {self.fingerprint}: {self.universe_size} tokens are too few for {len(words)} words"
            )
        if self.word_ids:
            return Ragged.from_lists([[self.universe_low + i] for i in range(len(words))])
        if self.encode is None:
            raise UserError(f"vocabulary {self.fingerprint}: text needs its tokenizer; {NAME_TOKENIZER}")
        return Ragged.from_lists([self.encode(word) for word in words])

    def limited(self, num_tokens: int | None) -> SyntheticVocabulary:
        """The same vocabulary with sequences drawn from the first `num_tokens` ids of the universe only."""
        if num_tokens is None:
            return self
        if not 2 <= num_tokens <= self.universe_size:
            raise UserError(f"num_tokens is {num_tokens}; it must be between 2 and {self.universe_size}")
        return replace(self, fingerprint=f"{self.fingerprint}/{num_tokens}", universe_size=num_tokens)

    @cached_property
    def describe(self) -> dict[str, Any]:
        """What a manifest records."""
        fields = ("fingerprint", "size", "pad", "eos", "task_divider", "word_divider", "separator", "empty")
        bounds = [self.universe_low, self.universe_low + self.universe_size - 1]
        return {name: getattr(self, name) for name in fields} | {"universe": bounds}


def t5_vocabulary(encode: Encode | None = None) -> SyntheticVocabulary:
    """T5's ids from the shipped table. With `encode` (a T5 tokenizer) every number is known, not only twenty."""
    table = read_json(Path(str(resources.files("metro_t0.synthetic") / T5_TABLE)))
    low, high = table["universe"]
    return SyntheticVocabulary(
        fingerprint="t5",
        size=table["size"],
        pad=table["pad"],
        eos=table["eos"],
        universe_low=low,
        universe_size=high - low + 1,
        yes=tuple(table["yes"]),
        no=tuple(table["no"]),
        bos=None,
        names={name: tuple(ids) for name, ids in table["names"].items()},
        numbers={int(value): tuple(ids) for value, ids in table["numbers"].items()},
        encode=encode,
    )


def compact_vocabulary(num_tokens: int, names: Iterable[str]) -> SyntheticVocabulary:
    """fairseq's four special ids, `num_tokens` ids to draw from, then names, digits, yes, no and the extra ids.

    names: tasks in use. Those that are not of `COMPACT_NAMES` have ids behind everything, and stand in the fingerprint:
    no id depends on what else is registered.
    """
    added = sorted({*names} - {*COMPACT_NAMES})
    first_name = len(SPECIAL_TOKENS) + num_tokens
    first_digit = first_name + len(COMPACT_NAMES)
    yes = first_digit + 10
    size = yes + 2 + EXTRA_IDS

    def encode(text: str) -> list[int]:
        if not text.isdecimal():
            raise UserError(f"vocabulary compact:{num_tokens} has no text; it cannot encode {text!r}")
        return [first_digit + int(digit) for digit in text]

    return SyntheticVocabulary(
        fingerprint="+".join([f"compact:{num_tokens}", *added]),
        size=size + len(added),
        added=len(added),
        universe_size=num_tokens,
        yes=(yes,),
        no=(yes + 1,),
        names={name: (first_name + i,) for i, name in enumerate(COMPACT_NAMES)}
        | {name: (size + i,) for i, name in enumerate(added)},
        encode=encode,
        word_ids=True,
    )


def tokenizer_vocabulary(directory: Path, names: Iterable[str]) -> SyntheticVocabulary:
    """Ids of a tokenizer of this toolkit; the 100 last pieces of its dictionary serve as extra ids."""
    from metro_t0.tokenization import Tokenizer

    tokenizer = Tokenizer.load(directory)
    size = len(tokenizer)
    fingerprint = f"dictionary:{tokenizer.fingerprint[:16]}"

    def known(text: str) -> tuple[int, ...]:
        """None where a piece is unknown: different words would have the same ids."""
        ids = tokenizer.encode(text)
        return () if tokenizer.unk_id in ids else tuple(ids)

    def encode(text: str) -> list[int]:
        if not (ids := known(text)):
            raise UserError(f"vocabulary {fingerprint}: {directory} cannot write {text!r} without <unk>")
        return [*ids]

    return SyntheticVocabulary(
        fingerprint=fingerprint,
        size=size,
        universe_size=size - EXTRA_IDS - len(SPECIAL_TOKENS),
        yes=known("yes"),
        no=known("no"),
        names={name: ids for name in names if (ids := known(name.replace("_", " ")))},
        encode=encode,
        dictionary=(directory / "dict.txt").read_bytes().decode(),
    )


def _t5_encode(directory: Path) -> Encode:
    from transformers import AutoTokenizer

    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give one that holds a T5 tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    word_start = tokenizer.convert_tokens_to_ids("▁")

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids[1:] if len(ids) > 1 and ids[0] == word_start else ids

    return encode


def load_vocabulary(name: str, task_names: Iterable[str], num_tokens: int | None = None) -> SyntheticVocabulary:
    """The vocabulary called `name`: `t5`, `t5:DIRECTORY`, `compact:N`, or the directory of a tokenizer.

    task_names: the tasks in use. num_tokens: draw sequences from that many ids only. A fingerprint of a compact
    vocabulary (compact:N+TASK) is a name, too. Raises `UserError` for an unknown name.
    """
    kind, _, argument = name.partition(":")
    if kind == "t5":
        return t5_vocabulary(_t5_encode(Path(argument)) if argument else None).limited(num_tokens)
    if kind == "compact":
        argument, *added = argument.split("+")
        if not argument.isdecimal():
            raise UserError(f"vocabulary {name}: give a number of tokens, as in compact:1000")
        return compact_vocabulary(int(argument), added or task_names).limited(num_tokens)
    if Path(name).is_dir():
        return tokenizer_vocabulary(Path(name), task_names).limited(num_tokens)
    hint = nearest(name, ["t5", "compact:1000"])
    raise UserError(f"vocabulary {name}: neither t5, t5:DIRECTORY, compact:N nor a tokenizer directory{hint}")
