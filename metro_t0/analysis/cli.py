"""`metro-t0-analyze`: pictures of how a model was trained and of what it learnt."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from metro_t0.command import Parser, run
from metro_t0.errors import UserError
from metro_t0.progress import progress

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from metro_t0.analysis.checkpoints import AnalyzedModel
    from metro_t0.analysis.mixtures import Seq2SeqBatch

PROGRAM = "metro-t0-analyze"

EXAMPLES = """examples:
  metro-t0-analyze curves runs/metro/train.log --output figures/curves
  metro-t0-analyze activation --data prompted METRO-T0=runs/metro/hf T0=runs/t5/hf --output figures/activation
  metro-t0-analyze sensitivity --data prompted METRO-T0=runs/metro/hf T0=runs/t5/hf --output figures/sensitivity
  metro-t0-analyze efficiency runs.yaml --output figures/efficiency
"""
CURVES_EXAMPLES = """examples:
  metro-t0-analyze curves runs/metro/train.log --dict data/bin/dict.txt --output figures/curves
  metro-t0-analyze curves "RTD on encoder=runs/metro/train.log" "RTD on decoder=runs/decoder/train.log" \\
      --metrics clm_loss --output figures/figure3a
  metro-t0-analyze curves i.i.d.=runs/metro/train.log spans=runs/spans/train.log \\
      --metrics rtd_recall --output figures/figure3b
"""
ACTIVATION_EXAMPLES = """examples:
  metro-t0-analyze activation --data prompted METRO-T0=runs/metro/hf T0=runs/t5/hf --output figures/activation
  metro-t0-analyze activation --data prompted --split valid --examples 10000 runs/metro/hf --output figures/activation
"""
SENSITIVITY_EXAMPLES = """examples:
  metro-t0-analyze sensitivity --data prompted METRO-T0=runs/metro/hf T0=runs/t5/hf --output figures/sensitivity
"""
EFFICIENCY_EXAMPLES = """examples:
  metro-t0-analyze efficiency runs.yaml --output figures/efficiency

runs.yaml (paths relative to the file; directories are outputs of metro-t0-eval):
  runs:
    METRO-T0:
      log: metro/train.log
      checkpoints: {25000: results/metro-25k, 50000: results/metro-50k}
    T0:
      log: t5/train.log
      checkpoints: {25000: results/t5-25k, 50000: results/t5-50k}
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = Parser(prog=PROGRAM, description=__doc__, epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    _add_curves(commands)
    _add_activation(commands)
    _add_sensitivity(commands)
    _add_efficiency(commands)
    arguments = parser.parse_args(argv)
    return run(f"{PROGRAM} {arguments.command}", lambda: arguments.body(arguments))


def _add_curves(commands: _SubParsersAction) -> None:
    text = "losses and accuracies of pretraining runs over updates, from their JSON logs (figures 3a, 3b)"
    parser = commands.add_parser("curves", help=text, description=text, epilog=CURVES_EXAMPLES)
    parser.add_argument("logs", nargs="+", metavar="[NAME=]LOG", help="output of fairseq-train --log-format json")
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help="panels to draw (default: all that were logged)")
    parser.add_argument("--over", choices=["updates", "tokens"], default="updates", help="(default: %(default)s)")
    parser.add_argument("--dict", type=Path, metavar="DICT_TXT", help="draw what guessing by frequency reaches")
    _add_output(parser)
    parser.set_defaults(body=_curves)


def _curves(arguments: Namespace) -> None:
    from metro_t0.analysis.training_log import plot_curves, read_log, trivial_baselines

    logs = named_paths(arguments.logs)
    baselines = None
    if arguments.dict:
        last = [record for record in read_log(next(iter(logs.values()))) if "replacement_rate" in record][-1:]
        shares = [last[0].get(name) for name in ("replaced_share", "replacement_rate")] if last else [None, None]
        baselines = trivial_baselines(arguments.dict, *shares)
    _report(plot_curves(logs, arguments.output, baselines, arguments.metrics, arguments.over))


