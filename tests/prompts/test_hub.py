"""The real `datasets` against a stand-in of the hub: every data set of the table, few requests, faults, drift."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_processes import Client
from hub_server import CONVERT, Hub, Server, changed, load_cards, repository, small, standard_hub

from metro_t0.errors import UserError
from metro_t0.prompts.datasets import load_rows
from metro_t0.prompts.drift import DriftError, check_rows, conversion
from metro_t0.prompts.hub import HubPlace, HubSource, hub_source, hub_sources
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.rendering import RenderError
from metro_t0.prompts.templates import load_templates

SOURCES = {name: source for name, source in hub_sources().items() if not source.manual}
OLD_COARSE = ["DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC"]


@pytest.fixture(scope="module")
def hub() -> Hub:
    return standard_hub()


@pytest.fixture(scope="module")
def served(hub: Hub) -> Iterator[Server]:
    with Server(hub) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(served.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()


def test_the_table_says_what_the_cards_say() -> None:
    """Numbers of rows of every split, for every place that has a card."""
    cards = load_cards()
    compared = 0
    for source in SOURCES.values():
        for place in source.places:
            if place.id not in cards:
                continue  # a mirror without a card
            configs = cards[place.id]["configs"]
            config = configs.get(place.config) or next(iter(configs.values()))
            for split, count in config["splits"].items():
                ours = {there: name for name, there in place.splits.items()}.get(split, split)
                assert count in source.rows[ours], (place.id, split)
                compared += 1
    assert compared > 180


@pytest.mark.parametrize("name", SOURCES, ids=str)
def test_every_data_set_loads_and_its_templates_render(client: Client, hub: Hub, name: DatasetName) -> None:
    asked = len(hub.asked)
    source = SOURCES[name]
    for split, counts in source.rows.items():
        answer = client.ask(str(name), split, rows=40)
        assert answer.get("count") in {small(count) for count in counts}, answer
        assert source.columns.keys() <= answer["rows"][0].keys()
    # Nothing is asked for a second split, and little more than the files for the first.
    assert len(hub.asked) - asked <= 9 + 3 * len(source.rows)
    if name.name == "mmlu":  # is rendered by the templates of another data set
        return
    for template in load_templates(name.name, name.subset).values():
        for row in answer["rows"][:2]:
            # Made-up answers are not always among the choices; the columns are all there.
            with contextlib.suppress(RenderError):
                template.render(row)


def test_pinned_commits_are_read(client: Client, hub: Hub) -> None:
    client.ask("rotten_tomatoes", "train")
    pinned = [place for source in SOURCES.values() for place in source.places if place.commit]
    assert len(pinned) > 35
    assert all(len(place.commit or "") == 40 for place in pinned)
    assert any(
        place.commit and f"/datasets/{place.id}/resolve/{place.commit}/" in "".join(hub.asked) for place in pinned
    )


def test_classes_of_trec_are_mapped_by_name(client: Client) -> None:
    """The hub counts ABBR, ENTY, DESC, ...; the templates expect DESC, ENTY, ABBR, ..."""
    columns = load_cards()["CogComp/trec"]["configs"]["default"]["columns"]
    names, fine_names = columns["coarse_label"]["class"], columns["fine_label"]["class"]
    answer = client.ask("trec", "train", rows=small(5452))
    templates = load_templates("trec")
    described = {"DESC": "Description", "ENTY": "Entity", "ABBR": "Abbreviation"}
    described |= {"HUM": "Person", "NUM": "Quantity", "LOC": "Location"}
    for index, row in enumerate(answer["rows"]):
        name = names[index % len(names)]
        assert OLD_COARSE[row["label_coarse"]] == name
        rendered = templates["what_category_best_describe"].render(row)
        assert rendered is not None
        assert rendered.target == described[name]
    fine = {fine_names[index % 50]: row["label_fine"] for index, row in enumerate(answer["rows"])}
    assert len(fine) == 50
    open_ended = templates["fine_grained_open"]
    for name, answer_text in {
        "ABBR:abb": "Abbreviation",
        "ENTY:currency": "Currency",
        "HUM:desc": "Description",
        "DESC:desc": "Description",
        "LOC:other": "Other",
        "NUM:weight": "Weight",
        "HUM:gr": "Group",
    }.items():
        rendered = open_ended.render({"text": "?", "label_fine": fine[name], "label_coarse": 0})
        assert rendered is not None
        assert rendered.target == answer_text


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    with Server(Hub({})) as server:
        url = server.url  # nobody answers there any more
    client = Client(url, tmp_path / "home")
    start = time.monotonic()
    answer = client.ask("xsum", "train")
    client.ask("imdb", "train")
    assert time.monotonic() - start < 20  # 25 seconds for each without the first look
    client.close()
    assert f"{url} does not answer" in answer["said"][0]
    error = answer["error"]
    assert error.startswith(
        "data set xsum cannot be taken from the hub (it cannot be reached, and its cache does not have "
        "EdinburghNLP/xsum or knkarthick/xsum); give local files with "
    )
    assert "--data-dir DIR (as DIR/xsum/SPLIT.jsonl" in error
    assert "\n" not in error


DRIFTED = {
    "rotten_tomatoes": (
        "names",
        "column label: its classes differ (has bad, good that the table lacks, lacks neg, pos)",
    ),
    "imdb": ("numbers", "column label holds number without names of classes, so that their meaning is unknown"),
    "ag_news": ("columns", "no column text (it has label, sentence)"),
    "sciq": ("rows", "split validation has "),
    "quartz": ("split", "no split validation (it has train, test)"),
}


@pytest.fixture(scope="module")
def faulty() -> Hub:
    """A hub on which much is not as it was."""
    cards = load_cards()
    ids = {name: SOURCES[DatasetName(name)].places[0].id for name in DRIFTED}
    changes = {ids[name]: change for name, (change, _) in DRIFTED.items()} | {"facebook/anli": "order"}
    hub = standard_hub(
        [
            "dataset-org/dream",
            "ybisk/piqa",
            "baber/piqa",
            "stanfordnlp/web_questions",
            "microsoft/wiki_qa",
            "allenai/qasc",
        ]
    )
    for id, change in changes.items():
        hub.repositories[id] = repository(changed(cards[id], change), id.split("/")[1])
    hub.repositories["dataset-org/dream"].commits.clear()  # the known one is gone
    del hub.repositories["ybisk/piqa"].branches[CONVERT]  # a loading script is all there is
    script_only = {**cards["aps/super_glue"], "layout": "convert", "commit": None}
    hub.repositories["aps/super_glue"] = repository(script_only, "super_glue")
    hub.repositories["stanfordnlp/web_questions"].gated = True
    hub.refusals["microsoft/wiki_qa"] = 2
    hub.cuts["allenai/qasc"] = 2
    return hub


@pytest.fixture(scope="module")
def unlucky(faulty: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A process for which that is the hub."""
    with Server(faulty) as server:
        client = Client(server.url, tmp_path_factory.mktemp("home"))
        yield client
        client.close()


