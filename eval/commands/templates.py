"""`metro-t0-eval templates`: which prompt templates a data set has, and which can be ranked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.tasks import dataset_name
from metro_t0.prompts.templates import load_templates

EXAMPLES = """examples:
  metro-t0-eval templates super_glue/boolq
"""


def register(subcommands: Any) -> None:
    """Add the command."""
    parser = subcommands.add_parser("templates", help="list the prompt templates of a data set", epilog=EXAMPLES)
    parser.add_argument("dataset", help="NAME or NAME/SUBSET")
    parser.add_argument("--templates", type=Path, metavar="DIR", help="template files (default: promptsource)")
    parser.set_defaults(body=_list)


def _list(options: argparse.Namespace) -> int:
    dataset = dataset_name(options.dataset)
    table = Table("template", "answer choices", title=str(dataset))
    for template in load_templates(dataset.name, dataset.subset, options.templates).values():
        table.add_row(template.name, template.answer_choices or "[dim]none: cannot be ranked[/dim]")
    Console().print(table)
    return 0
