"""Token-budget batches, and what happens when memory runs out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.batching import is_out_of_memory, run_batches
from metro_t0.errors import UserError
from metro_t0.token_budget import length_sorted_batches


@given(st.lists(st.integers(1, 60)), st.integers(1, 200))
def test_batches_cover_all_rows_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_sorted_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(flat, reverse=True)


@given(st.lists(st.integers(1, 60), min_size=1), st.integers(60, 200))
def test_out_of_memory_halves_the_budget_and_loses_no_row(lengths: list[int], memory: int) -> None:
    done: list[int] = []
    budgets: list[int] = []

    def work(batch: list[int], max_tokens: int) -> None:
        if len(batch) * max(lengths[i] for i in batch) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        budgets.append(max_tokens)

    for batch in run_batches(lengths, 10_000, work):
        done += batch
    assert sorted(done) == list(range(len(lengths)))
    assert budgets == sorted(budgets, reverse=True)


def test_a_single_prompt_that_does_not_fit_is_one_clear_line() -> None:
    def work(batch: list[int], max_tokens: int) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried")

    with pytest.raises(UserError, match="out of memory on a single prompt of 30 tokens"):
        list(run_batches([30, 20], 1000, work))


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def work(batch: list[int], max_tokens: int) -> None:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        list(run_batches([3], 10, work))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 17.7 GB)"))
