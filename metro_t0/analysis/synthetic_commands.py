"""`metro-t0-synthetic plot-norms` and `plot-schemes`: figures of Wu, Li and Liang (2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from metro_t0.command import Command
from metro_t0.common_options import output_option
from metro_t0.errors import UserError
from metro_t0.options import option


class PlotNorms(Command):
    """Draw the mean weight of every pre-attention norm per layer (figure 6) and write it as CSV.

    example:
      metro-t0-synthetic plot-norms set=set/checkpoint_best.pt identity=id/checkpoint_best.pt --output norms.png
    """

    models: tuple[str, ...] = option(
        help="fairseq checkpoint or Hugging Face directory", positional=True, metavar="LABEL=MODEL"
    )
    output: Path = output_option(help="PNG to write; SVG and CSV lie beside it", metavar="FILE")

    def run(self) -> None:
        from metro_t0.analysis.norm_figure import plot_norms

        named = dict(item.split("=", 1) for item in self.models if "=" in item)
        if len(named) != len(self.models):
            raise UserError("give every model as LABEL=MODEL, with labels that differ")
        print(" and ".join(map(str, plot_norms({label: Path(path) for label, path in named.items()}, self.output))))


class PlotSchemes(Command):
    """Draw the gap that synthetic pretraining closes (printed tables), and our starting points beside the printed.

    example:
      metro-t0-synthetic plot-schemes results/init_schemes --source set --output schemes.png
    """

    runs: Path = option(help="OUTPUT of scripts/benchmarks/init_schemes.py", positional=True, metavar="DIR")
    source: Literal["lime", "set", "identity"] = option("set", "the checkpoint's task")
    metric: Literal["accuracy", "exact_match"] = option("accuracy", "of our runs")
    output: Path = output_option(help="PNG to write; SVG and CSV lie beside it", metavar="FILE")

    def run(self) -> None:
        from metro_t0.analysis.scheme_figure import plot_schemes

        print(" and ".join(map(str, plot_schemes(self.runs, self.output, self.source, self.metric))))


COMMANDS = (PlotNorms, PlotSchemes)
