"""Re-run the paper's comparison of variants (table 4, figures 3a and 3b) at any size, with one command.

Every variant is pretrained on the same blocks in the same order, prompt-finetuned from its last checkpoint, and
evaluated zero-shot. OUTPUT/VARIANT/seedN/ holds logs, checkpoints, the exported model and its results; OUTPUT/table.md
the table; OUTPUT/figures/ the training curves. The same command again continues where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ablation.progress import write_progress
from ablation.running import claim, make_jobs, run_jobs
from ablation.steps import SCALES, Job, Plan
from ablation.table import write_table
from ablation.variants import choose, load_variants

from metro_t0.analysis.training_log import plot_curves
from metro_t0.command import Parser, run
from metro_t0.errors import UserError

FIGURES = {
    "figure3a_clm_loss": ("clm_loss", ("metro", "rtd_decoder", "rtd_decoder_projection")),
    "figure3b_rtd_recall": ("rtd_recall", ("metro", "span_mask")),
}
"""Figure -> metric and the variants that the paper compares in it."""

EXAMPLES = """examples:
  two CPU cores, minutes per variant
    python scripts/ablate.py --preset demo --updates 200 --finetuning-updates 100 --data data/bin --prompted prompted \\
        --tokenizer vocab --eval-tasks tasks.yaml --eval-data DIR --output runs/ablation
  one variant per GPU, three seeds, all of T0 Eval
    python scripts/ablate.py --preset small --updates 20000 --finetuning-updates 5000 --seeds 3 --data data/bin \\
        --prompted prompted --tokenizer vocab --output runs/ablation
  equal wall time instead of equal updates, two variants of your own and the baseline
    python scripts/ablate.py --preset small --hours 2 --variants metro mine1 mine2 --variants-file mine.yaml ...

exit status: 0 all done, 1 a step of some variant failed (the others are in the table), 2 bad input
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    arguments = _parser().parse_args(argv)
    return run("ablate.py", lambda: _ablate(arguments))


def _ablate(arguments: argparse.Namespace) -> int:
    variants = choose(load_variants(arguments.variants_file), arguments.variants)
    if arguments.list:
        for variant in load_variants(arguments.variants_file).values():
            print(f"{variant.name:24} {variant.title}: {' '.join(variant.arguments)}")
        return 0
    plan = _plan(arguments)
    with claim(arguments.output, plan):
        jobs = make_jobs(plan, variants, arguments.seeds, arguments.output)
        failures = run_jobs(jobs, arguments.jobs)
        for path in (
            *write_table(jobs, arguments.output), *write_progress(jobs, arguments.output),
            *draw(jobs, arguments.output / "figures"),
        ):  # fmt: skip
            print(path)
    return 1 if failures else 0


def draw(jobs: Sequence[Job], directory: Path) -> list[Path]:
    """The curves of the first seed: all losses and accuracies, and the paper's two comparisons."""
    logs = {job.variant.name: job.pretraining_log for job in jobs if job.seed == 1 and job.pretraining_log.is_file()}
    titles = {job.variant.name: job.variant.title for job in jobs}
    wanted: dict[str, tuple[list[str] | None, list[str]]] = {"curves": (None, list(logs))}
    for figure, (metric, compared) in FIGURES.items():
        present = [name for name in compared if name in logs]
        if len(present) > 1:
            wanted[figure] = ([metric], present)
    paths: list[Path] = []
    for figure, (metrics, names) in wanted.items():
        chosen = {titles[name]: logs[name] for name in names}
        if chosen:
            paths += plot_curves(chosen, directory / figure, metrics=metrics, over="tokens")
    return paths


def _plan(arguments: argparse.Namespace) -> Plan:
    for option in ("data", "tokenizer", "output"):
        if getattr(arguments, option) is None:
            raise UserError(f"--{option} is needed")
    scale = SCALES[arguments.preset]
    changes = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(scale)}
    return Plan(
        preset=arguments.preset,
        scale=dataclasses.replace(scale, **{key: value for key, value in changes.items() if value is not None}),
        updates=arguments.updates,
        hours=arguments.hours,
        finetuning_updates=arguments.finetuning_updates,
        finetuning_batch_size=arguments.finetuning_batch_size,
        data=arguments.data,
        prompted=arguments.prompted,
        tokenizer=arguments.tokenizer,
        tasks=arguments.eval_tasks,
        eval_data=arguments.eval_data,
        eval_limit=arguments.eval_limit,
        pretraining_options=tuple(shlex.split(arguments.pretraining_options)),
        finetuning_options=tuple(shlex.split(arguments.finetuning_options)),
        parts=tuple(sorted(arguments.parts)),
        score_limit=arguments.score_limit,
        precision=arguments.precision,
        pretraining_only=arguments.pretraining_only,
    )


def _parser() -> Parser:
    parser = Parser(prog="ablate.py", description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--list", action="store_true", help="print all variants and their options")
    add("--variants", nargs="+", metavar="NAME", help="which variants (default: the rows of paper table 4)")
    add("--variants-file", type=Path, metavar="YAML", help="further variants, in the form of ablation/variants.yaml")
    add("--preset", choices=list(SCALES), default="tiny", help="size of the model (default: %(default)s)")
    add("--updates", type=int, help="pretraining updates per variant")
    add("--hours", type=float, help="instead: pretraining wall time per variant, turned into updates by a short trial")
    add("--seeds", type=int, default=1, metavar="N", help="repeat with seeds 1 to N (default: %(default)s)")
    add("--data", type=Path, metavar="DIR", help="pretraining data of metro-t0-data binarize")
    add("--prompted", type=Path, metavar="DIR", help="prompt mixture of metro-t0-prompts build")
    add("--tokenizer", type=Path, metavar="DIR", help="vocabulary of both")
    add("--finetuning-updates", type=int, default=1000, help="(default: %(default)s)")
    add("--finetuning-batch-size", type=int, default=32, help="examples per update (default: %(default)s)")
    add("--eval-tasks", type=Path, metavar="YAML", help="task file of metro-t0-eval tasks (default: T0 Eval)")
    add("--eval-data", type=Path, metavar="DIR", help="local evaluation data (default: the Hub)")
    add("--eval-limit", type=int, metavar="ROWS", help="rows of each evaluation task (default: all)")
    add("--score-limit", type=int, metavar="ROWS", help="also measure exact match on held-out rows of each task")
    add("--parts", type=float, nargs="+", default=[1.0], metavar="SHARE",
        help="fine-tune and evaluate checkpoints after these shares of the pretraining, too: 0.3 0.6 1")  # fmt: skip
    add("--pretraining-only", action="store_true", help="stop after the pretraining: its curves over tokens alone")
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="of training on a GPU (default: %(default)s)")
    add("--jobs", type=int, default=1, metavar="N", help="variants at the same time per device (default: %(default)s)")
    add("--tokens-per-sample", type=int, help="length of a block (default: by preset)")
    add("--batch-size", type=int, help="blocks per update (default: by preset)")
    add("--learning-rate", type=float, help="peak, pretraining (default: by preset)")
    add("--finetuning-learning-rate", type=float, help="peak, finetuning (default: by preset)")
    add("--pretraining-options", default="", metavar="OPTIONS", help="more of fairseq-train, as --...='--option value'")
    add("--finetuning-options", default="", metavar="OPTIONS", help="more of fairseq-train, as --...='--option value'")
    add("--output", type=Path, metavar="DIR", help="directory of the experiment")
    return parser


if __name__ == "__main__":
    sys.exit(main())
