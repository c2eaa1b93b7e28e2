"""A sample of a built prompt mixture, as batches of a sequence-to-sequence model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metro_t0.data.token_files import TokenFile
from metro_t0.errors import UserError
from metro_t0.files import read_json
from metro_t0.randomness import keyed_generator

EOS = 2
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
    """At most `examples` pairs of the mixture, each drawn from a task with the task's rate, without repetition.

    directory: what `metro-t0-prompts build` wrote. A task's rate is its number of examples up to its cap, as in
    training. Longer sequences are cut and end with </s> all the same. The sample depends on (seed, task) alone.
    Raises `UserError` where the directory is no mixture or the split is empty.
    """
    tasks = _tasks(directory, split)
    rates = {name: min(size, cap) for name, (size, cap) in tasks.items()}
    wanted = _allot(rates, examples)
    pairs: list[Example] = []
    for name, count in wanted.items():
        sources, targets = (TokenFile(directory / split / f"{name}.{side}") for side in ("source", "target"))
        if len(sources) != len(targets):
            raise UserError(f"{directory}/{split}/{name}: {len(sources)} sources but {len(targets)} targets; rebuild")
        chosen = keyed_generator("analysis", seed, name).permutation(len(sources))[:count]
        pairs.extend((_cut(sources[i], max_source), _cut(targets[i], max_target)) for i in chosen.tolist())
    return pairs


def _tasks(directory: Path, split: str) -> dict[str, tuple[int, int]]:
    """Name -> (examples in the split, cap) of the tasks that have any."""
    described = read_json(directory / "mixture.json")
    if not isinstance(described, dict) or "tasks" not in described:
        raise UserError(f"{directory}/mixture.json: no tasks in it; make the directory with metro-t0-prompts build")
    found: dict[str, tuple[int, int]] = {}
    for task in described["tasks"]:
        prefix = directory / split / f"{task['name']}.source"
        size = len(TokenFile(prefix)) if prefix.with_name(prefix.name + ".idx").is_file() else 0
        if size:
            found[task["name"]] = (size, int(task.get("cap") or size))
    if not found:
        raise UserError(f"{directory}/{split}: no examples of any task of mixture.json; choose another split")
    return found


def _allot(rates: dict[str, int], examples: int) -> dict[str, int]:
    """How many examples each task gives: proportional to its rate, rounded by largest remainder, at most its rate."""
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
    return ids if len(ids) <= longest else np.append(ids[: longest - 1], EOS)


def batches(pairs: Sequence[Example], max_tokens: int, pad_id: int, decoder_start: int) -> Iterator[Seq2SeqBatch]:
    """Batches of similar length with at most `max_tokens` source and as many target tokens, padding included."""
    group: list[Example] = []
    longest = 0
    for pair in sorted(pairs, key=lambda pair: (len(pair[0]), len(pair[1]))):
        longest = max(longest, len(pair[0]), len(pair[1]))
        if group and longest * (len(group) + 1) > max_tokens:
            yield _collate(group, pad_id, decoder_start)
            group, longest = [], max(len(pair[0]), len(pair[1]))
        group.append(pair)
    if group:
        yield _collate(group, pad_id, decoder_start)


def _collate(group: Sequence[Example], pad_id: int, decoder_start: int) -> Seq2SeqBatch:
    source, source_valid = _pad([pair[0] for pair in group], pad_id)
    target, target_valid = _pad([pair[1] for pair in group], pad_id)
    decoder_input = torch.full_like(target, decoder_start)
    decoder_input[:, 1:] = target[:, :-1]
    return Seq2SeqBatch(source, source_valid, decoder_input, target, target_valid)


def _pad(rows: Sequence[NDArray[np.integer]], pad_id: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    valid = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    padded = torch.full(valid.shape, pad_id)
    padded[valid] = torch.from_numpy(np.concatenate(rows).astype(np.int64))
    return padded, valid
