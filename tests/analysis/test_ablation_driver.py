"""The ablation driver: variants that fairseq accepts, resuming, isolation of failures, and the table's numbers."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metro_t0.errors import UserError


def make_plan(directory: Path, **changes: Any) -> Any:
    from ablation.plan import Plan

    for path in ("data/dict.txt", "prompted/mixture.json", "vocab/dict.txt"):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text("a 1\nb 1\n")
    settings: dict[str, Any] = {
        "preset": "demo", "updates": 120, "finetuning_updates": 60, "finetuning_batch_size": 4,
        "data": directory / "data", "prompted": directory / "prompted", "tokenizer": directory / "vocab",
    }  # fmt: skip
    return Plan(**{**settings, **changes})


def test_every_variant_is_accepted_by_fairseq_and_builds_its_objective(tmp_path: Path) -> None:
    """Through fairseq's own parser: the task, the model and the criterion get the variant's options."""
    pytest.importorskip("fairseq")
    from fairseq import options, tasks
    from fairseq.criterions import build_criterion
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    from ablation.steps import Job, pretrain_command
    from ablation.variants import load_variants

    built = {}
    for variant in load_variants().values():
        command = pretrain_command(Job(make_plan(tmp_path), variant, 1, tmp_path), "cpu", 120)
        arguments = options.parse_args_and_arch(options.get_training_parser(), input_args=command[3:])
        cfg = convert_namespace_to_omegaconf(arguments)
        task = tasks.setup_task(cfg.task)
        model = task.build_model(cfg.model)
        criterion = build_criterion(cfg.criterion, task)
        config = model.metro.config
        batches = task.make_batches(is_train=True)
        masking = (task.masking.mask_pattern, task.masking.keep_ratio)
        built[variant.name] = (config.rtd, config.clm_head, batches.target, *masking, criterion.options.weighted_clm)
    usual = ("iid", 0.0, False)
    assert built == {
        "metro": ("encoder", "linear", "masked_loss", *usual),
        "all_tokens": ("encoder", "linear", "all_tokens", *usual),
        "copy": ("encoder", "copy", "masked_loss", *usual),
        "rtd_decoder": ("decoder", "linear", "masked_loss", *usual),
        "rtd_decoder_projection": ("decoder", "projection", "masked_loss", *usual),
        "span_mask": ("encoder", "linear", "masked_loss", "span", 0.0, False),
        "t5": ("none", "linear", "spans", *usual),
        "t5_all_tokens": ("none", "linear", "all_tokens", *usual),
        "masked_only": ("encoder", "linear", "masked_only", *usual),
        "copy_all_tokens": ("encoder", "copy", "all_tokens", *usual),
        "weighted_clm": ("encoder", "linear", "masked_loss", "iid", 0.0, True),
        "random": ("none", "linear", "spans", *usual),
        "spactor": ("encoder", "linear", "spans", *usual),
        "bert_masks": ("encoder", "linear", "masked_loss", "iid", 0.1, False),
    }


def test_paper_numbers_are_those_of_the_published_tables(spec_dir: Path) -> None:
    import csv

    from ablation.variants import choose, load_variants

    with open(spec_dir / "paper_tables" / "table4_ablations.csv", newline="") as stream:
        printed = [
            tuple(float(row[key]) for key in ("t0", "t0_plus", "t0_plus_plus")) for row in csv.DictReader(stream)
        ]
    with open(spec_dir / "paper_tables" / "table2_t0_eval.csv", newline="") as stream:
        base = [float(row["average"]) for row in csv.DictReader(stream) if row["model"] == "METRO-T0_BASE"]
    found = [variant.paper for variant in choose(load_variants(), ())]
    assert found[0] == tuple(base)
    assert found[1:] == printed[1:]


def test_a_variant_of_ones_own(tmp_path: Path) -> None:
    from ablation.variants import choose, load_variants

    path = tmp_path / "mine.yaml"
    path.write_text("mine: {title: mine, options: {task: metro_pretraining, mask-ratio: 0.3, weighted-clm: true}}")
    (variant,) = choose(load_variants(path), ["mine"])
    assert variant.arguments == ["--task", "metro_pretraining", "--mask-ratio", "0.3", "--weighted-clm"]
    with pytest.raises(UserError, match="did you mean metro"):
        choose(load_variants(), ["metr"])
    for bad in ("mine: {title: x}", "mine: {title: x, options: {rtd: none}}", "- 1"):
        path.write_text(bad)
        with pytest.raises(UserError):
            load_variants(path)


def replace_commands(monkeypatch: pytest.MonkeyPatch, failing: set[str]) -> list[tuple[str, str]]:
    """Steps that only note that they ran; those in `failing` ("variant step") end with an error."""
    from ablation import running

    ran: list[tuple[str, str]] = []

    def make(step: str) -> Any:
        def command(job: Any, *_: Any) -> list[str]:
            failed = f"{job.variant.name} {step}" in failing
            name = step if job.part == 1 else f"{step}@{job.part}"
            note = f"open({str(job.directory / 'ran')!r}, 'a').write({name + chr(10)!r})"
            return [sys.executable, "-c", f"{note}; print('out of luck'); raise SystemExit({int(failed)})"]

        return command

    for step in ("pretrain", "finetune", "convert", "score", "evaluate"):
        monkeypatch.setattr(running, f"{step}_command", make(step))
    monkeypatch.setattr(running, "devices", lambda: ["cpu", "cpu"])
    return ran


def test_finished_steps_are_not_repeated_and_failures_stay_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ablation.running import make_jobs, run_jobs
    from ablation.variants import choose, load_variants

    variants = choose(load_variants(), ["metro", "t5"])
    jobs = make_jobs(make_plan(tmp_path), variants, 2, tmp_path / "out")
    assert [job.name for job in jobs] == ["metro, seed 1", "t5, seed 1", "metro, seed 2", "t5, seed 2"]
    replace_commands(monkeypatch, {"t5 finetune"})
    failures = run_jobs(jobs)
    assert set(failures) == {"t5, seed 1", "t5, seed 2"}
    assert "out of luck" in failures["t5, seed 1"]
    assert "finetune.log" in capsys.readouterr().err
    replace_commands(monkeypatch, set())
    assert run_jobs(jobs) == {}
    steps = {job.name: (job.directory / "ran").read_text().split() for job in jobs}
    assert steps["metro, seed 1"] == ["pretrain", "finetune", "convert", "evaluate"]
    assert steps["t5, seed 2"] == ["pretrain", "finetune", "finetune", "convert", "evaluate"]


def test_an_interrupt_ends_what_runs_and_starts_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablation import running
    from ablation.variants import choose, load_variants

    def interrupting(job: Any, *_: Any) -> list[str]:
        note = f"open({str(tmp_path / job.variant.name)!r}, 'w').write(str(os.getpid()))"
        program = f"import os, signal, time; {note}; os.kill(os.getppid(), signal.SIGINT); time.sleep(30)"
        return [sys.executable, "-c", program]

    monkeypatch.setattr(running, "pretrain_command", interrupting)
    monkeypatch.setattr(running, "devices", lambda: ["cpu"])
    jobs = running.make_jobs(make_plan(tmp_path), choose(load_variants(), ["metro", "t5"]), 1, tmp_path / "out")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell started with &
    try:
        with pytest.raises(KeyboardInterrupt):
            running.run_jobs(jobs)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "t5").exists()
    assert not (tmp_path / "out/metro/seed1/pretrain.done.json").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "metro").read_text()), 0)


def test_random_weights_are_not_pretrained_and_parts_are_evaluated_on_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablation.running import make_jobs, run_jobs
    from ablation.variants import choose, load_variants

    plan = make_plan(tmp_path, parts=(0.5, 1.0), score_limit=10)
    jobs = make_jobs(plan, choose(load_variants(), ["metro", "random"]), 1, tmp_path / "out")
    replace_commands(monkeypatch, set())
    assert run_jobs(jobs, per_device=2) == {}
    metro, random = ((job.directory / "ran").read_text().split() for job in jobs)
    rest = ["finetune", "convert", "score", "evaluate"]
    assert metro == ["pretrain", *(f"{step}@0.5" for step in rest), *rest]
    assert random == rest


def test_what_finetuning_starts_from(tmp_path: Path) -> None:
    """The last checkpoint, that of a part of the pretraining, or nothing."""
    import dataclasses

    from ablation.steps import Job, finetune_command
    from ablation.variants import choose, load_variants

    metro, random = choose(load_variants(), ["metro", "random"])
    job = Job(make_plan(tmp_path, updates=1000, parts=(0.33, 1.0)), metro, 1, tmp_path)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "checkpoint_1_300.pt").touch()
    assert start_of(finetune_command(job, "cpu", 1000)) == "checkpoint_last.pt"
    assert start_of(finetune_command(dataclasses.replace(job, part=0.33), "cpu", 1000)) == "checkpoint_1_300.pt"
    assert start_of(finetune_command(dataclasses.replace(job, variant=random), "cpu", 1000)) is None
    (tmp_path / "pretrain" / "checkpoint_2_500.pt").touch()  # the epoch ended with update 400
    assert start_of(finetune_command(dataclasses.replace(job, part=0.42), "cpu", 1000)) == "checkpoint_1_300.pt"
    with pytest.raises(Exception, match="no checkpoint of update 700"):
        finetune_command(dataclasses.replace(job, part=0.7), "cpu", 1000)


def start_of(command: list[str]) -> str | None:
    option = "--finetune-from-model"
    return Path(command[command.index(option) + 1]).name if option in command else None


def test_progress_over_pretraining_is_drawn_with_its_numbers(tmp_path: Path) -> None:
    import dataclasses

    from ablation.progress import write_progress
    from ablation.running import make_jobs
    from ablation.variants import choose, load_variants

    plan = make_plan(tmp_path, parts=(0.5, 1.0))
    jobs = make_jobs(plan, choose(load_variants(), ["metro", "t5"]), 1, tmp_path / "out")
    for job, scores in zip(jobs, ((0.5, 0.7), (0.4, 0.6)), strict=True):
        for part, score in zip(plan.parts, scores, strict=True):
            finish(dataclasses.replace(job, part=part), score, score)
    paths = write_progress(jobs, tmp_path / "out")
    text = next(path for path in paths if path.suffix == ".csv").read_text()
    assert "METRO,1,0.5,50,50.0" in text  # half of 120 updates: the checkpoint of update 50
    assert "T5 span corruption,1,1.0,120,60.0" in text


def test_seeds_of_an_equal_time_are_one_point_though_their_updates_differ(tmp_path: Path) -> None:
    import dataclasses

    import matplotlib.figure

    from ablation import progress
    from ablation.running import make_jobs
    from ablation.variants import choose, load_variants

    plan = make_plan(tmp_path, parts=(0.5, 1.0), updates=None, hours=1.0)
    jobs = make_jobs(plan, choose(load_variants(), ["metro"]), 2, tmp_path / "out")
    for job, score, updates in zip(jobs, (0.5, 0.7), (1000, 1100), strict=True):
        for part in plan.parts:
            finish(dataclasses.replace(job, part=part), score, score)
        (job.directory / "pretrain.done.json").write_text(json.dumps({"updates": updates}))
    axes = matplotlib.figure.Figure().subplots()
    progress._draw_panel(axes, [row for job in jobs for row in progress._rows(job)], "average")
    line = axes.containers[0][0]
    assert list(line.get_ydata()) == pytest.approx([60, 60])
    assert line.get_xdata()[1] == 1050


def test_variants_of_one_title_are_refused(tmp_path: Path) -> None:
    from ablation.variants import choose, load_variants

    path = tmp_path / "mine.yaml"
    path.write_text("mine: {title: METRO, options: {task: metro_pretraining}}")
    assert choose(load_variants(path), ["mine"])
    with pytest.raises(UserError, match="variants metro and mine both have the title 'METRO'"):
        choose(load_variants(path), ["metro", "mine"])


def test_wall_time_becomes_updates_by_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that takes 2 seconds per update, after a slow start: 1,800 updates in an hour."""
    from ablation import running
    from ablation.variants import choose, load_variants

    program = (
        "import json\nfor u in range(1, 31):\n"
        " record = {'num_updates': str(u), 'wpb': '100', 'wps': str(20.0 if u <= 10 else 50.0), 'loss': '3'}\n"
        " print('| INFO | train_inner |', json.dumps(record))"
    )
    monkeypatch.setattr(running, "pretrain_command", lambda job, device, updates: [sys.executable, "-c", program])
    plan = make_plan(tmp_path, updates=None, hours=1.0)
    (job,) = running.make_jobs(plan, choose(load_variants(), ["t5"]), 1, tmp_path / "out")
    device = running.Device("cpu", running.Subprocesses())
    assert running._updates_in_hours(job, device) == 1800
    monkeypatch.setattr(running, "pretrain_command", lambda job, device, updates: ["false"])
    assert running._updates_in_hours(job, device) == 1800  # remembered


