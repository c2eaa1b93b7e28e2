"""Scores, standard errors, paired tests, tables, figures and the page."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from eval.cli import main
from eval.figures import bar_plot, save_figure
from eval.report import render_page
from eval.results import ResultsDirectory, TemplateResult, file_name
from eval.scores import Score, accuracy, chance, majority, mean_over_tasks, mean_over_templates
from eval.significance import bootstrap_difference, compare, compare_seeds, mcnemar_exact
from eval.summary import Summary, TaskSummary, summarize_directory
from eval.tables import paper_rows, partial_note, percent, read_paper_table, task_rows
from metro_t0.errors import UserError
from metro_t0.intervals import wilson_interval

outcome_strings = st.text("01", min_size=2, max_size=30)


def result(task: str, template: str, outcomes: str, **changes: object) -> TemplateResult:
    values = {
        "task": task,
        "dataset": task,
        "split": "validation",
        "template": template,
        "template_hash": "x",
        "num_rows": len(outcomes),
        "outcomes": outcomes,
        "outcomes_length_normalized": outcomes[::-1],
        "skipped": {},
        "truncated_sources": 0,
        "chance": 0.5,
        "majority": 0.6,
        "labels": ["yes", "no"],
        "confusion": [[3, 1], [2, 4]],
        "samples": [
            {
                "index": 0,
                "source": "</script><script>alert(1)</script> & \u2028 <b>",
                "choices": ["yes", "no"],
                "gold": 0,
                "predicted": 1,
                "log_probabilities": [-2.0, -1.0],
            }
        ],
        "seconds": 1.0,
    }
    return TemplateResult(**{**values, **changes})  # type: ignore[arg-type]


def summary_of(model: str, tasks: dict[str, list[str]]) -> Summary:
    made = [
        TaskSummary(name, tuple(result(name, f"t{i}", o) for i, o in enumerate(outcomes)))
        for name, outcomes in tasks.items()
    ]
    return Summary({"model": model, "task_set": "t0", "limit": None}, tuple(made), {})


def write_results(path: Path, model: str, tasks: dict[str, list[str]], task_set: str = "t0") -> Path:
    directory = ResultsDirectory(path)
    with directory.claimed({"model": model, "fingerprint": model, "task_set": task_set, "limit": None}):
        directory.plan = {task: [f"t{i}" for i in range(len(outcomes))] for task, outcomes in tasks.items()}
        for task, outcomes in tasks.items():
            for i, string in enumerate(outcomes):
                directory.save(result(task, f"t{i}", string), None)
    return path


@given(outcome_strings)
def test_accuracy_and_its_error_are_mean_and_standard_error(outcomes: str) -> None:
    values = np.array([c == "1" for c in outcomes], dtype=float)
    score = accuracy(outcomes + "--")
    assert score.value == pytest.approx(values.mean())
    assert score.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)))
    assert score.n == len(values)


@given(st.integers(2, 20).flatmap(lambda n: st.lists(st.text("01", min_size=n, max_size=n), min_size=1, max_size=5)))
def test_error_over_templates_is_that_of_the_rows_means(outcomes: list[str]) -> None:
    """Where all templates score all rows; templates are not independent samples."""
    rows = np.array([[c == "1" for c in row] for row in outcomes], dtype=float).mean(0)
    score = mean_over_templates(outcomes)
    assert score.value == pytest.approx(rows.mean())
    assert score.standard_error == pytest.approx(rows.std(ddof=1) / math.sqrt(len(rows)), abs=1e-12)
    assert mean_over_templates([*outcomes, *outcomes]).standard_error == pytest.approx(score.standard_error, abs=1e-12)


def test_templates_that_score_different_rows_count_the_same() -> None:
    score = mean_over_templates(["1---", "-001"])
    assert score.value == pytest.approx((1 + 1 / 3) / 2)
    assert score.n == 4


def test_average_over_tasks() -> None:
    average = mean_over_tasks([Score(0.5, 0.03, 10), Score(0.7, 0.04, 1000)])
    assert average.value == pytest.approx(0.6)
    assert average.standard_error == pytest.approx(0.025)
    assert chance([2, 4]) == pytest.approx(0.375)
    assert majority([0, 1, 1, 1]) == 0.75


def test_averages_of_as_many_other_tasks_are_marked() -> None:
    one, other = (summary_of(name, {"rte": ["11"], task: ["01"]}) for name, task in (("a", "cb"), ("b", "copa")))
    parts = [Summary(s.run, s.tasks, {missing: "no data"}) for s, missing in ((one, "copa"), (other, "cb"))]
    label, *averages = task_rows(parts)[1][-1][:3]
    assert label == "mean"
    assert all(average.endswith("*") for average in averages)
    assert task_rows([parts[0]] * 2)[1][-1][0] == "mean over 2 of 3"


@given(st.integers(0, 30), st.integers(0, 30))
@example(2500, 2600)  # as two models may differ on HellaSwag's 10,042 rows
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected)


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    draw = np.random.default_rng(0)
    first = "".join(draw.choice(["0", "1"], 800))
    second = "".join("1" if draw.random() < 0.15 else c for c in first)
    difference, resampled = bootstrap_difference([first], [second], "task")
    paired = np.array([int(b) - int(a) for a, b in zip(first, second, strict=True)])
    assert difference == pytest.approx(paired.mean())
    assert resampled.std() == pytest.approx(paired.std() / math.sqrt(800), rel=0.05)


def test_comparison_finds_a_real_difference_and_no_other() -> None:
    a = summary_of("a", {"same": ["01" * 40], "better": ["01" * 40]})
    b = summary_of("b", {"same": ["01" * 40], "better": ["11" * 40]})
    same, better, mean = compare(a, b)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert better.difference == 0.5
    assert better.p_value < 0.001
    assert better.low > 0.35
    assert better.mcnemar["t0"] == pytest.approx(2 / 2**40)
    assert mean.difference == 0.25


def test_seeds_are_pooled_on_the_same_rows() -> None:
    """Two seeds with opposite luck on the same rows cancel; each alone is significant."""

    def model(name: str, outcomes: str) -> Summary:
        return Summary(
            {"model": name, "task_set": "x"}, (TaskSummary("seen_a", (result("seen_a", "t0", outcomes),)),), {}
        )

    worse, better = model("worse", "0" * 40 + "1" * 40), model("better", "1" * 60 + "0" * 20)
    pairs = [(worse, better), (better, worse)]
    alone = compare_seeds(pairs[:1], str.strip, "seen")
    assert alone.difference == pytest.approx(0.25)
    assert alone.p_value < 0.01
    assert (alone.low, alone.high) == (compare(worse, better)[-1].low, compare(worse, better)[-1].high)
    pooled = compare_seeds(pairs, str.strip, "seen")
    assert (pooled.difference, pooled.low, pooled.high) == pytest.approx((0, 0, 0), abs=1e-12)
    with pytest.raises(UserError, match="unseen: the results have no such task"):
        compare_seeds(pairs, lambda task: not task.startswith("seen_"), "unseen")


def test_paper_table_has_our_row_and_no_average_of_a_part(spec_dir: Path) -> None:
    table = read_paper_table("T0 Eval", "metro_t0", "table2_t0_eval")
    assert (spec_dir / "paper_tables" / "table2_t0_eval.csv").read_text().splitlines()[1].split(",")[3] == table.values[
        0
    ][0]
    assert table.columns[-1] == "average"
    whole = summary_of("m", {name: ["1100"] for name in table.columns[:-1]})
    header, rows = paper_rows([whole], table)
    assert header[:5] == ["", "model", "params", "average", "rte"]
    assert rows[-1] == ["Measured here", "m", "", *["50.00"] * 12]
    assert partial_note([whole]) == ""
    part = Summary(whole.run, whole.tasks[:3], {"wic": "no data"})
    assert paper_rows([part], table)[1][-1][3] == "50.00*"
    assert partial_note([part, whole]) == "* not the average of the set: m: mean over 3 of 4"
    for row, values in zip(rows, table.values, strict=False):
        assert (row[3], row[4:]) == (values[-1], values[:-1])
    for row, group in zip(table.values, table.models, strict=True):
        assert float(row[-1]) == pytest.approx(np.mean([float(v) for v in row[:-1]]), abs=0.011), group


def test_where_all_rows_are_alike_the_interval_is_printed() -> None:
    """20 of 20 right is no proof of 100.00 +- 0.00."""
    assert percent(accuracy("1" * 20)) == "100.00 (84 to 100)"
    assert percent(accuracy("0" * 20)) == "0.00 (0 to 16)"
    assert percent(accuracy("10")) == "50.00 +- 50.00"
    assert percent(accuracy("1")) == "100.00"
    assert percent(accuracy("-")) == "-"
    _, rows = task_rows([summary_of("m", {"rte": ["1" * 20], "cb": ["1" * 20]})])  # two tasks are not two rows
    assert [row[1] for row in rows] == ["100.00 (84 to 100)", "100.00 (84 to 100)", "100.00"]


@given(st.integers(1, 400), st.data())
def test_wilson_interval_is_where_the_score_test_does_not_reject(count: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, count)) / count
    for end in wilson_interval(share, count):
        if 0 < end < 1:
            assert abs(share - end) / math.sqrt(end * (1 - end) / count) == pytest.approx(1.96, abs=1e-3)
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share <= high <= 1


def test_interrupted_task_is_not_averaged(tmp_path: Path) -> None:
    path = write_results(tmp_path / "r", "m", {"rte": ["10", "11"], "cb": ["1111"]})
    next((path / "results" / "rte").glob("t1.json")).unlink()
    summary = summarize_directory(ResultsDirectory(path))
    assert [task.name for task in summary.tasks] == ["cb"]
    assert "1 of 2 templates are done" in summary.missing["rte"]
    assert summary.average_label == "mean over 1 of 2"


def test_file_names_are_plain_and_distinct() -> None:
    names = ["GPT-3 style", "GPT-3_style", "guaranteed/possible/impossible", "C1 or C2? premise, so/because\u2026"]
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch(r"[\w.-]+", file, re.ASCII) for file in files)
    for name in ("..", ".", "...", "/", "../..", "\x00", ""):
        assert not file_name(name).startswith(".")
        assert "/" not in file_name(name)
        assert file_name(name)
    assert len(file_name("x" * 400)) < 150


class PageCheck(HTMLParser):
    """Collects what a browser would fetch and whether the tags balance."""

    VOID = frozenset({"meta", "link", "br", "path", "use", "rect", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.fetched += [
            v for k, v in attrs if k in ("src", "href", "srcset") and v and not v.startswith(("#", "data:"))
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_report_page_is_self_contained_and_escapes_the_data(tmp_path: Path) -> None:
    first = write_results(tmp_path / "a", "models/<t5>", {"rte": ["1100", "1010"], "cb": ["1111"]})
    second = write_results(tmp_path / "b", "models/bart", {"rte": ["0000", "1111"], "cb": ["0111"]})
    assert main(["report", str(first), str(second), "--output", str(tmp_path / "out"), "--length-normalize"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    check = PageCheck()
    check.feed(page)
    assert check.open == []
    assert check.fetched == []
    assert check.scripts == 2
    assert "url(http" not in page
    assert "@import" not in page
    data = re.search(r'id="samples">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])[0]["source"].startswith("</script>")
    assert "<t5>" not in page
    for name in ("templates.png", "templates.svg", "tasks.png", "tasks.svg"):
        assert (tmp_path / "out" / "figures" / name).stat().st_size > 1000
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert comparison["bart - <t5>"]["rte"]["difference"] == 0.0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "METRO-T0_BASE++" in table
    assert "bart (length-normalized)" in table


def test_mmlu_stands_beside_later_models_with_their_source(tmp_path: Path) -> None:
    path = write_results(tmp_path / "r", "m", {"anatomy": ["10"]}, task_set="mmlu")
    assert main(["report", str(path)]) == 0
    table = (path / "table.md").read_text()
    assert "| SmolLM2-360M | 360M | 35.8 |" in table
    assert "huggingface.co/HuggingFaceTB/SmolLM2-360M" in table


def test_names_of_any_kind_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Markup, mathematics and paths are text in tables, figures and file names."""
    path = write_results(tmp_path / "r", "models/[/b]$x^", {"[/b]": ["1100"], "..": ["1010"], "$a_b$ {": ["1111"]})
    assert main(["report", str(path)]) == 0
    printed = capsys.readouterr().out
    for name in ("[/b]", "..", "$a_b$ {", "b]$x^"):
        assert name in printed
    assert {p.parent for p in tmp_path.rglob("t0.json")} == set((path / "results").iterdir())
    assert "$a_b$" in (path / "report.html").read_text()


