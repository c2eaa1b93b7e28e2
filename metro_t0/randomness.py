"""Counter-based randomness: every random number is a function of its keys, never of the order of calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def keyed_seed(*keys: int | str) -> int:
    """A 64-bit seed from any keys, the same on every platform and in every process."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def keyed_generator(*keys: int | str) -> np.random.Generator:
    """A numpy generator (Philox) that depends on the keys alone."""
    return np.random.Generator(np.random.Philox(keyed_seed(*keys)))


def sample_indices(count: int, limit: int | None, *keys: int | str) -> list[int]:
    """In order, `limit` of the numbers below `count` that the keys choose, or all of them."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(keyed_generator(*keys).choice(count, limit, replace=False).tolist())


def position_uniforms(stream: int, examples: NDArray[np.integer], length: int) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) for every position of every example of a batch.

    stream: 64-bit key of what the numbers are for (`keyed_seed("mask", seed, epoch)`).
    examples: (batch,) indices of the examples in their data set.
    Returns (batch, length) float32. Position j of example i is the same whatever the batch around it
    and whatever `length`: the SplitMix64 finalizer applied to a counter, one vectorized pass.
    """
    with np.errstate(over="ignore"):
        key = _mix(np.asarray(examples).astype(np.uint64) + np.uint64(stream & (2**64 - 1)))
        counter = np.arange(1, length + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(key[:, None] + counter[None, :])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


@dataclass(frozen=True)
class Stream:
    """Keys of the random numbers of one pass over a data set."""

    seed: int
    epoch: int

    def uniforms(self, purpose: str, examples: Sequence[int] | NDArray[np.int64], length: int) -> NDArray[np.float32]:
        """(batch, length) uniforms in [0, 1) for one purpose."""
        return position_uniforms(keyed_seed(purpose, self.seed, self.epoch), np.asarray(examples), length)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
