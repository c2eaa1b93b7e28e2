"""The commands of one variant and seed: pretrain, finetune, convert, evaluate."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from ablation.plan import Plan
from ablation.variants import Variant
from metro_t0.errors import UserError
from metro_t0.launch import plugin_directory
from metro_t0.modeling import PRESETS

PRESET_PREFIX = "metro_t5_"


@dataclass(frozen=True)
class Job:
    """One variant with one seed, and its directory."""

    plan: Plan
    variant: Variant
    seed: int
    directory: Path
    part: float = 1.0
    """Share of the pretraining that counts; an earlier one than 1 has a directory of its own below."""

    @property
    def name(self) -> str:
        """For messages."""
        at = "" if self.part == 1 else f", after {self.part:.0%}"
        return f"{self.variant.name}, seed {self.seed}{at}"

    @property
    def work(self) -> Path:
        """Where what comes after pretraining is."""
        return self.directory if self.part == 1 else self.directory / f"after_{100 * self.part:g}"

    @property
    def variant_file(self) -> Path:
        """The variant's options that the job's steps were run with."""
        return self.directory / "variant.json"

    @property
    def pretraining_log(self) -> Path:
        """Output of pretraining."""
        return self.directory / "pretrain.log"

    @property
    def exported(self) -> Path:
        """The fine-tuned model as a Hugging Face directory."""
        return self.work / "hf"

    @property
    def results(self) -> Path:
        """What metro-t0-eval writes."""
        return self.work / "eval"

    @property
    def scores(self) -> Path:
        """What metro-t0-prompts score writes."""
        return self.work / "scores.json"


def _train(job: Job, device: str, task_options: list[str], updates: int, learning_rate: float) -> list[str]:
    plan = job.plan
    # 10,000 of 125,000 in the paper; a run of a few hundred updates at full rate from the start loses its neurons.
    warmup = max(updates // 12, min(100, updates // 2), 1)
    return [
        sys.executable, "-m", "fairseq_cli.train", "--user-dir", str(plugin_directory()), *task_options,
        "--arch", PRESET_PREFIX + plan.preset, "--seed", str(job.seed),
        "--tokens-per-sample", str(plan.scale.tokens_per_sample),
        "--optimizer", "fused_adamw", "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6", "--weight-decay", "0.01",
        "--clip-norm", "2.0", "--lr", str(learning_rate), "--lr-scheduler", "polynomial_decay",
        "--warmup-updates", str(warmup), "--total-num-update", str(updates), "--max-update", str(updates),
        "--save-interval-updates", str(save_interval(updates)), "--no-epoch-checkpoints",
        "--log-format", "json", "--log-interval", str(max(1, updates // 40)),
        *(["--num-workers", "0", "--cpu"] if device == "cpu" else ["--num-workers", "2"]),
        *(["--bf16"] if device != "cpu" and plan.precision == "bf16" else []),
    ]  # fmt: skip


def save_interval(updates: int) -> int:
    """Updates between two checkpoints: a tenth, at least 50."""
    return max(50, updates // 10)


def updates_after(part: float, updates: int) -> int:
    """Updates of the checkpoint nearest to a share of the pretraining."""
    interval = save_interval(updates)
    return max(1, round(part * updates / interval)) * interval


def pretrain_command(job: Job, device: str, updates: int) -> list[str]:
    """`fairseq-train` with the variant's options; the order of the blocks depends on data and seed alone."""
    return [
        *_train(job, device, [str(job.plan.data), "--criterion", "metro"], updates, job.plan.scale.learning_rate),
        "--batch-size", str(job.plan.scale.batch_size), "--required-batch-size-multiple", "1",
        "--validate-interval-updates", str(max(1, updates // 10)), "--validate-interval", "1000000",
        "--keep-interval-updates", "1" if job.plan.parts == (1.0,) else "-1",
        "--save-dir", str(job.directory / "pretrain"), *shlex.split(job.plan.pretraining_options),
        *job.variant.arguments,  # last, so that a variant may have a rate, batch size or optimizer of its own
    ]  # fmt: skip


def pretrained_checkpoint(job: Job, updates: int) -> Path:
    """The checkpoint that fine-tuning starts from, of a pretraining of that many updates."""
    directory = job.directory / "pretrain"
    if job.part == 1:
        return directory / "checkpoint_last.pt"
    wanted = updates_after(job.part, updates)
    found = nearest_checkpoint(job, updates)
    if found is None:
        raise UserError(f"{directory}: has no checkpoint of update {wanted}; pretrain again with --parts in the plan")
    return found


def nearest_checkpoint(job: Job, updates: int) -> Path | None:
    """The saved checkpoint nearest to the job's share, where one is within an interval of it.

    Its own may be absent: fairseq saves none under its update where an epoch ends with that update.
    """
    wanted = updates_after(job.part, updates)
    saved = (job.directory / "pretrain").glob("checkpoint_*_*.pt")
    near = [path for path in saved if abs(updates_in(path) - wanted) <= save_interval(updates)]
    return min(near, key=lambda path: (abs(updates_in(path) - wanted), path.name), default=None)


def updates_in(checkpoint: Path) -> int:
    """300 of checkpoint_1_300.pt."""
    return int(checkpoint.stem.rpartition("_")[2])


def finetune_command(job: Job, device: str, updates: int) -> list[str]:
    """`fairseq-train --task prompt_finetuning` from the pretrained main model; the last checkpoint counts."""
    start = ["--finetune-from-model", str(pretrained_checkpoint(job, updates))] if job.variant.pretraining else []
    plan = job.plan
    options = [str(plan.prompted), "--task", "prompt_finetuning", "--criterion", "cross_entropy"]
    longest = PRESETS[plan.preset].max_positions
    return [
        *_train(job, device, options, plan.finetuning_updates, plan.scale.finetuning_learning_rate),
        *start, "--batch-size", str(plan.finetuning_batch_size), "--required-batch-size-multiple", "1",
        "--max-source-positions", str(min(512, longest)), "--max-target-positions", str(min(256, longest)),
        "--disable-validation", "--keep-interval-updates", "1",
        "--save-dir", str(job.work / "finetune"), *shlex.split(plan.finetuning_options),
    ]  # fmt: skip


def convert_command(job: Job) -> list[str]:
    """`metro-t0-convert`: the fine-tuned checkpoint as a Hugging Face directory."""
    checkpoint = job.work / "finetune" / "checkpoint_last.pt"
    return [
        sys.executable, "-m", "metro_t0.convert", "fairseq", str(checkpoint), "--output", str(job.exported),
        "--tokenizer", str(job.plan.tokenizer),
    ]  # fmt: skip


def evaluate_command(job: Job, device: str) -> list[str]:
    """`metro-t0-eval`: rank classification."""
    plan = job.plan
    which = ["tasks", "--tasks", plan.tasks] if plan.tasks != "t0" else ["t0"]
    data = ["--data-dir", str(plan.data_dir)] if plan.data_dir else []
    data += ["--templates", str(plan.templates_dir)] if plan.templates_dir else []
    limit = ["--limit", str(plan.limit)] if plan.limit else []
    return [
        sys.executable, "-m", "eval.cli", *which, "--model", str(job.exported),
        "--output", str(job.results), "--device", device, *data, *limit,
    ]  # fmt: skip


def score_command(job: Job, device: str) -> list[str]:
    """`metro-t0-prompts score`: exact match on held-out rows of the tasks it was fine-tuned on."""
    return [
        sys.executable, "-m", "finetune.cli", "score", "--model", str(job.exported),
        "--prompted", str(job.plan.prompted), "--limit", str(job.plan.score_limit), "--device", device,
        "--output", str(job.scores),
    ]  # fmt: skip