def test_figures_follow_the_page_into_dark_mode_and_keep_baselines_in_front(tmp_path: Path) -> None:
    summaries = [summary_of(name, {"rte": ["1100", "1110"], "cb": ["1010"]}) for name in ("a", "b")]
    page = render_page(summaries, {}, {"bars": save_figure(bar_plot(summaries), tmp_path, "bars")})
    assert "prefers-color-scheme: dark" in page
    picture = page[page.index("<figure") : page.index("</figure>")]
    plain = set(re.findall(r"(?<!, )#[0-9a-fA-F]{6}", picture))
    assert plain == set(), "colors that dark mode cannot change"
    defined = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)", page)) - defined <= {f"--series-{n}" for n in range(8)}
    (axes,) = bar_plot(summaries).axes
    lines = [line for line in axes.lines if line.get_linestyle() in ("--", ":")]
    assert len(lines) == 4
    assert min(line.get_zorder() for line in lines) > max(bar.get_zorder() for bar in axes.patches)
    markers = {tuple(map(tuple, part.get_paths()[0].vertices)) for part in axes.collections if part.get_label() in "ab"}
    assert len(markers) == 2, "models differ in their markers, too"


def test_report_refuses_different_task_sets_and_empty_directories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_results(tmp_path / "a", "a", {"rte": ["10"]})
    second = write_results(tmp_path / "b", "b", {"anatomy": ["10"]}, task_set="mmlu")
    out = ["--output", str(tmp_path / "o")]
    assert main(["report", str(first), str(second), *out]) == 2
    assert "different task sets (mmlu, t0)" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "no results in it" in capsys.readouterr().err
    assert main(["report", str(first), str(first)]) == 2
    assert "--output is needed" in capsys.readouterr().err


def test_scores_stand_beside_the_curves_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other trackers need a package of their own: docs/evaluation.md has what they were seen to do."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = str(write_results(tmp_path / "r", "m", {"rte": ["10", "11"], "cb": ["1111"]}))
    for update in ("100", "200"):
        assert main(["track", results, "--update", update, "--to", f"tensorboard:{tmp_path / 'tb'}"]) == 0
    found = EventAccumulator(str(tmp_path / "tb" / "eval")).Reload()
    assert set(found.Tags()["scalars"]) == {"t0/rte", "t0/cb", "t0/mean"}
    scores = [(event.step, event.value) for event in found.Scalars("t0/rte")]
    assert scores == [(100, 0.75), (200, 0.75)]
    assert found.Scalars("t0/mean")[0].value == pytest.approx(0.875)
    for wrong, message in (
        ("tensorbord:x", "did you mean tensorboard?"),
        ("wandb:", "write wandb:PLACE"),
        ("tensorboard", "write tensorboard:PLACE"),
        (f"tensorboard:{results}/run.json", "tensorboard refuses"),
    ):
        assert main(["track", results, "--update", "1", "--to", wrong]) == 2
        assert message in capsys.readouterr().err
