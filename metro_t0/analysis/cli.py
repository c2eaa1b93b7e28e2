"""Command `metro-t0-analyze`: pictures of how a model was trained and of what it learnt."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from metro_t0.command import Parser, run
from metro_t0.errors import UserError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

PROGRAM = "metro-t0-analyze"

CURVES_EXAMPLES = """examples:
  metro-t0-analyze curves runs/metro/train.log --dict data/bin/dict.txt --output figures/curves
  metro-t0-analyze curves "RTD on encoder=runs/metro/train.log" "RTD on decoder=runs/decoder/train.log" \\
      --metrics clm_loss --output figures/figure3a
  metro-t0-analyze curves i.i.d.=runs/metro/train.log spans=runs/spans/train.log \\
      --metrics rtd_recall --output figures/figure3b
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = Parser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_curves(commands)
    arguments = parser.parse_args(argv)
    return run(f"{PROGRAM} {arguments.command}", lambda: arguments.body(arguments))


def _add_curves(commands: _SubParsersAction) -> None:
    text = "losses and accuracies of pretraining runs over updates, from their JSON logs (figures 3a, 3b)"
    parser = commands.add_parser("curves", help=text, description=text, epilog=CURVES_EXAMPLES)
    parser.add_argument("logs", nargs="+", metavar="[NAME=]LOG", help="output of fairseq-train --log-format json")
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help="panels to draw (default: all that were logged)")
    parser.add_argument("--dict", type=Path, metavar="DICT_TXT", help="draw what guessing by frequency reaches")
    parser.add_argument("--mask-ratio", type=float, default=0.15, help="for the baseline of RTD (default: %(default)s)")
    _add_output(parser)
    parser.set_defaults(body=_curves)


def _curves(arguments: Namespace) -> None:
    from metro_t0.analysis.training_log import plot_curves, read_log, trivial_baselines

    logs = named_paths(arguments.logs)
    baselines = None
    if arguments.dict:
        last = [record for record in read_log(next(iter(logs.values()))) if "replacement_rate" in record][-1:]
        rate = last[0]["replacement_rate"] if last else None
        baselines = trivial_baselines(arguments.dict, arguments.mask_ratio, rate)
    _report(plot_curves(logs, arguments.output, baselines, arguments.metrics))


def named_paths(values: list[str]) -> dict[str, Path]:
    """NAME=PATH or PATH, several -> name -> path; a path without a name is called like its directory or file.

    Raises `UserError` where two have the same name.
    """
    named: dict[str, Path] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator or Path(value).exists():
            name, path = _short_name(Path(value)), value
        if name in named:
            raise UserError(f"two inputs are called {name}; name them: first={named[name]} second={path}")
        named[name] = Path(path)
    return named


def _short_name(path: Path) -> str:
    plain = path.stem in ("train", "log", "checkpoint_last", "checkpoint_best", "hf", "summary")
    return path.resolve().parent.name if plain else path.stem if path.suffix in (".log", ".pt", ".json") else path.name


def _add_output(parser: Parser) -> None:
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FIGURE", help="writes FIGURE.png, FIGURE.svg, FIGURE.csv"
    )


def _report(paths: list[Path]) -> None:
    for path in paths:
        print(path)
