"""All that can be known before the first update: an experiment of days must not end at a name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ablation.plan import Plan
from ablation.running import environment
from ablation.steps import Job, finetune_command, pretrain_command, save_interval
from metro_t0.claims import check_owner
from metro_t0.data.mixture_files import MIXTURE_FILE
from metro_t0.errors import UserError
from metro_t0.files import read_json, sha256_of

FIRST_ARGUMENT = 3  # after python -m fairseq_cli.train


def check_plan(plan: Plan, jobs: Sequence[Job]) -> None:
    """Compare files, dictionaries, options of fairseq and evaluation tasks. Raises `UserError` at the first defect."""
    _check_variants(jobs)
    _check_files(plan)
    _check_dictionaries(plan)
    if not plan.pretraining_only:
        _check_mixture(plan)
        _check_tasks(plan)
    _check_parts(jobs)
    _check_training_options(jobs)


def _check_variants(jobs: Sequence[Job]) -> None:
    """Finished steps are of the variant as it was; one whose options were edited since is another variant."""
    for job in jobs:
        if job.variant_file.is_file():
            before = read_json(job.variant_file, dict[str, Any])
            check_owner(job.directory, before, job.variant.as_json(), "give the changed variant another name")


def _check_files(plan: Plan) -> None:
    needed = [
        *((plan.data / name, "metro-t0-data binarize") for name in ("dict.txt", "train.bin", "train.idx", "valid.idx")),
        (plan.tokenizer / "dict.txt", "metro-t0-data tokenizer"),
    ]
    if plan.prompted is not None and not plan.pretraining_only:
        needed.append((plan.prompted / MIXTURE_FILE, "metro-t0-prompts build"))
    for path, maker in needed:
        if not path.is_file():
            raise UserError(f"{path}: no such file; make its directory with {maker}")


def _check_dictionaries(plan: Plan) -> None:
    own = plan.tokenizer / "dict.txt"
    mixture = [] if plan.prompted is None or plan.pretraining_only else [plan.prompted]
    for directory in (plan.data, *mixture):
        if sha256_of(directory / "dict.txt") != sha256_of(own):
            raise UserError(f"{directory}/dict.txt is not {own}; make both directories with one --tokenizer")


def _check_mixture(plan: Plan) -> None:
    from metro_t0.data.mixture_files import TRAIN, VALID
    from metro_t0.prompts.mixing import load_task_examples

    assert plan.prompted is not None
    load_task_examples(plan.prompted, TRAIN)
    if plan.score_limit is not None:
        load_task_examples(plan.prompted, VALID)


def _check_tasks(plan: Plan) -> None:
    from eval.runner import task_rows, task_templates
    from eval.tasks import task_set_of

    task_set = task_set_of(plan.tasks)
    missing: list[str] = []
    for task in task_set.tasks:
        task_templates(task, plan.templates_dir)
        try:
            task_rows(task, plan.data_dir)
        except UserError as error:
            if not task_set.built_in:
                raise
            missing.append(str(error))
    if len(missing) == len(task_set.tasks):
        raise UserError(f"no data for any task of {task_set.name}: {missing[0]}")


def _check_parts(jobs: Sequence[Job]) -> None:
    for job in jobs:
        updates = round(job.variant.budget * (job.plan.updates or 0))
        if len(job.plan.parts) > 1 and job.variant.pretraining and 0 < updates <= save_interval(updates):
            raise UserError(
                f"--parts: variant {job.variant.name} saves no checkpoint within its {updates} updates "
                f"(one every {save_interval(updates)}); give more --updates"
            )


def _check_training_options(jobs: Sequence[Job]) -> None:
    """fairseq's own parser reads every variant's command lines, in a process of its own: importing it takes long."""
    commands: dict[str, list[str]] = {}
    for job in {job.variant.name: job for job in jobs}.values():
        if job.variant.pretraining:
            commands[f"variant {job.variant.name}, pretraining"] = pretrain_command(job, "cpu", 1)[FIRST_ARGUMENT:]
        if not job.plan.pretraining_only:
            commands[f"variant {job.variant.name}, fine-tuning"] = finetune_command(job, "cpu", 1)[FIRST_ARGUMENT:]
    done = subprocess.run(
        [sys.executable, "-m", "fairseq_plugins.arguments"],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
        env=environment("cpu"),
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise UserError(lines[-1] if lines else "the options of fairseq-train cannot be read")