def test_a_lost_commit_is_read_from_its_branch(unlucky: Client) -> None:
    answer = unlucky.ask("dream", "train")
    assert answer["count"] == small(6116)
    (said,) = answer["said"]
    assert "dream is read from dataset-org/dream@refs/convert/parquet (dataset-org/dream@ca4c45feaf08: " in said


def test_the_second_place_is_taken_and_said(unlucky: Client) -> None:
    """The converted branch is gone, the main branch has a script only."""
    answer = unlucky.ask("piqa", "validation")
    assert answer["count"] == small(1838)
    (said,) = answer["said"]
    assert "piqa is read from baber/piqa@142f6d7367fd" in said
    assert "Dataset scripts are no longer supported" in said


def test_the_conversion_is_read_where_main_has_a_script_only(unlucky: Client) -> None:
    """Of several configurations, each is a folder of the branch."""
    answer = unlucky.ask("super_glue/cb", "validation")
    assert answer["count"] == small(56)
    assert "super_glue/cb is read from aps/super_glue/cb@refs/convert/parquet" in answer["said"][0]


def test_a_gated_or_missing_data_set_is_one_line(unlucky: Client) -> None:
    gated, missing = unlucky.ask("web_questions", "train")["error"], unlucky.ask("common_gen", "train")["error"]
    assert "stanfordnlp/web_questions' is a gated dataset on the Hub" in gated
    assert "You must be authenticated" in gated
    assert "allenai/common_gen' doesn't exist on the Hub or cannot be accessed" in missing
    for message in (gated, missing):
        assert "give local files with --data-dir DIR (as DIR/" in message
        assert "\n" not in message


