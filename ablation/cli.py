"""`metro-t0-ablate`: the paper's comparison of variants (table 4, figures 3a and 3b) at any size.

Every variant is pretrained on the same blocks in the same order, prompt-finetuned from its last checkpoint, and
evaluated zero-shot. OUTPUT/VARIANT/seedN/ holds logs, checkpoints, the exported model and its results; OUTPUT/table.md
the table; OUTPUT/figures/ the training curves. The same command again continues where it was stopped.
"""

from __future__ import annotations

from pathlib import Path

from ablation.plan import Plan
from metro_t0.command import Command, Program
from metro_t0.common_options import output_option
from metro_t0.options import option


class OfVariants(Command):
    """What both commands are told."""

    variants_file: Path | None = option(None, "further variants, in the form of ablation/variants.yaml", metavar="FILE")


class Run(OfVariants):
    """Pretrain, fine-tune and evaluate variants, and write their table. The same command again continues.

    examples:
      two CPU cores, minutes per variant
        metro-t0-ablate run --preset demo --updates 200 --finetuning-updates 100 --data data/bin --prompted prompted \\
            --tokenizer vocab --tasks tasks.yaml --data-dir DIR --output runs/ablation
      one variant per GPU, three seeds, all of T0 Eval
        metro-t0-ablate run --preset small --updates 20000 --finetuning-updates 5000 --seeds 3 --data data/bin \\
            --prompted prompted --tokenizer vocab --output runs/ablation
      equal wall time instead of equal updates, two variants of your own and the baseline
        metro-t0-ablate run --preset small --hours 2 --variants metro,mine1,mine2 --variants-file mine.yaml ...

    exit status: 0 all done, 1 a step of some variant failed (the others are in the table), 2 bad input
    """

    plan: Plan
    variants: tuple[str, ...] = option(
        (), "which variants (default: the rows of paper table 4)", names=True, metavar="NAME,NAME"
    )
    seeds: int = option(1, "repeat with seeds 1 to N", at_least=1, at_most=1000)
    jobs: int = option(1, "variants at the same time per device", at_least=1, at_most=64)
    output: Path = output_option(help="directory of the experiment")

    def run(self) -> int:
        from ablation.checks import check_plan
        from ablation.figures import draw
        from ablation.progress import write_progress
        from ablation.running import claim, make_jobs, run_jobs
        from ablation.table import write_table
        from ablation.variants import choose, load_variants

        variants = choose(load_variants(self.variants_file), self.variants)
        jobs = make_jobs(self.plan, variants, self.seeds, self.output)
        check_plan(self.plan, jobs)
        with claim(self.output, self.plan):
            failures = run_jobs(jobs, self.jobs)
            made = (
                *write_table(jobs, self.output),
                *write_progress(jobs, self.output),
                *draw(jobs, self.output / "figures"),
            )
        for path in made:
            print(path)
        return 1 if failures else 0


class List(OfVariants):
    """Print all variants and their options.

    example:
      metro-t0-ablate list --variants-file mine.yaml
    """

    def run(self) -> None:
        from ablation.variants import load_variants
        from metro_t0.tables import print_table

        variants = load_variants(self.variants_file).values()
        rows = [(variant.name, variant.title, " ".join(variant.arguments)) for variant in variants]
        print_table(("variant", "row of the table", "options of fairseq-train"), rows, left=(1, 2))


main = Program("metro-t0-ablate", __doc__, (Run, List))

if __name__ == "__main__":
    raise SystemExit(main())
