"""`metro-t0-prompts check`: is every data set where it should be, and what it should be?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from finetune.listing import NONCOMMERCIAL_MARK, license_of
from finetune.settings import PromptSettings
from metro_t0.errors import UserError
from metro_t0.prompts.datasets import Row, available_splits, find_rows, is_local
from metro_t0.prompts.hub import hub_source, hub_sources
from metro_t0.prompts.hub_rows import sample_hub
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.rendering import HiddenLabelError
from metro_t0.prompts.templates import load_templates, templated_datasets

TRAIN_OR_VALIDATION = ("train", "validation")


@dataclass
class Checked:
    """What became of one data set."""

    dataset: DatasetName
    problems: list[str] = field(default_factory=list)
    by_hand: bool = False
    """It cannot be downloaded, and no local copy was given."""
    origin: str = ""
    columns: str = ""
    rows: str = ""
    templates: str = ""

    @property
    def status(self) -> str:
        """ok, by hand or failed."""
        return "failed" if self.problems else "by hand" if self.by_hand else "ok"

    def line(self) -> str:
        """The one line that the command prints."""
        parts = (self.origin, self.columns, self.rows, self.templates, license_of(self.dataset), *self.problems)
        return f"{self.status:8}{self.dataset}: {'; '.join(part for part in parts if part)}"


def check_datasets(
    datasets: Iterable[DatasetName], settings: PromptSettings, count: int, download: bool
) -> Iterator[Checked]:
    """Look at data sets, one after the other: reachable, columns, classes, rows, and `count` rows by every template.

    download: take whole data sets, which checks the numbers of rows also where no card has them.
    """
    templated = set(templated_datasets(settings.templates_dir))
    for dataset in datasets:
        checked = Checked(dataset)
        try:
            rows = _rows(checked, settings, count, download)
            if rows and dataset in templated:
                _render(checked, rows, settings)
        except UserError as error:
            checked.problems.append(str(error))
        yield checked


def _rows(checked: Checked, settings: PromptSettings, count: int, download: bool) -> list[Row]:
    """Some rows of the data set; what is found out on the way goes to `checked`."""
    dataset = checked.dataset
    local = is_local(dataset, settings.data_dir)
    source = hub_sources().get(dataset)
    if not local and source and source.manual:
        checked.by_hand = True
        checked.origin = source.manual
        return []
    if local or download:
        splits = available_splits(dataset.name, dataset.subset, settings.data_dir)
        found = {split: find_rows(dataset.name, dataset.subset, split, settings.data_dir) for split in splits}
        checked.rows = "rows " + ", ".join(f"{split} {len(rows.open()):,}" for split, rows in found.items())
        chosen = next((split for split in TRAIN_OR_VALIDATION if split in found), splits[0])
        checked.origin = found[chosen].origin
        rows = found[chosen].open()[:count]
    else:
        sample = sample_hub(dataset, count)
        checked.origin = f"{sample.place.title}, commit {sample.commit[:12]}"
        numbers = ", ".join(f"{split} {rows:,}" for split, rows in sample.counts.items())
        checked.rows = f"rows {numbers}" if numbers else f"rows not on the card, splits {', '.join(sample.splits)}"
        rows = sample.rows
    _columns(checked, rows, local)
    return list(rows)


def _columns(checked: Checked, rows: Iterable[Row], local: bool) -> None:
    there = set().union(*(row.keys() for row in rows))
    if local:  # the hub's were compared with the table when they were read
        source = hub_sources().get(checked.dataset)
        missing = sorted(source.columns.keys() - there) if source else []
        if missing:
            checked.problems.append(f"no column {', '.join(missing)} (there are {', '.join(sorted(there))})")
        checked.columns = f"{len(there)} columns"
        return
    expected = hub_source(checked.dataset).columns
    classes = [len(names) for names in expected.values() if not isinstance(names, str)]
    checked.columns = f"{len(expected)} columns" if expected else f"{len(there)} columns, none in the table"
    if classes:
        checked.columns += f" with {' + '.join(map(str, classes))} classes by name"


def _render(checked: Checked, rows: list[Row], settings: PromptSettings) -> None:
    """Render every row by every template; a template that fails on all rows is a problem."""
    dataset = checked.dataset
    templates = load_templates(dataset.name, dataset.subset, settings.templates_dir, settings.max_variable_length)
    rendering = 0
    for template in templates.values():
        failures = []
        for index, row in enumerate(rows):
            try:
                template.render(row, (settings.seed, template.dataset, template.name, index))
            except HiddenLabelError:
                continue
            except UserError as error:
                failures.append(str(error))
        rendering += len(failures) < len(rows)
        if len(failures) == len(rows):
            checked.problems.append(failures[0])
    checked.templates = f"{rendering} of {len(templates)} templates render"


def summary(checked: list[Checked]) -> str:
    """The last line: how many of each status, and how many licenses forbid commercial use."""
    counts = {status: sum(each.status == status for each in checked) for status in ("ok", "by hand", "failed")}
    marked = sum(license_of(each.dataset).endswith(NONCOMMERCIAL_MARK) for each in checked)
    share = math.floor(100 * counts["ok"] / len(checked))
    parts = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(checked)} data sets: {parts} ({share}% ok); {marked} for non-commercial use only (marked *)"
