"""The named mixtures, their exclusions and caps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from finetune.mixtures import DIRECTORY, cap_per_task, choose_datasets, load_mixture
from finetune.planning import plan_dataset
from finetune.settings import BuildSettings
from metro_t0.errors import UserError
from metro_t0.prompts.names import DatasetName, task_name
from metro_t0.prompts.templates import load_templates


@pytest.mark.parametrize(("name", "datasets", "tasks"), [("t0", 38, 313), ("t0+", 48, 392), ("t0++", 54, 464)])
def test_sizes_of_the_published_mixtures(name: str, datasets: int, tasks: int) -> None:
    mixture = load_mixture(name)
    assert len(mixture.train) == datasets
    assert sum(len(load_templates(d.name, d.subset)) for d in mixture.train) == tasks


def test_the_facts_are_the_published_ones(spec_dir: Path) -> None:
    with (spec_dir / "t0_datasets.csv").open() as theirs, (DIRECTORY / "t0_datasets.csv").open() as ours:
        assert list(csv.DictReader(ours)) == list(csv.DictReader(theirs))
    assert json.loads((DIRECTORY / "t0_exclusions.json").read_text()) == json.loads(
        (spec_dir / "t0_exclusions.json").read_text()
    )


def test_no_evaluation_data_set_is_trained_on() -> None:
    """T0's held-out families (NLI, coreference, WSD, story completion) are in no plain T0 mixture."""
    held_out = {"anli", "winogrande", "story_cloze"}
    rte_cb = {DatasetName("super_glue", "rte"), DatasetName("super_glue", "cb")}
    for name in ("t0", "t0+", "t0++"):
        train = load_mixture(name).train
        assert not held_out & {dataset.name for dataset in train}
        assert not rte_cb & set(train)
    assert "super_glue" not in {dataset.name for dataset in load_mixture("t0").train}
    embedded = load_mixture("embedded").train
    assert not {DatasetName("embedded", "which_word"), DatasetName("embedded", "word_order")} & set(embedded)


@pytest.mark.parametrize(
    ("rule", "rows", "templates", "cap"),
    [
        ("t0", 363_846, 6, None),
        ("t0", 500_000, 9, None),
        ("t0", 3_600_000, 9, 55_555),
        ("t0", 3_803_957, 9, 55_555),
        ("released", 363_846, 6, 83_333),
        ("released", 204_045, 10, 50_000),
        ("released", 400, 12, 41_666),
    ],
)
def test_caps(rule: str, rows: int, templates: int, cap: int | None) -> None:
    assert cap_per_task(rule, rows, templates) == cap  # type: ignore[arg-type]


def test_validation_follows_t0(tmp_path: Path) -> None:
    mixture = load_mixture("t0")
    settings = BuildSettings(tokenizer=tmp_path)
    agnews = plan_dataset(mixture, DatasetName("ag_news"), settings)
    assert {t.name for t in agnews.tasks if t.validated} == {t.name for t in agnews.tasks if t.template.original_task}
    assert not any(t.validated for t in plan_dataset(mixture, DatasetName("imdb"), settings).tasks)
    everything = BuildSettings(tokenizer=tmp_path, validation="all")
    assert all(t.validated for t in plan_dataset(mixture, DatasetName("imdb"), everything).tasks)


def test_excluded_tasks_are_left_out_but_share_the_cap(tmp_path: Path) -> None:
    mixture = load_mixture("t0")
    names = [task_name(DatasetName("ag_news"), t) for t in load_templates("ag_news")]
    fewer = type(mixture)("x", "x", mixture.train, excluded_tasks=frozenset(names[:2]))
    planned = plan_dataset(fewer, DatasetName("ag_news"), BuildSettings(tokenizer=tmp_path))
    assert [task.name for task in planned.tasks] == names[2:]
    assert planned.num_templates == len(names)


def test_p3_plans_one_configuration_per_task(tmp_path: Path) -> None:
    settings = BuildSettings(tokenizer=tmp_path, source="p3")
    planned = plan_dataset(load_mixture("t0"), DatasetName("glue", "mrpc"), settings)
    assert len(planned.row_sources()) == len(planned.tasks) == 7
    task = next(task for task in planned.tasks if task.name == "glue_mrpc_equivalent")
    assert task.rows == DatasetName("bigscience/P3", "glue_mrpc_equivalent")
    row = {"inputs_pretokenized": "a ||| b ", "targets_pretokenized": "\n equivalent"}
    assert task.template.render(row) == ("a ||| b", "equivalent", None)


def test_a_single_data_set_and_a_file_are_mixtures_too(tmp_path: Path) -> None:
    assert load_mixture("glue/mrpc").train == (DatasetName("glue", "mrpc"),)
    (tmp_path / "own.yaml").write_text("train: [imdb, super_glue/rte]\nexclusions: out.json\n")
    (tmp_path / "out.json").write_text('{"excluded_tasks": ["imdb_x"]}')
    own = load_mixture(str(tmp_path / "own.yaml"))
    assert own.train == (DatasetName("imdb"), DatasetName("super_glue", "rte"))
    assert own.excluded_tasks == {"imdb_x"}


def test_only_chooses_by_name_or_subset() -> None:
    mixture = load_mixture("t0")
    assert [str(d) for d in choose_datasets(mixture, ["glue", "imdb"])] == ["glue/mrpc", "glue/qqp", "imdb"]
    with pytest.raises(UserError, match="did you mean glue/mrpc"):
        choose_datasets(mixture, ["glue/mrp"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: []", "is empty"),
        ("train: [a]\ntrain_groups: [b]", "needs one of"),
        ("- a", "mapping"),
        ("a: [", "not a YAML"),
    ],
)
def test_malformed_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        load_mixture(str(tmp_path / "m.yaml"))


def test_unknown_mixtures_give_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown mixture 't0\+\+\+'.*did you mean t0\+\+"):
        load_mixture("t0+++")
