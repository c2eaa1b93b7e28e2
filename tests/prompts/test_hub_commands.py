"""Commands against the stand-in of the hub: a build, `check`, and the hundreds of configurations of P3."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hub_processes import Client, started
from hub_server import Hub, Repository, Server, changed, load_cards, readme, repository, small, standard_hub

from metro_t0.tokenization.settings import BpeSettings
from metro_t0.tokenization.training import train_bpe


def p3_hub(configs: int) -> Hub:
    """bigscience/P3 as its card describes it: hundreds of configurations, a few with data."""
    columns = {"inputs_pretokenized": "string", "targets_pretokenized": "string"}
    content = {"columns": columns, "splits": {"train": 20, "validation": 10}}
    filled = {f"filled_{number}": content for number in range(6)}
    card = {"configs": {**filled, **{f"empty_{number}": content for number in range(configs - 6)}}}
    files = repository({"configs": filled}, "P3").branches["main"]
    return Hub({"bigscience/P3": Repository({"main": {**files, "README.md": readme(card, "main")}})})


def test_configurations_of_p3_cost_little_after_the_first(tmp_path: Path) -> None:
    hub = p3_hub(660)
    with Server(hub) as server:
        client = Client(server.url, tmp_path / "home")
        answers = []
        requests = []
        for number in range(6):
            before = len(hub.asked)
            answers.append(client.ask(f"bigscience/P3/filled_{number}", "train"))
            requests.append(len(hub.asked) - before)
        client.close()
    assert all(answer["count"] == small(20) for answer in answers), answers
    assert min(answer["seconds"] for answer in answers[1:]) < 0.1
    assert max(requests[1:]) <= 8


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vocabulary")
    train_bpe(
        Counter(dict.fromkeys(["text", "title", "content", "question", "0", "1", "2"], 50)), BpeSettings(40), directory
    )
    return directory


def test_a_mixture_is_built_with_few_requests(tmp_path: Path, vocabulary: Path) -> None:
    """Two processes, two data sets of the hub beside one from disk; then once more, with nothing left to do."""
    hub = standard_hub(["CogComp/trec", "fancyzhx/ag_news"])
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/train.jsonl").write_text('{"q": "a", "a": "b"}\n')
    (tmp_path / "templates/mine").mkdir(parents=True)
    (tmp_path / "templates/mine/templates.yaml").write_text(
        "templates: {t: {name: plain, jinja: '{{q}} ||| {{a}}', answer_choices: null}}\n"
    )
    (tmp_path / "mix.yaml").write_text("train: [trec, ag_news, mine]\n")
    options = ["--mixture", tmp_path / "mix.yaml", "--tokenizer", vocabulary, "--output", tmp_path / "out"]
    options += ["--data-dir", tmp_path / "data", "--templates", tmp_path / "templates", "--workers", 2]
    with Server(hub) as server:
        build = started(server.url, tmp_path / "home", "build", *options)
        output, errors = build.communicate()
        assert build.returncode == 0, (output, errors)
        asked = len(hub.asked)
        again = started(server.url, tmp_path / "home", "build", *options)
        again.communicate()
        assert again.returncode == 0
    assert asked <= 2 * 2 * 7  # two splits of two data sets
    assert len(hub.asked) == asked
    tasks = {task["name"]: task for task in json.loads((tmp_path / "out/mixture.json").read_text())["tasks"]}
    trec, news = tasks["trec_what_category_best_describe"], tasks["ag_news_classify"]
    assert trec["rows_from"] == "CogComp/trec@65752bf53af25bc935a0dce92fb5b6c930728450"
    assert (trec["license"], trec["noncommercial"]) == ("unstated", False)
    assert (news["license"], news["noncommercial"]) == ("other (AG, non-commercial use)", True)
    assert (tasks["mine_plain"]["rows_from"], tasks["mine_plain"]["license"]) == ("local files", None)
    assert sum(name.startswith("trec_fine_grained") for name in tasks) == 11  # none of them had a target


def test_check_says_what_is_well_and_what_is_not(tmp_path: Path) -> None:
    hub = standard_hub(["CogComp/trec", "knkarthick/samsum"])
    id = "cornell-movie-review-data/rotten_tomatoes"
    hub.repositories[id] = repository(changed(load_cards()[id], "names"), "rotten_tomatoes")
    (tmp_path / "mix.yaml").write_text("train: [trec, samsum, rotten_tomatoes, story_cloze/2016]\n")
    with Server(hub) as server:
        process = started(server.url, tmp_path / "home", "check", "--mixture", tmp_path / "mix.yaml", "--rows", "5")
        output, errors = process.communicate()
    assert process.returncode == 3, errors
    trec, samsum, tomatoes, cloze, last = output.splitlines()
    assert trec.startswith("ok      trec: CogComp/trec@65752bf53af2, ")
    assert "3 columns with 6 + 47 classes by name" in trec
    assert "18 of 18 templates render" in trec
    assert samsum.endswith("7 of 7 templates render; CC BY-NC-ND 4.0 *")
    assert tomatoes.startswith("failed  rotten_tomatoes: ")
    assert "column label: its classes differ" in tomatoes
    assert cloze.startswith("by hand story_cloze/2016: Story Cloze is given out only after")
    assert last == "4 data sets: 2 ok, 1 by hand, 1 failed (50% ok); 1 for non-commercial use only (marked *)"
