"""A sample of a built prompt mixture, as batches of a sequence-to-sequence model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metro_t0.prompts.mixing import load_task_examples
from metro_t0.randomness import keyed_generator
from metro_t0.rows import pad_rows, shift_right
from metro_t0.token_budget import length_sorted_batches
from metro_t0.tokenization.vocabulary import BOS_ID, EOS_ID

Example = tuple[NDArray[np.integer], NDArray[np.integer]]


@dataclass(frozen=True)
class Seq2SeqBatch:
    """Padded on the right. B examples, S source tokens, T target tokens."""

    source: Tensor
    """(B, S) ids."""
    source_valid: Tensor
    """(B, S) True on real tokens."""
    decoder_input: Tensor
    """(B, T) the target shifted right."""
    target: Tensor
    """(B, T) ids."""
    target_valid: Tensor
    """(B, T) True on real tokens."""

    def to(self, device: torch.device) -> Seq2SeqBatch:
        """The same batch on a device."""
        return Seq2SeqBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def sample_mixture(
    directory: Path, split: str, examples: int, seed: int, max_source: int = 512, max_target: int = 256
) -> list[Example]:
    """At most `examples` pairs of the mixture, each task giving its share, without repetition.

    directory: what `metro-t0-prompts build` wrote. A task's share is that of its examples up to its cap, as in
    training. Sources are `<s> x </s>` and targets `y </s>`; longer ones are cut and end with </s> all the same. The
    sample depends on (seed, task) alone. Raises `UserError` where the directory is no mixture or the split is empty.
    """
    tasks = {task.name: task for task in load_task_examples(directory, split)}
    rates = {name: min(len(task), task.cap or len(task)) for name, task in tasks.items()}
    pairs: list[Example] = []
    for name, count in _allot(rates, examples).items():
        task = tasks[name]
        chosen = keyed_generator("analysis", seed, name).permutation(len(task))[:count]
        for i in chosen.tolist():
            source = np.concatenate(([BOS_ID], task.sources[i]))
            pairs.append((_cut(source, max_source), _cut(task.targets[i], max_target)))
    return pairs


def _allot(rates: dict[str, int], examples: int) -> dict[str, int]:
    """Examples of each task: proportional to its rate, rounded by largest remainder, at most its rate."""
    total = sum(rates.values())
    if examples >= total:
        return rates
    exact = {name: examples * rate / total for name, rate in rates.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: examples - sum(counts.values())]:
        counts[name] += 1
    return counts


def _cut(ids: NDArray[np.integer], longest: int) -> NDArray[np.integer]:
    return ids if len(ids) <= longest else np.append(ids[: longest - 1], EOS_ID)


def batches(pairs: Sequence[Example], max_tokens: int, pad_id: int, decoder_start: int) -> Iterator[Seq2SeqBatch]:
    """Batches of similar length with at most `max_tokens` source and as many target tokens, padding included."""
    lengths = [max(map(len, pair)) for pair in pairs]
    for batch in length_sorted_batches(lengths, max_tokens):
        yield _collate([pairs[index] for index in batch], pad_id, decoder_start)


def _collate(group: Sequence[Example], pad_id: int, decoder_start: int) -> Seq2SeqBatch:
    source, target = (torch.from_numpy(pad_rows([pair[side] for pair in group], pad_id)) for side in (0, 1))
    return Seq2SeqBatch(source, source != pad_id, shift_right(target, decoder_start), target, target != pad_id)
