"""Running the jobs: each finished step leaves a marker, one job per device at a time, a failure stops only its job."""

from __future__ import annotations

import dataclasses
import os
import queue
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ablation.plan import Plan
from ablation.steps import (
    Job,
    convert_command,
    evaluate_command,
    finetune_command,
    pretrain_command,
    score_command,
)
from ablation.variants import Variant
from metro_t0.analysis.training_log import read_log
from metro_t0.claims import claimed
from metro_t0.errors import UserError
from metro_t0.files import read_json, write_json

CALIBRATION_UPDATES = 30
WARM_UP_UPDATES = 10


class StepFailed(Exception):
    """A subprocess ended with an error; the message says where its output is."""


class Subprocesses:
    """The running steps of all jobs, which end with the experiment and not after it."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.lock = threading.Lock()

    def run(self, command: Sequence[str], output: IO[bytes], environment: dict[str, str]) -> int:
        """Exit status. Raises `StepFailed` after `stop`."""
        with self.lock:
            if self.stopped:
                raise StepFailed("stopped")
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
            self.running.add(process)
        status = process.wait()
        with self.lock:
            self.running.discard(process)
        return status

    def stop(self) -> None:
        """End what runs and start nothing more."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                process.terminate()


@dataclass(frozen=True)
class Device:
    """What a job runs on, with the subprocesses of the experiment."""

    name: str
    subprocesses: Subprocesses

    @property
    def visible(self) -> str:
        """A process sees one GPU only, so there it is always the first."""
        return "cuda" if self.name.startswith("cuda") else self.name


def claim(output: Path, plan: Plan) -> AbstractContextManager[None]:
    """Hold the directory for this experiment. Raises `UserError` where it belongs to another, or is being run."""
    return claimed(output, plan.as_json(), "plan.json", ["*/seed*/*"])


def make_jobs(plan: Plan, variants: Sequence[Variant], seeds: int, output: Path) -> list[Job]:
    """All variants of seed 1, then of seed 2, and so on: an interrupted run has whole rows."""
    return [Job(plan, v, seed, output / v.name / f"seed{seed}") for seed in range(1, seeds + 1) for v in variants]


def devices() -> list[str]:
    """What jobs run on: every GPU, or the CPU."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def run_jobs(jobs: Sequence[Job], per_device: int = 1) -> dict[str, str]:
    """Run all jobs, `per_device` at a time on each device; returns name -> message of those that failed.

    An interrupt ends the running steps and starts no others.
    """
    subprocesses = Subprocesses()
    free: queue.Queue[Device] = queue.Queue()
    for name in devices() * per_device:
        free.put(Device(name, subprocesses))
    failures: dict[str, str] = {}

    def work(job: Job) -> None:
        device = free.get()
        try:
            run_job(job, device)
        except (StepFailed, UserError) as error:
            failures[job.name] = str(error)
            print(f"{job.name}: {error}", file=sys.stderr, flush=True)
        finally:
            free.put(device)

    with ThreadPoolExecutor(free.qsize()) as pool:
        try:
            for done in [pool.submit(work, job) for job in jobs]:
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            subprocesses.stop()
            raise
    return failures


def run_job(job: Job, device: Device) -> None:
    """All steps of a job that are not done. fairseq itself resumes a step from its last checkpoint."""
    updates = 0
    write_json(job.variant_file, job.variant.as_json())
    if job.variant.pretraining:
        # At least one: fairseq takes 0 for no limit.
        updates = max(1, round(job.variant.budget * (job.plan.updates or _updates_in_hours(job, device))))
        _run_step(job, device, "pretrain", pretrain_command(job, device.visible, updates), {"updates": updates})
    if job.plan.pretraining_only:
        return
    for part in job.plan.parts if job.variant.pretraining else (1.0,):
        _after_pretraining(dataclasses.replace(job, part=part), device, updates)


def _after_pretraining(job: Job, device: Device, updates: int) -> None:
    """Fine-tune, export, evaluate from one checkpoint of the pretraining."""
    _run_step(job, device, "finetune", finetune_command(job, device.visible, updates))
    if not _marker(job, "convert").is_file():
        shutil.rmtree(job.exported, ignore_errors=True)
    _run_step(job, device, "convert", convert_command(job))
    if job.plan.score_limit is not None:
        _run_step(job, device, "score", score_command(job, device.visible))
    _run_step(job, device, "evaluate", evaluate_command(job, device.visible))


def _run_step(job: Job, device: Device, name: str, command: list[str], more: dict[str, Any] | None = None) -> None:
    marker = _marker(job, name)
    if marker.is_file():
        return
    marker.parent.mkdir(parents=True, exist_ok=True)
    log = marker.parent / f"{name}.log"
    print(f"{job.name}: {name} on {device.name}", flush=True)
    start = time.monotonic()
    with open(log, "ab") as stream:
        status = device.subprocesses.run(command, stream, environment(device.name))
    if status:
        raise StepFailed(f"{name} ended with status {status}: {_last_line(log)} (see {log})")
    write_json(marker, {"seconds": time.monotonic() - start, "command": command, **(more or {})})


def _marker(job: Job, name: str) -> Path:
    return (job.directory if name in ("pretrain", "trial") else job.work) / f"{name}.done.json"


def environment(device: str) -> dict[str, str]:
    """Of a step: this project's packages, whatever the folder where it runs has of the same names (an own eval/)."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    visible = {"CUDA_VISIBLE_DEVICES": device.removeprefix("cuda:")} if device.startswith("cuda") else {}
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **visible}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"


def _updates_in_hours(job: Job, device: Device) -> int:
    """How many updates fit the wall time: measured once per job with a short run, and remembered."""
    remembered = job.directory / "calibration.json"
    if not remembered.is_file():
        trial = Job(job.plan, job.variant, job.seed, job.directory / "calibration")
        command = pretrain_command(trial, device.visible, CALIBRATION_UPDATES)
        _run_step(trial, device, "trial", [*command, "--no-save", "--disable-validation", "--log-interval", "1"])
        records = [r for r in read_log(trial.directory / "trial.log") if r["updates"] > WARM_UP_UPDATES]
        # fairseq logs wall time in whole seconds; tokens per update and per second give a finer one.
        per_update = statistics.fmean(record["wpb"] / record["wps"] for record in records)
        write_json(remembered, {"seconds_per_update": per_update})
        shutil.rmtree(trial.directory)
    assert job.plan.hours is not None
    return max(1, int(job.plan.hours * 3600 / read_json(remembered)["seconds_per_update"]))
