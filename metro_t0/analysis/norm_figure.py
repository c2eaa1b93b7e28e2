"""Figure 6: how far pretraining moves the pre-attention norms from their initial 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from torch import Tensor

from metro_t0.analysis.figures import BASELINE_COLOR, STYLE, look, new_figure, number_layers, save
from metro_t0.errors import UserError
from metro_t0.transfer.roles import roles_of
from metro_t0.transfer.weight_files import read_weights

PANELS = (
    (("encoder", "self"), "Encoder pre-attention norm"),
    (("decoder", "self"), "Decoder pre-self-attention norm"),
    (("decoder", "cross"), "Decoder pre-cross-attention norm"),
)


def norm_means(tensors: Mapping[str, Tensor]) -> dict[tuple[str, str], list[float]]:
    """(stack, site) -> mean weight of the pre-attention norm of every layer."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for name, role in roles_of(tensors).items():
        if role.kind == "attention_norm" and role.layer is not None:
            found.setdefault((role.stack, role.site), []).append((role.layer, float(tensors[name].double().mean())))
    return {place: [mean for _, mean in sorted(means)] for place, means in found.items()}


def plot_norms(models: Mapping[str, Path], output: Path) -> list[Path]:
    """Write the figure as PNG and SVG and its numbers as CSV (model, stack, site, layer, mean)."""
    means = {label: norm_means(read_weights(path)) for label, path in models.items()}
    for label, path in models.items():
        if not means[label]:
            raise UserError(f"{path}: no attention norms of an encoder-decoder in it")
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5, 7)
        for (place, title), axes in zip(PANELS, figure.subplots(len(PANELS), 1), strict=True):
            _draw(axes, title, {label: found[place] for label, found in means.items()})
        figure.axes[0].legend()
        rows = [
            {"model": label, "stack": stack, "site": site, "layer": layer, "mean": f"{mean:.6f}"}
            for label, found in means.items()
            for (stack, site), values in found.items()
            for layer, mean in enumerate(values)
        ]
        return save(figure, output, rows)


def _draw(axes: Axes, title: str, means: Mapping[str, list[float]]) -> None:
    axes.axhline(1.0, color=BASELINE_COLOR, linestyle=":", label="random")
    for number, (label, values) in enumerate(means.items()):
        style = look(number)
        axes.plot(range(len(values)), values, marker=style.marker, color=style.color, label=label)
    axes.set_title(title, loc="left")
    axes.set_ylabel("mean weight")
    axes.set_ylim(bottom=0)
    number_layers(axes, range(max(map(len, means.values()))))
