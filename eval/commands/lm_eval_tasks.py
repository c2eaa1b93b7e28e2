"""`metro-t0-eval lm-eval-tasks`: write a task pack for lm-evaluation-harness."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.lm_eval_pack import identifier, write_pack
from eval.tasks import built_in_tasks, load_tasks

EXAMPLES = """examples:
  metro-t0-eval lm-eval-tasks --data-dir data/tasks --output pack/
  lm_eval --model hf --model_args pretrained=my_model/,backend=seq2seq,trust_remote_code=True,max_length=512 \\
      --include_path pack/ --tasks metro_t0
  metro-t0-eval lm-eval-tasks --tasks my_tasks.yaml --output pack/
"""


def register(subcommands: Any) -> None:
    """Add the command."""
    parser = subcommands.add_parser(
        "lm-eval-tasks", help="a task pack for lm-evaluation-harness (--include_path)", epilog=EXAMPLES
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="directory of the pack")
    add("--set", default="t0", choices=["t0", "mmlu"], help="built-in task set (default: t0)")
    add("--tasks", type=Path, help="a task file of your own instead")
    add("--only", nargs="+", metavar="TASK", help="only these tasks of the set")
    add("--data-dir", type=Path, help="local data sets (default: the Hub)")
    add("--templates", type=Path, metavar="DIR", help="template files (default: promptsource)")
    add("--end-token", default="</s>", help="end token of the model's tokenizer, as text (default: </s>)")
    add("--seed", type=int, default=0, help="of templates that draw at random (default: 0)")
    add("--limit", type=int, metavar="ROWS", help="only the first rows of each task")
    parser.set_defaults(body=_write)


def _write(options: argparse.Namespace) -> int:
    task_set = load_tasks(options.tasks) if options.tasks else built_in_tasks(options.set)
    summary = write_pack(
        task_set.selected(options.only),
        options.output,
        options.data_dir,
        options.templates,
        options.end_token,
        options.seed,
        options.limit,
    )
    group = f"metro_{identifier(task_set.name)}"
    print(f"{options.output}: group {group}: {summary.num_tasks} tasks, {summary.num_examples} examples")
    for name, reason in summary.missing.items():
        print(f"not in the pack: {name}: {reason}")
    return 0
