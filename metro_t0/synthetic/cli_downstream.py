"""`metro-t0-synthetic downstream`, `plot-norms` and `plot-schemes`: fine-tuning data, and the paper's figures."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from metro_t0.errors import UserError
from metro_t0.synthetic.downstream import TASKS, write_split
from metro_t0.synthetic.norm_figure import plot_norms
from metro_t0.synthetic.scheme_figure import plot_schemes

SPLITS = {"train": "train", "validation": "valid", "test": "test"}


def register(commands: argparse._SubParsersAction) -> None:
    """Add the three commands."""
    _register_downstream(commands)
    _register_norms(commands)
    _register_schemes(commands)


def _register_downstream(commands: argparse._SubParsersAction) -> None:
    text = "Write a downstream task as source/target text for fine-tuning and metro-t0-eval generate."
    example = (
        "example:\n  metro-t0-synthetic downstream retrosynthesis --data-dir tasks --tokenizer vocab --output retro\n"
    )
    parser = commands.add_parser("downstream", help=text, description=text, epilog=example)
    parser.add_argument("task", help=f"one of {', '.join(TASKS)}")
    parser.add_argument(
        "--data-dir", type=Path, help="local data sets, NAME[/SUBSET]/SPLIT.jsonl[.gz] (default: the Hub)"
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory with dict.txt and tokenizer.json")
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.set_defaults(body=_downstream)


def _downstream(options: argparse.Namespace) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    for name in ("dict.txt", "tokenizer.json"):
        if not (options.tokenizer / name).is_file():
            raise UserError(f"{options.tokenizer}: no {name}; give a directory of metro-t0-data tokenizer")
        shutil.copy2(options.tokenizer / name, options.output / name)
    for split in options.splits:
        count = write_split(options.task, split, options.data_dir, options.output, SPLITS[split])
        print(f"{options.output / SPLITS[split]}.jsonl: {count} examples")


def _register_norms(commands: argparse._SubParsersAction) -> None:
    text = "Draw the mean weight of every pre-attention norm per layer (figure 6) and write it as CSV."
    example = (
        "example:\n  metro-t0-synthetic plot-norms set=set/checkpoint_best.pt identity=id/checkpoint_best.pt "
        "--output norms.png\n"
    )
    parser = commands.add_parser("plot-norms", help=text, description=text, epilog=example)
    parser.add_argument("models", nargs="+", help="LABEL=MODEL: fairseq checkpoint or Hugging Face directory")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write; the CSV lies beside it")
    parser.set_defaults(body=_norms)


def _norms(options: argparse.Namespace) -> None:
    named = dict(item.split("=", 1) for item in options.models if "=" in item)
    if len(named) != len(options.models):
        raise UserError("give every model as LABEL=MODEL, with labels that differ")
    plot_norms({label: Path(path) for label, path in named.items()}, options.output)
    print(f"{options.output} and {options.output.with_suffix('.csv')}")


def _register_schemes(commands: argparse._SubParsersAction) -> None:
    text = (
        "Draw the gap that synthetic pretraining closes (printed tables), and our starting points beside the printed."
    )
    example = "example:\n  metro-t0-synthetic plot-schemes results/init_schemes --source set --output schemes.png\n"
    parser = commands.add_parser("plot-schemes", help=text, description=text, epilog=example)
    parser.add_argument("runs", type=Path, help="OUTPUT of scripts/benchmarks/init_schemes.py")
    parser.add_argument("--source", choices=("lime", "set", "identity"), default="set", help="the checkpoint's task")
    parser.add_argument("--metric", choices=("accuracy", "exact_match"), default="accuracy", help="of our runs")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write; SVG and CSV lie beside it")
    parser.set_defaults(body=_schemes)


def _schemes(options: argparse.Namespace) -> None:
    paths = plot_schemes(options.runs, options.output, options.source, options.metric)
    print(" and ".join(map(str, paths)))