@pytest.mark.parametrize("module", ["eval.cli", "finetune.cli"])
def test_steps_run_beside_a_folder_of_the_same_name(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablation.running import environment

    monkeypatch.chdir(tmp_path)
    own = tmp_path / module.partition(".")[0]
    own.mkdir()
    (own / "__init__.py").write_text("raise ImportError('the folder of the user was imported')")
    subprocess.run([sys.executable, "-m", module, "--version"], env=environment("cpu"), check=True)


def test_a_directory_belongs_to_one_experiment(tmp_path: Path) -> None:
    from ablation.running import claim

    for _ in range(2):
        with claim(tmp_path / "out", make_plan(tmp_path)):
            (tmp_path / "out" / "t5" / "seed1" / "pretrain").mkdir(parents=True, exist_ok=True)
    with pytest.raises(UserError, match="updates 120 -> 7"), claim(tmp_path / "out", make_plan(tmp_path, updates=7)):
        pass
    for budget in ({"updates": None}, {"hours": 1.0}):
        with pytest.raises(UserError, match="either --updates or --hours"):
            make_plan(tmp_path, **budget)


def test_a_variant_that_was_edited_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablation.checks import check_plan
    from ablation.running import make_jobs, run_jobs
    from ablation.variants import choose, load_variants

    path = tmp_path / "mine.yaml"
    made = []
    for ratio, title in ((0.3, "thirty"), (0.3, "30%"), (0.4, "30%")):
        path.write_text(f"mine: {{title: {title}, options: {{task: metro_pretraining, mask-ratio: {ratio}}}}}")
        made.append(make_jobs(make_plan(tmp_path), choose(load_variants(path), ["mine"]), 1, tmp_path / "out"))
    replace_commands(monkeypatch, set())
    assert run_jobs(made[0]) == {}
    with pytest.raises(UserError, match=r"train\.bin: no such"):  # another title is none of its settings
        check_plan(make_plan(tmp_path), made[1])
    with pytest.raises(UserError, match="give the changed variant another name"):
        check_plan(make_plan(tmp_path), made[2])


def test_a_budget_is_one_update_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablation.running import make_jobs, run_jobs
    from ablation.variants import Variant

    replace_commands(monkeypatch, set())
    (job,) = make_jobs(make_plan(tmp_path, updates=1), [Variant("less", "less", {}, budget=0.4)], 1, tmp_path / "out")
    assert run_jobs([job]) == {}
    assert json.loads((job.directory / "pretrain.done.json").read_text())["updates"] == 1


def finish(job: Any, copa: float, rte: float) -> None:
    job.results.mkdir(parents=True)
    tasks = {
        name: {"value": value, "standard_error": 0.01, "n": 100, "chance": 0.5, "majority": majority}
        for name, value, majority in (("copa", copa, 0.62), ("rte", rte, 0.6))
    }
    average = {"value": (copa + rte) / 2, "standard_error": 0.02}
    (job.results / "summary.json").write_text(json.dumps({"average": average, "tasks": tasks}))
    (job.directory / "pretrain.done.json").write_text('{"updates": 120}')
    (job.work / "evaluate.done.json").write_text("{}")


def test_table_has_means_and_deviations_over_seeds_and_the_paper_beside(tmp_path: Path) -> None:
    from ablation.running import make_jobs
    from ablation.table import write_table
    from ablation.variants import choose, load_variants

    jobs = make_jobs(make_plan(tmp_path), choose(load_variants(), ["metro", "t5", "copy"]), 2, tmp_path / "out")
    assert write_table(jobs, tmp_path / "out") == []
    for job, copa, rte in zip(jobs, (0.5, 0.4, 0.6, 0.7), (0.6, 0.5, 0.7, 0.5), strict=False):
        if job.variant.name != "copy":
            finish(job, copa, rte)
    markdown, data = write_table(jobs, tmp_path / "out")
    lines = markdown.read_text().splitlines()
    assert "120 pretraining updates" in lines[0]
    # metro: averages 0.55 and 0.60 over its two seeds; t5 has one finished seed.
    deviation = statistics.stdev([55.0, 60.0])
    assert f"| METRO | 2 | 57.50 +- {deviation:.2f} |" in markdown.read_text()
    assert "| 49.44 | 52.85 | 55.94 |" in markdown.read_text()
    assert "| T5 span corruption | 1 | 45.00 +- 2.00 |" in markdown.read_text()
    assert "| guessing | - | 50.00 | 50.00 | 50.00 | - | - | - |" in markdown.read_text()
    assert "| majority | - | 61.00 | 62.00 | 60.00 | - | - | - |" in markdown.read_text()
    assert "copy" not in markdown.read_text()
    assert "Average over 2 tasks; the paper's is over 11." in lines[0]
    assert data.read_text().startswith("variant,seeds,average,copa,rte,paper T0,paper T0+,paper T0++\n")
    summary = jobs[0].results / "summary.json"
    fewer = json.loads(summary.read_text())
    fewer["tasks"]["rte"]["n"] = 99
    summary.write_text(json.dumps(fewer))
    with pytest.raises(UserError, match="task rte was scored on 99 and on 100 rows"):
        write_table(jobs, tmp_path / "out")
    del fewer["tasks"]["rte"]
    summary.write_text(json.dumps(fewer))
    with pytest.raises(UserError, match="metro/seed1/eval: lacks task rte"):
        write_table(jobs, tmp_path / "out")


def test_pretraining_alone_needs_no_mixture_and_a_variant_overrides_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablation.running import make_jobs, run_jobs
    from ablation.steps import pretrain_command
    from ablation.variants import choose, load_variants

    path = tmp_path / "mine.yaml"
    path.write_text("fast: {title: fast, budget: 2, options: {task: metro_pretraining, lr: 0.5, batch-size: 8}}")
    plan = make_plan(tmp_path, prompted=None, pretraining_only=True)
    (job,) = make_jobs(plan, choose(load_variants(path), ["fast"]), 1, tmp_path / "out")
    command = pretrain_command(job, "cpu", 120)
    last = {option: command[len(command) - 1 - command[::-1].index(option) + 1] for option in ("--lr", "--batch-size")}
    assert last == {"--lr": "0.5", "--batch-size": "8"}
    replace_commands(monkeypatch, set())
    assert run_jobs([job]) == {}
    assert (job.directory / "ran").read_text().split() == ["pretrain"]
    assert json.loads((job.directory / "pretrain.done.json").read_text())["updates"] == 240
    with pytest.raises(Exception, match="--prompted is needed"):
        make_plan(tmp_path, prompted=None)
