"""Which data sets and templates a mixture holds, and how much each task counts. The facts are in `mixtures/`."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from finetune.settings import CapRule
from metro_t0.errors import UserError, nearest
from metro_t0.files import read_json, read_yaml
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.templates import templated_datasets
from metro_t0.shapes import expect

DIRECTORY = Path(__file__).parent / "mixtures"
INDEX = DIRECTORY / "mixtures.yaml"
MAX_EXAMPLES_PER_DATASET = 500_000


@dataclass(frozen=True)
class Mixture:
    """A set of data sets, each to be used with all its templates."""

    name: str
    title: str
    train: tuple[DatasetName, ...]
    excluded_tasks: frozenset[str] = field(default_factory=frozenset)
    """Task names (`metro_t0.prompts.names.task_name`) that are not trained on."""
    validation_excluded_tasks: frozenset[str] = field(default_factory=frozenset)
    validation_skipped_datasets: frozenset[str] = field(default_factory=frozenset)
    """Data sets, as `name` or `name_subset`, that get no validation set."""


def load_mixture(name: str, templates_dir: Path | None = None) -> Mixture:
    """A mixture by name, a YAML file in the form of `mixtures/mixtures.yaml`, or any one data set that has templates.

    Raises `UserError` for an unknown name (with the nearest) or a malformed file.
    """
    if name.endswith((".yaml", ".yml")):
        return _parse(Path(name).stem, read_yaml(name), Path(name))
    index = mixture_index()
    if name in index:
        return _parse(name, index[name], INDEX)
    known = {str(dataset): dataset for dataset in templated_datasets(templates_dir)}
    if name in known:
        return Mixture(name=name, title=f"the data set {name}", train=(known[name],))
    hint = nearest(name, [*index, *known])
    raise UserError(
        f"unknown mixture {name!r}: not one of {', '.join(index)}, no data set with templates, no .yaml file{hint}"
    )


def mixture_index() -> dict[str, Any]:
    """The named mixtures, as written in `mixtures.yaml`."""
    index: dict[str, Any] = read_yaml(INDEX, dict[str, Any])
    return index


def choose_datasets(mixture: Mixture, only: Iterable[str]) -> tuple[DatasetName, ...]:
    """The data sets of a mixture named by `only` (`name` takes every subset). Raises `UserError` for other names."""
    chosen: set[DatasetName] = set()
    for wanted in only:
        matching = [dataset for dataset in mixture.train if wanted in (str(dataset), dataset.name)]
        if not matching:
            names = {str(dataset) for dataset in mixture.train} | {dataset.name for dataset in mixture.train}
            raise UserError(f"--only {wanted}: no such data set in mixture {mixture.name}{nearest(wanted, names)}")
        chosen.update(matching)
    return tuple(dataset for dataset in mixture.train if dataset in chosen)


def cap_per_task(rule: CapRule, num_rows: int, num_templates: int) -> int | None:
    """Examples per epoch that each template of a data set counts for, or None for all it has.

    "t0": a data set of more than 500,000 rows counts as 500,000 in all, shared evenly by its templates (Sanh et al.
    2022, section 4). "released": every template is held to its share of 500,000, as METRO-T0's released code does.
    """
    if rule == "t0" and num_rows <= MAX_EXAMPLES_PER_DATASET:
        return None
    return MAX_EXAMPLES_PER_DATASET // num_templates


class Entry(TypedDict):
    """A mixture of the file."""

    title: NotRequired[str]
    train: NotRequired[list[str] | None]
    train_groups: NotRequired[list[str]]
    exclusions: NotRequired[str]


class Exclusions(TypedDict, total=False):
    """A file of exclusions."""

    excluded_tasks: list[str]
    validation_excluded_tasks: list[str]
    validation_skipped_datasets: list[str]


def _parse(name: str, entry: Any, source: Path) -> Mixture:
    given: Entry = expect(entry, Entry, f"{source}: mixture {name}")
    if ("train" in given) == ("train_groups" in given):
        raise UserError(f"{source}: mixture {name} needs one of the fields 'train' and 'train_groups'")
    if "train" in given:
        train = tuple(DatasetName.parse(dataset) for dataset in given["train"] or ())
    else:
        train = tuple(_datasets_of_groups(set(given["train_groups"])))
    if not train:
        raise UserError(f"{source}: mixture {name} is empty; list data sets under 'train'")
    _refuse_shared_names(train, source)
    exclusions: Exclusions = (
        read_json(source.parent / given["exclusions"], Exclusions) if "exclusions" in given else Exclusions()
    )
    return Mixture(
        name=name,
        title=given.get("title", name),
        train=train,
        excluded_tasks=frozenset(exclusions.get("excluded_tasks", ())),
        validation_excluded_tasks=frozenset(exclusions.get("validation_excluded_tasks", ())),
        validation_skipped_datasets=frozenset(exclusions.get("validation_skipped_datasets", ())),
    )


def _refuse_shared_names(datasets: Iterable[DatasetName], source: Path) -> None:
    """Raise `UserError` for a data set that is listed twice, and for two whose files would have the same names."""
    owners: dict[str, DatasetName] = {}
    for dataset in datasets:
        other = owners.setdefault(dataset.task_prefix.replace("/", "_"), dataset)
        if other is not dataset:
            what = f"lists {dataset} twice" if other == dataset else f"{other} and {dataset} share their file names"
            raise UserError(f"{source}: {what}; leave one of them out{'' if other == dataset else ' or rename it'}")


def _datasets_of_groups(groups: set[str]) -> Iterable[DatasetName]:
    with (DIRECTORY / "t0_datasets.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["do_train"] in groups:
                yield DatasetName(row["HF_name"], row["subset"] or None)