def _add_activation(commands: _SubParsersAction) -> None:
    text = "under-activated feed-forward neurons per layer over a prompted mixture (figure 6)"
    parser = commands.add_parser("activation", help=text, description=text, epilog=ACTIVATION_EXAMPLES)
    _add_checkpoints(parser)
    parser.set_defaults(body=_activation)


def _activation(arguments: Namespace) -> None:
    from metro_t0.analysis.activation import activation_rows, count_activations, plot_activations

    rows = []
    for name, path in named_paths(arguments.checkpoints).items():
        model, batches = _model_and_batches(arguments, name, path)
        rows += activation_rows(name, count_activations(model, batches))
    _report(plot_activations(rows, arguments.output))


def _add_sensitivity(commands: _SubParsersAction) -> None:
    text = "distribution of |theta dL/dtheta| over all parameters, per layer and kind of matrix (figure 7)"
    parser = commands.add_parser("sensitivity", help=text, description=text, epilog=SENSITIVITY_EXAMPLES)
    _add_checkpoints(parser)
    parser.set_defaults(body=_sensitivity)


def _sensitivity(arguments: Namespace) -> None:
    from metro_t0.analysis.sensitivity import accumulate_gradients, sensitivity_histograms
    from metro_t0.analysis.sensitivity_figure import plot_sensitivities

    found = {}
    for name, path in named_paths(arguments.checkpoints).items():
        model, batches = _model_and_batches(arguments, name, path)
        loss = accumulate_gradients(model, batches)
        print(f"{name}: loss {loss:.4f} nats per target token")
        found[name] = sensitivity_histograms(model.module)
    _report(plot_sensitivities(found, arguments.output))


def _add_efficiency(commands: _SubParsersAction) -> None:
    text = "zero-shot score against pretraining wall time and tokens (figure 4)"
    parser = commands.add_parser("efficiency", help=text, description=text, epilog=EFFICIENCY_EXAMPLES)
    parser.add_argument("runs", type=Path, metavar="RUNS.yaml", help="runs with their logs and result directories")
    _add_output(parser)
    parser.set_defaults(body=_efficiency)


def _efficiency(arguments: Namespace) -> None:
    from metro_t0.analysis.efficiency import plot_efficiency, read_runs

    _report(plot_efficiency(read_runs(arguments.runs), arguments.output))


def _add_checkpoints(parser: Parser) -> None:
    add = parser.add_argument
    add("checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT", help="Hugging Face directories or fairseq .pt files")
    add("--data", type=Path, required=True, metavar="MIXTURE", help="directory that metro-t0-prompts build wrote")
    add("--split", default="train", help="train or valid (default: %(default)s)")
    add("--examples", type=int, default=2000, help="sample of the mixture, at the tasks' rates (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the sample (default: %(default)s)")
    add("--max-tokens", type=int, default=4096, help="source tokens per batch (default: %(default)s)")
    add("--max-source-length", type=int, default=512, help="longer sources are cut (default: %(default)s)")
    add("--max-target-length", type=int, default=256, help="longer targets are cut (default: %(default)s)")
    add("--device", default=None, help="cuda or cpu (default: cuda where there is one)")
    _add_output(parser)


def _model_and_batches(arguments: Namespace, name: str, path: Path) -> tuple[AnalyzedModel, Iterator[Seq2SeqBatch]]:
    import torch

    from metro_t0.analysis.checkpoints import load_checkpoint
    from metro_t0.analysis.mixtures import batches, sample_mixture

    for option in ("examples", "max_tokens", "max_source_length", "max_target_length"):
        if getattr(arguments, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} {getattr(arguments, option)}: give at least 1")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_checkpoint(path, arguments.data, device)
    lengths = (arguments.max_source_length, arguments.max_target_length)
    pairs = sample_mixture(arguments.data, arguments.split, arguments.examples, arguments.seed, *lengths)
    made = batches(pairs, arguments.max_tokens, model.pad_id, model.decoder_start)
    return model, progress(made, f"{name}: {len(pairs)} examples")


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