def test_the_rate_limit_is_waited_for(unlucky: Client, faulty: Hub) -> None:
    assert unlucky.ask("wiki_qa", "train")["count"] == small(20360)
    assert faulty.refusals["microsoft/wiki_qa"] == 0


def test_a_connection_cut_in_the_middle_is_taken_up_again(unlucky: Client, faulty: Hub) -> None:
    assert unlucky.ask("qasc", "validation")["count"] == small(926)
    assert faulty.cuts["allenai/qasc"] == 0


@pytest.mark.parametrize("name", DRIFTED)
def test_a_data_set_that_differs_is_refused(unlucky: Client, name: str) -> None:
    assert DRIFTED[name][1] in unlucky.ask(name, "train")["error"]


def test_another_order_of_classes_is_mapped(unlucky: Client) -> None:
    assert [row["label"] for row in unlucky.ask("anli", "dev_r1")["rows"]] == [2, 0, 1]


def test_values_by_kind_of_the_class_column() -> None:
    source = HubSource((HubPlace("a/b"),), columns={"label": (("no",), ("yes", "sure"))}, rows={"train": (5, 6)})
    place = source.places[0]
    same = conversion(source, place, {"label": datasets.ClassLabel(names=["no", "yes", "sure"])})
    assert same.classes == (("label", ((0, 0), (1, 1), (2, 1), (-1, -1))),)
    text = conversion(source, place, {"label": datasets.Value("string")})
    table = text.apply(datasets.Dataset.from_dict({"label": ["sure", "no", None]}).data.table)
    assert table["label"].to_pylist() == [1, 0, None]
    odd = datasets.Dataset.from_dict({"label": ["sure", "maybe"]}).data.table
    assert text.unknown_values(odd) == ["column label holds maybe, which is no class of the table"]
    with pytest.raises(DriftError, match="split train has 7 rows, not 5 or 6"):
        check_rows(source, "train", 7)
    flags = HubSource((place,), columns={"label": (("False",), ("True",))})
    flag = conversion(flags, place, {"label": datasets.Value("bool")})
    assert flag.apply(datasets.Dataset.from_dict({"label": [True, False]}).data.table)["label"].to_pylist() == [1, 0]


def test_a_parquet_file_copied_from_the_hub_is_mapped_by_name(tmp_path: Path) -> None:
    """Its schema names the classes in today's order; a file without names is taken as it is."""
    files = repository(load_cards()["CogComp/trec"], "trec").branches[CONVERT]
    (tmp_path / "trec").mkdir()
    (tmp_path / "trec/test.parquet").write_bytes(files["default/test/0000.parquet"])
    rows = load_rows("trec", None, "test", tmp_path)
    assert [row["label_coarse"] for row in rows[:6]] == [2, 1, 0, 3, 5, 4]
    own = pa.table({"text": ["a"], "label_coarse": [0], "label_fine": [7]})
    pq.write_table(own, tmp_path / "trec/train.parquet")
    assert load_rows("trec", None, "train", tmp_path)[0] == {"text": "a", "label_coarse": 0, "label_fine": 7}
    (tmp_path / "imdb").mkdir()
    numbers = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})  # has a schema of `datasets`, but no names
    numbers.to_parquet(tmp_path / "imdb/train.parquet")
    assert load_rows("imdb", None, "train", tmp_path)[0]["label"] == 1
    other = numbers.cast_column("label", datasets.ClassLabel(names=["good", "bad"]))
    other.to_parquet(tmp_path / "imdb/test.parquet")
    with pytest.raises(UserError, match=r"imdb/test.parquet: a file of the hub that is not as .* \(has good, bad"):
        load_rows("imdb", None, "test", tmp_path)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match=r"unknown data set rotten_tomato .*did you mean rotten_tomatoes"):
        hub_source(DatasetName("rotten_tomato"))
    assert hub_source(DatasetName("someone/something", "x")) == HubSource((HubPlace("someone/something", "x"),))
    assert hub_source(DatasetName("someone", "something")) == HubSource((HubPlace("someone/something"),))
    with pytest.raises(UserError, match="Story Cloze is given out only after"):
        hub_source(DatasetName("story_cloze", "2016"))
