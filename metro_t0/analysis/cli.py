"""`metro-t0-analyze`: pictures of how a model was trained and of what it learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metro_t0.command import Command, Program
from metro_t0.common_options import (
    MOST_EXAMPLES,
    device_option,
    output_option,
    prompted_option,
    seed_option,
    tokens_option,
)
from metro_t0.errors import UserError
from metro_t0.options import option
from metro_t0.progress import progress

if TYPE_CHECKING:
    from metro_t0.analysis.checkpoints import AnalyzedModel
    from metro_t0.analysis.mixtures import Seq2SeqBatch


class Figure(Command):
    """A command that draws a figure."""

    output: Path = output_option(help="writes FIGURE.png, FIGURE.svg, FIGURE.csv", metavar="FIGURE")

    def run(self) -> None:
        for path in self.draw():
            print(path)

    def draw(self) -> list[Path]:
        """Write the figure and return the paths of its files."""
        raise NotImplementedError


class Curves(Figure):
    """Losses and accuracies of pretraining runs over updates, from their JSON logs (figures 3a, 3b).

    examples:
      metro-t0-analyze curves runs/metro/train.log --dict data/bin/dict.txt --output figures/curves
      metro-t0-analyze curves "RTD on encoder=runs/metro/train.log" "RTD on decoder=runs/decoder/train.log" \\
          --metrics clm_loss --output figures/figure3a
      metro-t0-analyze curves i.i.d.=runs/metro/train.log spans=runs/spans/train.log \\
          --metrics rtd_recall --output figures/figure3b
    """

    logs: tuple[str, ...] = option(
        help="save_dir of a run (its train.log), or what it printed", positional=True, metavar="[NAME=]LOG"
    )
    metrics: tuple[str, ...] = option((), "panels to draw (default: all that were logged)", names=True)
    over: Literal["updates", "tokens"] = option("updates", "what runs from left to right")
    dict: Path | None = option(None, "dict.txt: draw what guessing by frequency reaches", metavar="FILE")

    def draw(self) -> list[Path]:
        from metro_t0.analysis.training_log import plot_curves, read_log, trivial_baselines

        logs = named_paths(self.logs)
        baselines = None
        if self.dict:
            last = [record for record in read_log(next(iter(logs.values()))) if "replacement_rate" in record][-1:]
            shares = [last[0].get(name) for name in ("replaced_share", "replacement_rate")] if last else [None, None]
            baselines = trivial_baselines(self.dict, *shares)
        return plot_curves(logs, self.output, baselines, self.metrics or None, self.over)


class OverMixture(Figure):
    """A command that runs checkpoints over a sample of a prompted mixture."""

    checkpoints: tuple[str, ...] = option(
        help="Hugging Face directories or fairseq .pt files", positional=True, metavar="[NAME=]CHECKPOINT"
    )
    prompted: Path = prompted_option()
    split: Literal["train", "valid"] = option("train", "of the mixture")
    sample: int = option(
        2000, "sample of the mixture, at the tasks' rates", at_least=1, at_most=MOST_EXAMPLES, flag="--examples"
    )
    seed: int = seed_option("the sample")
    max_tokens: int = tokens_option(4096, "source tokens per batch")
    max_source_tokens: int = tokens_option(512, "longer sources are cut")
    max_target_tokens: int = tokens_option(256, "longer targets are cut")
    device: str | None = device_option()

    def models(self) -> Iterator[tuple[str, AnalyzedModel, Iterator[Seq2SeqBatch]]]:
        """Name, model and batches of every checkpoint. All that can be known before loading is checked first."""
        from metro_t0.analysis.checkpoints import check_checkpoint, load_checkpoint
        from metro_t0.analysis.mixtures import batches, sample_mixture
        from metro_t0.devices import choose_device

        device = choose_device(self.device)
        named = named_paths(self.checkpoints)
        for path in named.values():
            check_checkpoint(path, self.prompted)
        lengths = (self.max_source_tokens, self.max_target_tokens)
        pairs = sample_mixture(self.prompted, self.split, self.sample, self.seed, *lengths)
        for name, path in named.items():
            model = load_checkpoint(path, self.prompted, device)
            made = batches(pairs, self.max_tokens, model.pad_id, model.decoder_start)
            yield name, model, progress(made, f"{name}: {len(pairs)} examples", unit="batches")


class Activation(OverMixture):
    """Under-activated feed-forward neurons per layer over a prompted mixture (figure 6).

    examples:
      metro-t0-analyze activation --prompted prompted METRO-T0=runs/metro/hf T0=runs/t5/hf --output figures/activation
      metro-t0-analyze activation --prompted prompted --split valid --examples 10000 runs/hf --output figures/activation
    """

    def draw(self) -> list[Path]:
        from metro_t0.analysis.activation import activation_rows, count_activations, plot_activations

        rows = []
        for name, model, batches in self.models():
            rows += activation_rows(name, count_activations(model, batches))
        return plot_activations(rows, self.output)


class Sensitivity(OverMixture):
    """Distribution of |theta dL/dtheta| over all parameters, per layer and kind of matrix (figure 7).

    examples:
      metro-t0-analyze sensitivity --prompted prompted METRO-T0=runs/metro/hf T0=runs/t5/hf --output figures/sensitivity
    """

    def draw(self) -> list[Path]:
        from metro_t0.analysis.sensitivity import accumulate_gradients, sensitivity_histograms
        from metro_t0.analysis.sensitivity_figure import plot_sensitivities

        found = {}
        for name, model, batches in self.models():
            loss = accumulate_gradients(model, batches)
            print(f"{name}: loss {loss:.4f} nats per target token")
            found[name] = sensitivity_histograms(model.module)
        return plot_sensitivities(found, self.output)


class Efficiency(Figure):
    """Zero-shot score against pretraining wall time and tokens (figure 4).

    examples:
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

    runs: Path = option(help="runs with their logs and result directories", positional=True, metavar="RUNS.yaml")

    def draw(self) -> list[Path]:
        from metro_t0.analysis.efficiency import plot_efficiency, read_runs

        return plot_efficiency(read_runs(self.runs), self.output)


def named_paths(values: Sequence[str]) -> dict[str, Path]:
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


main = Program("metro-t0-analyze", __doc__, (Curves, Activation, Sensitivity, Efficiency))

if __name__ == "__main__":
    raise SystemExit(main())
