"""`metro-t0-synthetic`: generate, look at, describe and check synthetic examples; initialize from statistics."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metro_t0.command import Parser, run
from metro_t0.errors import UserError
from metro_t0.progress import progress
from metro_t0.synthetic.law import Law
from metro_t0.synthetic.letters import Letters
from metro_t0.synthetic.storage import Files, Row, generate, open_directory, read_rows, read_tsv
from metro_t0.synthetic.stream import BLOCK, VALID_EXAMPLES, Mixture, StreamSettings
from metro_t0.synthetic.tasks import TASKS, Order, defect_of, get_task, task_law
from metro_t0.synthetic.vocabulary import load_vocabulary

PROGRAM = "metro-t0-synthetic"
EXAMPLES = """examples:
  metro-t0-synthetic inspect set,delete,lime --vocabulary compact:1000 --length-max 14 --length-min 5
  metro-t0-synthetic generate set:1,identity:1 --vocabulary TOKENIZER_DIR --train 100000 --valid 5000 --output data/set
  metro-t0-synthetic stats search --vocabulary compact:32000 --examples 20480
  metro-t0-synthetic verify data/set --vocabulary TOKENIZER_DIR
  metro-t0-synthetic verify set.tsv --task set --vocabulary t5 --order cpython_set
  metro-t0-synthetic init-stats checkpoint_best.pt --scheme per_param_mean_sd --output statistics.json
  metro-t0-synthetic init-apply random.pt --statistics statistics.json --seed 1 --output start.pt
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and give its exit status."""
    from metro_t0.synthetic import cli_downstream, cli_init

    parser = Parser(prog=PROGRAM, description=__doc__, epilog=EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _register_generate(commands)
    _register_inspect(commands)
    _register_stats(commands)
    _register_verify(commands)
    cli_init.register(commands)
    cli_downstream.register(commands)
    options = parser.parse_args(argv)
    return run(PROGRAM, lambda: options.body(options))


def _stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tasks", help="task names with optional rates, as in set:1,lime:2")
    parser.add_argument("--vocabulary", required=True, help="t5, t5:DIRECTORY, compact:N or a tokenizer directory")
    parser.add_argument("--num-tokens", type=int, help="draw sequences from that many tokens only")
    parser.add_argument("--profile", choices=("authors", "paper"), default="authors", help="where the two differ")
    parser.add_argument("--length-min", type=int, default=10, help="shortest input, separators included")
    parser.add_argument("--length-max", type=int, default=220, help="longest input")
    parser.add_argument("--seed", type=int, default=0)
    _order_option(parser)
    parser.add_argument(
        "--task-prefix",
        action=argparse.BooleanOptionalAction,
        help="the task's name in front of the source (default: authors yes, paper no)",
    )


def _order_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--order",
        choices=("first_occurrence", "cpython_set", "sorted"),
        default="first_occurrence",
        help="order of the outputs of set operations",
    )


def _mixture(options: argparse.Namespace) -> Mixture:
    return _settings(options).mixture(load_vocabulary(options.vocabulary, TASKS, options.num_tokens))


def _settings(options: argparse.Namespace) -> StreamSettings:
    return StreamSettings(
        options.tasks,
        options.seed,
        options.profile,
        options.length_min,
        options.length_max,
        options.order,
        options.task_prefix,
    )


def _register_generate(commands: argparse._SubParsersAction) -> None:
    text = "Write examples of every task: DIRECTORY/{train,valid}/TASK.* and manifest.json."
    example = (
        "example:\n  metro-t0-synthetic generate set,identity --vocabulary compact:1000 --train 10000 --output data/a\n"
    )
    parser = commands.add_parser("generate", help=text, description=text, epilog=example)
    _stream_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--format", choices=("fairseq", "tsv", "parquet"), default="fairseq")
    parser.add_argument("--train", type=int, default=1_000_000, help="training examples per task")
    parser.add_argument(
        "--valid", type=int, default=10_000, help=f"validation examples per task, up to {VALID_EXAMPLES}"
    )
    parser.add_argument("--deduplicate", action="store_true", help="keep the first example of every source")
    parser.set_defaults(body=_generate)


def _generate(options: argparse.Namespace) -> None:
    if options.train < 1 or options.valid < 1:
        raise UserError("--train and --valid must be at least 1")
    vocabulary = load_vocabulary(options.vocabulary, TASKS, options.num_tokens)
    files = Files(options.output, options.format)
    dropped = generate(files, _settings(options), vocabulary, options.train, options.valid, options.deduplicate)
    for name, count in dropped.items():
        duplicates = f", {count} duplicate sources left out" if options.deduplicate else ""
        print(f"{name}: {options.train} training and {options.valid} validation examples{duplicates}")
    print(f"wrote {options.output}")


def _register_inspect(commands: argparse._SubParsersAction) -> None:
    text = "Show examples with letters for tokens."
    example = "example:\n  metro-t0-synthetic inspect set --vocabulary compact:1000 --length-min 5 --length-max 10\n"
    parser = commands.add_parser("inspect", help=text, description=text, epilog=example)
    _stream_options(parser)
    parser.add_argument("--examples", type=int, default=5, help="examples to show")
    parser.add_argument("--ids", action="store_true", help="show token ids instead of letters")
    parser.set_defaults(body=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    mixture = _mixture(options)
    table = Table("task", "source", "target", show_lines=True)
    for source, target, task in _first_rows(mixture, options.examples):
        law = mixture.streams[task].law
        letters = Letters(law)
        shown = (source, target) if options.ids else (letters.source(source), letters.target(target))
        table.add_row(mixture.streams[task].task.name, *(escape(" ".join(map(str, side))) for side in shown))
    Console().print(table)


def _first_rows(mixture: Mixture, count: int) -> Iterator[tuple[list[int], list[int], int]]:
    for number in range(-(-count // BLOCK)):
        examples, labels = mixture.labeled_block("train", number)
        for row in range(min(BLOCK, count - number * BLOCK)):
            yield examples.sources[row].tolist(), examples.targets[row].tolist(), int(labels[row])


def _register_stats(commands: argparse._SubParsersAction) -> None:
    text = "Lengths, shares and duplicates of the first examples of a stream."
    example = "example:\n  metro-t0-synthetic stats set:1,lime:1 --vocabulary compact:32000 --examples 10240\n"
    parser = commands.add_parser("stats", help=text, description=text, epilog=example)
    _stream_options(parser)
    parser.add_argument("--examples", type=int, default=10 * BLOCK, help="examples to look at")
    parser.set_defaults(body=_stats)


def _stats(options: argparse.Namespace) -> None:
    mixture = _mixture(options)
    empty = mixture.streams[0].law.vocabulary.empty
    rows: dict[int, list[tuple[int, int, bool, bool, bytes]]] = {}
    for source, target, task in progress(_first_rows(mixture, options.examples), "examples", options.examples):
        body = source[len(mixture.streams[task].law.prefix) :]
        key = np.array(source, dtype=np.uint16).tobytes()
        rows.setdefault(task, []).append((len(body), len(target), target == [empty], target == body, key))
    table = Table("task", "examples", "input length", "target length", "empty", "target = input", "duplicate sources")
    for task, found in sorted(rows.items()):
        lengths, targets, is_empty, same, keys = zip(*found, strict=True)
        table.add_row(
            mixture.streams[task].task.name,
            str(len(found)),
            f"{min(lengths)}..{max(lengths)}, mean {np.mean(lengths):.1f}",
            f"{min(targets)}..{max(targets)}, mean {np.mean(targets):.1f}",
            f"{np.mean(is_empty):.1%}",
            f"{np.mean(same):.1%}",
            str(len(keys) - len(set(keys))),
        )
    Console().print(table)


def _register_verify(commands: argparse._SubParsersAction) -> None:
    text = "Recompute every target of generated files and report the first wrong one (exit status 1)."
    example = (
        "examples:\n  metro-t0-synthetic verify data/a\n"
        "  metro-t0-synthetic verify set.tsv --task set --vocabulary t5 --order cpython_set\n"
    )
    parser = commands.add_parser("verify", help=text, description=text, epilog=example)
    parser.add_argument("path", type=Path, help="a directory that generate wrote, or one TSV file of id lists")
    parser.add_argument("--task", help="of a TSV file: its task")
    parser.add_argument("--vocabulary", help="of a TSV file, or of a directory made with a tokenizer")
    parser.add_argument("--profile", choices=("authors", "paper"), default="authors", help="of a TSV file")
    parser.add_argument("--task-prefix", action=argparse.BooleanOptionalAction, help="of a TSV file")
    _order_option(parser)
    parser.set_defaults(body=_verify)


def _verify(options: argparse.Namespace) -> int:
    if options.path.is_dir():
        return _verify_directory(options)
    if not options.path.is_file():
        raise UserError(f"{options.path}: no such file or directory")
    if options.task is None or options.vocabulary is None:
        raise UserError(f"{options.path}: to check a single file, give --task and --vocabulary")
    task = get_task(options.task)
    vocabulary = load_vocabulary(options.vocabulary, TASKS)
    law = task_law(task, vocabulary, options.profile, 10, 220, options.task_prefix)
    return _report(options.path, read_tsv(options.path), task.name, law, options.order)


def _verify_directory(options: argparse.Namespace) -> int:
    opened = open_directory(options.path, options.vocabulary)
    for split in opened.splits:
        for name, law in opened.laws.items():
            path = opened.files.path(split, name)
            rows = read_rows(opened.files, split, name, law.vocabulary.eos)
            if _report(path, rows, name, law, opened.order):
                return 1
    return 0


def _report(path: Path, rows: Iterator[Row], name: str, law: Law, order: Order) -> int:
    """Check rows; print the first wrong one and give 1, or print how many are right and give 0."""
    count = 0
    for source, target in progress(rows, str(path)):
        count += 1
        defect = defect_of(TASKS[name], source, target, law, order)
        if defect is not None:
            print(f"{path}: line {count}: {defect}")
            return 1
    print(f"{path}: {count} examples of {name}, all right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
