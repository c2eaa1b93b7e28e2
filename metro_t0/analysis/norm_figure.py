"""Figure 6: how far pretraining moves the pre-attention norms from their initial 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from metro_t0.analysis.figures import look, new_figure
from metro_t0.errors import UserError
from metro_t0.files import atomic_path, write_text
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


def plot_norms(models: Mapping[str, Path], output: Path) -> None:
    """Write the figure as PNG and its numbers as CSV (model, stack, site, layer, mean)."""
    means = {label: norm_means(read_weights(path)) for label, path in models.items()}
    for label, path in models.items():
        if not means[label]:
            raise UserError(f"{path}: no attention norms of an encoder-decoder in it")
    figure = new_figure(5, 7)
    axes = figure.subplots(len(PANELS), 1)
    for (place, title), axis in zip(PANELS, axes, strict=True):
        axis.axhline(1.0, color="0.6", linestyle=":", label="random")
        for number, (label, found) in enumerate(means.items()):
            style = look(number)
            axis.plot(range(len(found[place])), found[place], marker="o", color=style.color, label=label)
        axis.set_title(title, fontsize=9)
        axis.set_ylabel("mean weight")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("layer")
    axes[0].legend(fontsize=8)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    rows = [
        f"{label},{stack},{site},{layer},{mean:.6f}"
        for label, found in means.items()
        for (stack, site), values in found.items()
        for layer, mean in enumerate(values)
    ]
    write_text(output.with_suffix(".csv"), "\n".join(["model,stack,site,layer,mean", *rows]) + "\n")
