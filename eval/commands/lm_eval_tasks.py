"""`metro-t0-eval lm-eval-tasks`: write a task pack for lm-evaluation-harness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from metro_t0.command import Command
from metro_t0.common_options import (
    data_dir_option,
    limit_option,
    only_option,
    output_option,
    seed_option,
    templates_option,
)
from metro_t0.errors import printable
from metro_t0.options import option

EXAMPLES = """examples:
  metro-t0-eval lm-eval-tasks --data-dir data/tasks --output pack/
  python -m eval.harness --model metro-t0 --model_args pretrained=my_model/ --include_path pack/ --tasks metro_t0
  metro-t0-eval lm-eval-tasks --tasks my_tasks.yaml --output pack/
"""


@dataclass(frozen=True, kw_only=True)
class LmEvalTasks(Command):
    """A task pack for lm-evaluation-harness (--include_path)."""

    name: ClassVar[str] = "lm-eval-tasks"
    examples: ClassVar[str] = EXAMPLES
    output: Path = output_option("directory of the pack")
    tasks: str = option("t0", "task set: t0, mmlu, btzsc, embedded, or a YAML file of your own", metavar="TASKS")
    only: tuple[str, ...] = only_option("tasks of the set")
    data_dir: Path | None = data_dir_option()
    templates_dir: Path | None = templates_option()
    end_token: str = option("</s>", "end token of the model's tokenizer, as text")
    seed: int = seed_option("templates that draw at random, and of the sample of --limit")
    limit: int | None = limit_option("rows of each task")

    def run(self) -> None:
        from eval.lm_eval_pack import identifier, write_pack
        from eval.tasks import task_set_of

        task_set = task_set_of(self.tasks)
        summary = write_pack(
            task_set.selected(self.only),
            self.output,
            self.data_dir,
            self.templates_dir,
            self.end_token,
            self.seed,
            self.limit,
        )
        group = f"metro_{identifier(task_set.name)}"
        print(f"{self.output}: group {group}: {summary.num_tasks} tasks, {summary.num_examples} examples")
        for name, reason in summary.missing.items():
            print(printable(f"not in the pack: {name}: {reason}"))
