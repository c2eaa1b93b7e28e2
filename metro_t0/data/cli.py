"""`metro-t0-data`: train a vocabulary, turn text into token files, look into them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from metro_t0.command import Command, Program
from metro_t0.common_options import MOST_EXAMPLES, output_option, tokenizer_option, workers_option
from metro_t0.errors import printable
from metro_t0.options import option
from metro_t0.tokenization.settings import BpeSettings

PROGRAM = "metro-t0-data"
INPUT_HELP = """inputs:
  FILE          .txt (a paragraph per line, an empty line between documents), .jsonl, .parquet; plain, .gz or .zst
  'GLOB'        many files, in the order of their names
  hf:NAME[/CONFIG][:SPLIT]    a Hugging Face data set or a local directory of data files, streamed (SPLIT: train)
  builtin:python-docs[?max_mb=24]    English documentation found in the running Python installation
"""
EXAMPLES = """examples:
  metro-t0-data tokenizer builtin:python-docs --vocab-size 4096 --lowercase --output vocab
  metro-t0-data binarize builtin:python-docs --tokenizer vocab --output data-bin
  metro-t0-data inspect data-bin
"""
TOKENIZER_EXAMPLES = """examples:
  metro-t0-data tokenizer 'corpus/train-*.txt.zst' --vocab-size 32768 --lowercase --output vocab
  metro-t0-data tokenizer web.jsonl.gz --field content --vocab-size 64000 --output vocab
"""
BINARIZE_EXAMPLES = """examples:
  metro-t0-data binarize 'corpus/train-*.txt.zst' --valid corpus/valid.txt.zst --tokenizer vocab --output data-bin
  metro-t0-data binarize hf:allenai/c4/en:train --tokenizer vocab --valid-fraction 0.0005 --shards 8 --output data-bin

Interrupted, the same command continues. The directory trains as it is: fairseq-train data-bin ...
(with --shards: fairseq-train data-bin/shard0:data-bin/shard1:...).
"""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Where text comes from and how many processes read it."""

    inputs: tuple[str, ...] = option(help="see below", positional=True, metavar="INPUT")
    field: str = option("text", "field or column of the text")
    workers: int | None = workers_option()


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(Command):
    """Train a BPE vocabulary (dict.txt and tokenizer.json)."""

    name: ClassVar[str] = "tokenizer"
    examples: ClassVar[str] = f"{INPUT_HELP}\n{TOKENIZER_EXAMPLES}"
    text: Text
    vocabulary: BpeSettings
    max_mb: int = option(
        1000, "train on the first MB of text that the inputs give", at_least=1, at_most=10**8, metavar="MB"
    )
    output: Path = output_option()

    def run(self) -> None:
        from metro_t0.claims import lock
        from metro_t0.data.sources import resolve_inputs
        from metro_t0.data.training_text import words_of
        from metro_t0.parallel import default_workers
        from metro_t0.tokenization.training import train_bpe

        inputs = resolve_inputs(self.text.inputs, self.text.field)
        with lock(self.output):
            words = words_of(inputs, self.max_mb, self.text.workers or default_workers())
            tokenizer = train_bpe(words, self.vocabulary, self.output)
        print(f"{self.output}: vocabulary of {len(tokenizer)} ids (dict.txt, tokenizer.json)")


@dataclass(frozen=True, kw_only=True)
class Binarize(Command):
    """Turn text into fairseq token files."""

    name: ClassVar[str] = "binarize"
    examples: ClassVar[str] = f"{INPUT_HELP}\n{BINARIZE_EXAMPLES}"
    text: Text
    tokenizer: Path = tokenizer_option()
    valid: tuple[str, ...] = option((), "inputs of the validation set", metavar="INPUT")
    valid_fraction: float = option(
        0.01,
        "without --valid: share of documents held out, chosen by a hash of their text; 0: none",
        at_least=0,
        below=1,
        metavar="SHARE",
    )
    shards: int = option(1, "training shards", at_least=1, at_most=10_000)
    overwrite: bool = option(False, "replace another data set in the directory")
    part: str | None = option(
        None,
        "encode this share only, on one of N machines with the same disk; the command without --part then joins all",
        metavar="I/N",
    )
    output: Path = output_option()

    def run(self) -> None:
        from metro_t0.data.binarize import BinarizeSettings, binarize, encode_share
        from metro_t0.data.shares import parse_share
        from metro_t0.data.sources import resolve_inputs
        from metro_t0.parallel import default_workers
        from metro_t0.tokenization import Tokenizer

        settings = BinarizeSettings(
            inputs=resolve_inputs(self.text.inputs, self.text.field),
            valid_inputs=resolve_inputs(self.valid, self.text.field) if self.valid else [],
            valid_fraction=0.0 if self.valid else self.valid_fraction,
            shards=self.shards,
            output=self.output,
            overwrite=self.overwrite,
        )
        tokenizer, processes = Tokenizer.load(self.tokenizer), self.text.workers or default_workers()
        if self.part is None:
            _print_info(self.output, binarize(settings, tokenizer, processes))
            return
        count = encode_share(settings, tokenizer, processes, parse_share(self.part))
        print(f"{self.output}: part {self.part} is done, {count} pieces; when all are, run the command without --part")


@dataclass(frozen=True, kw_only=True)
class Inspect(Command):
    """Print the first documents of a data directory as text."""

    name: ClassVar[str] = "inspect"
    examples: ClassVar[str] = "example:\n  metro-t0-data inspect data-bin --split valid"
    directory: Path = option(help="directory of metro-t0-data binarize", positional=True, metavar="DIR")
    split: Literal["train", "valid"] = option("train", "set to read")
    documents: int = option(2, "how many", at_least=1, at_most=MOST_EXAMPLES)

    def run(self) -> None:
        from metro_t0.data.inspection import print_documents

        print_documents(self.directory, self.split, self.documents)


@dataclass(frozen=True, kw_only=True)
class Verify(Command):
    """Hold every file of a data directory against the checksums in its info.json (status 1 where one differs)."""

    name: ClassVar[str] = "verify"
    examples: ClassVar[str] = "example:\n  metro-t0-data verify data-bin"
    directory: Path = option(
        help="directory of metro-t0-data binarize, or one shard of it", positional=True, metavar="DIR"
    )

    def run(self) -> int:
        from metro_t0.data.record import damaged_files
        from metro_t0.progress import progress

        files = list(progress(damaged_files(self.directory), "verify", unit="files"))
        wrong = [f"{self.directory / name} {complaint}" for name, complaint in files if complaint]
        for line in wrong:
            print(printable(line))
        print(f"{self.directory}: {len(files) - len(wrong)} of {len(files)} files are as they were written")
        return 1 if wrong else 0


def _print_info(output: Path, info: dict[str, Any]) -> None:
    from metro_t0.tables import print_table

    print_table(
        ("set", "documents", "items", "tokens", "unknown"),
        [
            (name, *(f"{counts[key]:,}" for key in ("documents", "items", "tokens")), f"{counts['unknown_rate']:.4%}")
            for name, counts in info["sets"].items()
        ],
        title=str(output),
    )
    for reason, count in info["bad_lines"].items():
        print(f"skipped {count} lines: {printable(reason)}")
    for example in info["bad_line_examples"]:
        print(f"  {printable(example)}")


main = Program(PROGRAM, __doc__, (TrainTokenizer, Binarize, Inspect, Verify), EXAMPLES)

if __name__ == "__main__":
    raise SystemExit(main())
