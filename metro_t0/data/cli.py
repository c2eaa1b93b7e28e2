"""`metro-t0-data`: train a vocabulary, turn text into token files, look into them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from metro_t0.command import Parser, run
from metro_t0.data.binarize import BinarizeSettings, binarize
from metro_t0.data.inspection import print_documents
from metro_t0.data.sources import resolve_inputs
from metro_t0.data.training_text import words_of
from metro_t0.errors import UserError
from metro_t0.parallel import default_workers
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.training import BpeSettings, train_bpe

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


def main(argv: list[str] | None = None) -> int:
    """Run `metro-t0-data` and return its exit status."""
    parser = Parser(prog=PROGRAM, description=__doc__, epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_tokenizer(commands)
    _add_binarize(commands)
    _add_inspect(commands)
    arguments = parser.parse_args(argv)
    return run(PROGRAM, lambda: arguments.body(arguments))


def _add_tokenizer(commands: Any) -> None:
    about = "train a BPE vocabulary (dict.txt and tokenizer.json)"
    parser = commands.add_parser(
        "tokenizer", help=about, description=about, epilog=f"{INPUT_HELP}\n{TOKENIZER_EXAMPLES}"
    )
    _add_inputs(parser)
    parser.add_argument("--vocab-size", type=_positive, default=32768, metavar="N", help=_SIZE_HELP)
    parser.add_argument("--lowercase", action="store_true", help="uncased: lower-case all text")
    parser.add_argument("--character-coverage", type=_share, default=0.99995, metavar="SHARE", help=_COVERAGE_HELP)
    parser.add_argument("--max-mb", type=_positive, default=1000, metavar="MB", help=_MAX_MB_HELP)
    parser.set_defaults(body=_tokenizer)


_SIZE_HELP = "ids in all: 4 special tokens, single characters and merged pieces; sentinels come on top (default 32768)"
_COVERAGE_HELP = "share of characters in the text that are in the vocabulary, the rarest become <unk> (default 0.99995)"
_MAX_MB_HELP = "train on the first MB of text that the inputs give (default 1000)"


def _add_binarize(commands: Any) -> None:
    about = "turn text into fairseq token files"
    parser = commands.add_parser("binarize", help=about, description=about, epilog=f"{INPUT_HELP}\n{BINARIZE_EXAMPLES}")
    _add_inputs(parser)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="directory of the vocabulary")
    parser.add_argument("--valid", nargs="+", default=[], metavar="INPUT", help="inputs of the validation set")
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="without --valid: share of documents held out, chosen by a hash of their text (default 0.01, 0: none)",
    )
    parser.add_argument("--shards", type=_positive, default=1, metavar="N", help="training shards (default 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace another data set in the directory")
    parser.set_defaults(body=_binarize)


def _add_inspect(commands: Any) -> None:
    about = "print the first documents of a data directory as text"
    parser = commands.add_parser(
        "inspect", help=about, description=about, epilog="example:\n  metro-t0-data inspect data-bin --set valid"
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--set", default="train", metavar="NAME", help="train or valid (default train)")
    parser.add_argument("--documents", type=_positive, default=2, metavar="N", help="how many (default 2)")
    parser.set_defaults(body=lambda given: print_documents(given.directory, given.set, given.documents))


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="see below")
    parser.add_argument("--field", default="text", help="field or column of the text (default text)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--workers", type=_positive, default=default_workers(), metavar="N", help="processes (default: all cores)"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and at most 1")
    return value


def _tokenizer(given: argparse.Namespace) -> None:
    settings = BpeSettings(given.vocab_size, given.lowercase, given.character_coverage)
    words = words_of(resolve_inputs(given.inputs, given.field), given.max_mb, given.workers)
    tokenizer = train_bpe(words, settings, given.output)
    print(f"{given.output}: vocabulary of {len(tokenizer)} ids (dict.txt, tokenizer.json)")


def _binarize(given: argparse.Namespace) -> None:
    if not 0 <= given.valid_fraction < 1:
        raise UserError(f"--valid-fraction {given.valid_fraction} is outside [0, 1)")
    settings = BinarizeSettings(
        inputs=resolve_inputs(given.inputs, given.field),
        valid_inputs=resolve_inputs(given.valid, given.field) if given.valid else [],
        valid_fraction=0.0 if given.valid else given.valid_fraction,
        shards=given.shards,
        output=given.output,
        overwrite=given.overwrite,
    )
    info = binarize(settings, Tokenizer.load(given.tokenizer), given.workers)
    _print_info(given.output, info)


def _print_info(output: Path, info: dict[str, Any]) -> None:
    table = Table(title=str(output), title_justify="left")
    for column in ("set", "documents", "items", "tokens", "unknown"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, counts in info["sets"].items():
        table.add_row(
            name, *(f"{counts[key]:,}" for key in ("documents", "items", "tokens")), f"{counts['unknown_rate']:.4%}"
        )
    Console(width=100).print(table)
    for reason, count in info["bad_lines"].items():
        print(f"skipped {count} lines: {reason}")
    for example in info["bad_line_examples"]:
        print(f"  {example}")
