"""What a build writes down about each data set that it has finished (OUTPUT/datasets/NAME.json)."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class HeldOut(TypedDict):
    """The held-out examples of a task."""

    split: str
    status: str
    reason: str | None
    counts: dict[str, int]


class TaskRecord(TypedDict):
    """A task: built, empty or failed, with the numbers of its rows by what became of them."""

    name: str
    template: str
    original_task: bool
    cap: int | None
    status: str
    reason: str | None
    counts: dict[str, int]
    held_out: HeldOut | None


class DatasetRecord(TypedDict):
    """A data set, with the fingerprint of the templates, and the hashes of the local files, that it was built with."""

    dataset: str
    subset: str | None
    templates: str
    rows: NotRequired[dict[str, str]]
    tasks: list[TaskRecord]
