"""How often each feed-forward neuron is active over a prompted mixture (paper section 6.3, figure 6).

A neuron is one inner unit of a feed-forward layer; it is active on a token where its activation is above zero.
It is under-activated where it is inactive on at least 99.5% of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from metro_t0.analysis.checkpoints import AnalyzedModel
from metro_t0.analysis.figures import STYLE, look, new_figure, number_layers, save
from metro_t0.analysis.mixtures import Seq2SeqBatch
from metro_t0.errors import UserError
from metro_t0.tensor_names import place_of

INACTIVE_SHARE = 0.995

# The linear map whose output the activation function sees: here, and in Hugging Face's T5. ReLU and both GELUs keep
# the sign of their input, so "above zero" can be read off before the activation.
PRE_ACTIVATIONS = ("feed_forward.wi", "feed_forward.gate")
STACKS = ("encoder", "decoder")
LayerKey = tuple[str, int]


@dataclass
class Activations:
    """Exact counts of one layer: (neurons,) int64 tokens on which each neuron is active, and tokens seen."""

    active: Tensor
    tokens: int = 0

    def under_activated(self, inactive_share: float = INACTIVE_SHARE) -> Tensor:
        """(neurons,) True where inactive on at least that share of the tokens."""
        return self.tokens - self.active >= inactive_share * self.tokens


class NeuronCounter:
    """Counts, through forward hooks, in one pass and in memory of two integers per neuron."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = dict(_pre_activations(module))
        if not self.layers:
            raise UserError("no feed-forward layers found: the model is neither of this toolkit nor a Hugging Face T5")
        self.counts = {
            key: Activations(torch.zeros(linear.out_features, dtype=torch.int64, device=linear.weight.device))
            for key, linear in self.layers.items()
        }

    @contextmanager
    def counting(self, valid: Mapping[str, Tensor]) -> Iterator[None]:
        """Count during one forward pass. valid: (B, T) True on the tokens of "encoder" and of "decoder"."""
        handles = [
            linear.register_forward_hook(self._hook(self.counts[key], valid[key[0]]))
            for key, linear in self.layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def _hook(counts: Activations, valid: Tensor) -> Callable[[nn.Module, Any, Tensor], None]:
        def count(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            counts.active += ((output > 0) & valid[..., None]).flatten(0, -2).sum(0)
            counts.tokens += int(valid.sum())

        return count


def _pre_activations(module: nn.Module) -> Iterator[tuple[LayerKey, nn.Linear]]:
    """(stack, layer) -> the linear map before the activation; in a gated layer that is the gate."""
    found: dict[LayerKey, nn.Linear] = {}
    for name, part in module.named_modules():
        place = place_of(f"{name}.weight")
        if place and place.layer is not None and place.module in PRE_ACTIVATIONS and isinstance(part, nn.Linear):
            key = (place.stack, place.layer)
            if key not in found or place.module == "feed_forward.gate":
                found[key] = part
    for key in sorted(found, key=lambda key: (STACKS.index(key[0]), key[1])):
        yield key, found[key]


@torch.inference_mode()
def count_activations(model: AnalyzedModel, batches: Iterable[Seq2SeqBatch]) -> dict[LayerKey, Activations]:
    """(stack, layer) -> counts over all real tokens: source tokens in the encoder, target in the decoder."""
    counter = NeuronCounter(model.module)
    for batch in batches:
        here = batch.to(model.device)
        with counter.counting({"encoder": here.source_valid, "decoder": here.target_valid}):
            logits = model.logits(here)
        if not logits[here.target_valid].isfinite().all():
            raise UserError("logits are NaN or infinite, so there is nothing to count; check the checkpoint's weights")
    return counter.counts


def activation_rows(name: str, counts: Mapping[LayerKey, Activations]) -> list[dict[str, Any]]:
    """One row per layer: percentage of under-activated neurons, neurons, tokens, dead neurons, mean activation."""
    rows = []
    for (stack, layer), count in counts.items():
        under = int(count.under_activated().sum())
        neurons = len(count.active)
        rows.append({
            "checkpoint": name, "stack": stack, "layer": layer + 1, "neurons": neurons, "tokens": count.tokens,
            "under_activated": under, "under_activated_percent": 100 * under / neurons,
            "never_active": int((count.active == 0).sum()),
            "mean_active_percent": 100 * float(count.active.double().mean()) / max(count.tokens, 1),
        })  # fmt: skip
    return rows


def plot_activations(rows: Sequence[Mapping[str, Any]], output: Path) -> list[Path]:
    """Percentage of under-activated neurons per layer, a panel per stack, a line per checkpoint (figure 6)."""
    names = list(dict.fromkeys(row["checkpoint"] for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.2, 2.9)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, stack in zip(panels, STACKS, strict=True):
            _draw(axes, stack, names, [row for row in rows if row["stack"] == stack])
        panels[0].set_ylabel("under-activated neurons (%)")
        panels[0].set_ylim(bottom=0)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
        return save(figure, output, rows)


def _draw(axes: Axes, stack: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title(stack.capitalize(), loc="left")
    number_layers(axes, [row["layer"] for row in rows])
    for number, name in enumerate(names):
        points = [(row["layer"], row["under_activated_percent"]) for row in rows if row["checkpoint"] == name]
        style = look(number)
        axes.plot(*zip(*points, strict=True), color=style.color, marker=style.marker, markersize=4, label=name)
