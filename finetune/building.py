"""Build a mixture: one data set after the other, each recorded when its files are whole, so that a build resumes.

OUTPUT/dict.txt, tokenizer.json      the tokenizer
OUTPUT/train/TASK.{source,target}.*  token files per task; OUTPUT/valid/ likewise, where a task is validated
OUTPUT/mixture.json                  the tasks with their caps, written last
OUTPUT/build.json, datasets/*.json   the settings, and the record of each finished data set
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.examples import RENDERED, SliceJob, tokenize_slice
from finetune.mixtures import Mixture, cap_per_task
from finetune.planning import PlannedDataset, PlannedTask, held_out_split, plan_dataset, refuse_shared_tasks
from finetune.records import DatasetRecord
from finetune.settings import BuildSettings
from finetune.task_files import BUILT, FAILED, TaskWriter, remove_task
from metro_t0.claims import check_dictionary, claimed
from metro_t0.data.mixture_files import MIXTURE_FILE, SETTINGS_FILE, TRAIN, VALID, is_written, task_prefix
from metro_t0.errors import UserError
from metro_t0.files import read_json, sha256_of, write_json
from metro_t0.parallel import WorkerDied, Workers
from metro_t0.progress import progress
from metro_t0.prompts.datasets import LocalRows, RowSource, available_splits, find_rows, is_local
from metro_t0.prompts.hub import hub_sources
from metro_t0.prompts.names import DatasetName
from metro_t0.randomness import keyed_generator
from metro_t0.tokenization import Tokenizer

RECORDS = "datasets"
ROWS_PER_SLICE = 500


@dataclass
class BuildReport:
    """What became of every data set."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """One per data set that was read: its `tasks` with status, counts and caps."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(data set, reason) of those that could not be read at all, and (task, reason) of failed tasks."""


@dataclass(frozen=True)
class Builder:
    """Everything that stays the same from data set to data set."""

    mixture: Mixture
    settings: BuildSettings
    tokenizer: Tokenizer
    output: Path
    workers: Workers

    def build(self, datasets: tuple[DatasetName, ...]) -> BuildReport:
        """Build all data sets that are not yet built; a failing one does not stop the others.

        Raises `UserError` where the output holds a build with other settings, or where nothing at all was built.
        """
        refuse_shared_tasks(self.mixture, datasets, self.settings)
        settings = {**self.settings.as_json(), "tokenizer_fingerprint": self.tokenizer.fingerprint}
        settings.pop("tokenizer")  # only what it holds matters, and the fingerprint says that
        settings["mixture"] = self.mixture.name
        if not (self.output / SETTINGS_FILE).is_file():  # else it is compared with the settings
            check_dictionary(self.output, self.tokenizer.fingerprint)
        with claimed(self.output, settings, SETTINGS_FILE, [f"{RECORDS}/*.json", MIXTURE_FILE]):
            self.tokenizer.save(self.output)
            return self._build(datasets)

    def _build(self, datasets: tuple[DatasetName, ...]) -> BuildReport:
        report = BuildReport()
        for dataset in datasets:
            try:
                report.records.append(self._build_dataset(dataset))
            except WorkerDied:
                raise
            except UserError as error:
                report.failures.append((str(dataset), str(error)))
        for record in report.records:
            report.failures += [(t["name"], t["reason"]) for t in record["tasks"] if t["status"] == FAILED]
        tasks = [task_entry(record, task) for record in report.records for task in record["tasks"]]
        tasks = [task for task in tasks if task["examples"]]
        if not tasks:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in report.failures) or "no task has an example"
            raise UserError(f"mixture {self.mixture.name} is empty: {reasons}")
        write_json(self.output / MIXTURE_FILE, {"mixture": self.mixture.name, "tasks": tasks})
        return report

    def _record_path(self, dataset: DatasetName) -> Path:
        return self.output / RECORDS / f"{dataset.task_prefix.replace('/', '_')}.json"

    def _finished(self, planned: PlannedDataset) -> dict[str, Any] | None:
        """The record of an earlier build of the same templates, if all its files are there."""
        path = self._record_path(planned.dataset)
        if not path.is_file():
            return None
        record: dict[str, Any] = read_json(path, DatasetRecord)
        if record["templates"] != planned.fingerprint or record.get("rows") not in (None, self._local_files(planned)):
            return None
        built = [task_prefix(self.output, TRAIN, t["name"]) for t in record["tasks"] if t["status"] == BUILT]
        built += [
            task_prefix(self.output, VALID, t["name"])
            for t in record["tasks"]
            if (t["held_out"] or {}).get("status") == BUILT
        ]
        return record if all(is_written(prefix) for prefix in built) else None

    def _local_files(self, planned: PlannedDataset) -> dict[str, str]:
        """Hash of every local file that the data set is built from: other rows make another build."""
        found = {}
        for rows in planned.row_sources():
            if not is_local(rows, self.settings.data_dir):
                continue
            used = {TRAIN, held_out_split(rows, self.settings)}
            splits = available_splits(rows.name, rows.subset, self.settings.data_dir)
            for split in [split for split in splits if split in used]:
                source = find_rows(rows.name, rows.subset, split, self.settings.data_dir)
                if isinstance(source, LocalRows):
                    found[f"{rows}/{split}"] = sha256_of(source.path)
        return found

    def _build_dataset(self, dataset: DatasetName) -> dict[str, Any]:
        planned = plan_dataset(self.mixture, dataset, self.settings)
        record = self._finished(planned)
        if record:
            return record
        if (path := self._record_path(dataset)).is_file():
            # They would speak for files that are replaced now, after a failure or a kill, too.
            (self.output / MIXTURE_FILE).unlink(missing_ok=True)
            path.unlink()
        tasks: list[dict[str, Any]] = []
        for rows, sharing in planned.row_sources().items():
            try:
                tasks += self._build_row_source(planned, rows, sharing)
            except WorkerDied:
                raise
            except UserError as error:
                if len(planned.row_sources()) == 1:
                    raise
                tasks += [_task_record(task, FAILED, str(error)) for task in sharing]
        if all(task["status"] == FAILED for task in tasks):
            reasons = dict.fromkeys(task["reason"] for task in tasks)
            raise UserError(f"data set {dataset}: all {len(tasks)} templates failed: {'; '.join(reasons)}")
        names = {"dataset": dataset.name, "subset": dataset.subset}
        record = {**names, "templates": planned.fingerprint, "rows": self._local_files(planned), "tasks": tasks}
        if all(task["status"] != FAILED for task in tasks):  # a failed task is tried again by the next build
            write_json(path, record)
        return record

    def _build_row_source(
        self, planned: PlannedDataset, rows: DatasetName, tasks: list[PlannedTask]
    ) -> list[dict[str, Any]]:
        for task in tasks:  # of an earlier build, when there was such a split or the task was validated
            remove_task(task_prefix(self.output, VALID, task.name))
        num_rows, outcomes = self._build_split(rows, TRAIN, TRAIN, tasks, self.settings.limit)
        cap = cap_per_task(self.settings.cap, num_rows, planned.num_templates)
        built = {
            task.name: _task_record(task, **outcome, cap=cap) for task, outcome in zip(tasks, outcomes, strict=True)
        }
        validated = [task for task in tasks if task.validated and built[task.name]["status"] == BUILT]
        split = held_out_split(rows, self.settings) if validated else None
        if split:
            _, held_out = self._build_split(rows, split, VALID, validated, self.settings.held_out_limit)
            for task, outcome in zip(validated, held_out, strict=True):
                built[task.name]["held_out"] = {"split": split, **outcome}
        return list(built.values())

    def _build_split(
        self, rows: DatasetName, split: str, folder: str, tasks: list[PlannedTask], limit: int | None
    ) -> tuple[int, list[dict[str, Any]]]:
        """Write the files of all tasks for one split. Returns the number of rows read and each task's outcome."""
        source = find_rows(rows.name, rows.subset, split, self.settings.data_dir)
        indices = self._chosen_rows(len(source.open()), rows, split, limit)
        (self.output / folder).mkdir(parents=True, exist_ok=True)
        prefixes = [task_prefix(self.output, folder, task.name) for task in tasks]
        for prefix in prefixes:
            remove_task(prefix)
        writers = [TaskWriter(prefix, len(self.tokenizer)) for prefix in prefixes]
        jobs = list(self._slices(source, split, indices, tuple(tasks)))
        try:
            results = self.workers.in_order(tokenize_slice, jobs)
            for pieces in progress(results, f"{rows} {split} x {len(tasks)}", total=len(jobs), unit="slices of rows"):
                for writer, piece in zip(writers, pieces, strict=True):
                    writer.add(piece)
        except BaseException:
            for writer in writers:
                writer.discard()
            raise
        return len(indices), [{**writer.close(), "rows_from": source.origin} for writer in writers]

    def _chosen_rows(self, total: int, rows: DatasetName, split: str, limit: int | None) -> NDArray[np.int64]:
        """Indices of the rows to use, ascending: all, or a sample of `limit` that depends on the seed alone."""
        if limit is None or limit >= total:
            return np.arange(total)
        generator = keyed_generator("rows", self.settings.seed, str(rows), split)
        return np.sort(generator.choice(total, limit, replace=False))

    def _slices(
        self, rows: RowSource, split: str, indices: NDArray[np.int64], tasks: tuple[PlannedTask, ...]
    ) -> Iterator[SliceJob]:
        # Workers read the saved copy: a tokenizer.json loads faster than a sp.model is converted.
        settings = replace(self.settings, tokenizer=self.output)
        make = partial(SliceJob, rows, split, tasks=tasks, settings=settings)
        for start in range(0, len(indices), ROWS_PER_SLICE):
            yield make(indices=indices[start : start + ROWS_PER_SLICE])


def task_entry(record: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """What mixture.json says of one task."""
    source = hub_sources().get(DatasetName(record["dataset"], record["subset"]))
    return {
        "name": task["name"],
        "dataset": record["dataset"],
        "subset": record["subset"],
        "template": task["template"],
        "examples": task["counts"].get(RENDERED, 0),
        "cap": task["cap"],
        "original_task": task["original_task"],
        "held_out_split": task["held_out"]["split"] if task["held_out"] else None,
        "held_out_examples": task["held_out"]["counts"].get(RENDERED, 0) if task["held_out"] else 0,
        "rows_from": task.get("rows_from"),
        "license": source.license if source else None,
        "noncommercial": source.noncommercial if source else None,
    }


def _task_record(
    task: PlannedTask,
    status: str,
    reason: str | None,
    counts: dict[str, int] | None = None,
    rows_from: str | None = None,
    cap: int | None = None,
) -> dict[str, Any]:
    return {
        "name": task.name,
        "template": task.template.name,
        "original_task": task.template.original_task,
        "cap": cap,
        "status": status,
        "reason": reason,
        "counts": counts or {},
        "rows_from": rows_from,
        "held_out": None,
    }
