"""`metro-t0-prompts show`: what the model will see."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from metro_t0.errors import UserError
from metro_t0.prompts.datasets import Row, load_rows
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.rendering import Template
from metro_t0.prompts.templates import find_template, load_templates


def show_examples(
    dataset: DatasetName,
    template: str | None,
    split: str,
    num_rows: int,
    data_dir: Path | None,
    templates_dir: Path | None,
    seed: int,
    max_variable_length: int | None,
) -> None:
    """Print the first rows of a split rendered by one template, or by each of the data set.

    Rows for which a template gives no target are passed over. Raises `UserError` for unknown names.
    """
    templates = load_templates(dataset.name, dataset.subset, templates_dir, max_variable_length)
    chosen = [find_template(templates, template)] if template else list(templates.values())
    rows = load_rows(dataset.name, dataset.subset, split, data_dir)
    console = Console()
    for each in chosen:
        flags = [flag for flag, on in (("original task", each.original_task), ("choices", each.has_choices)) if on]
        console.print(Rule(Text(f"{dataset}  {each.name}  ({', '.join(flags) or 'no choices'})")))
        shown = 0
        for index, row in enumerate(rows):
            if shown == num_rows:
                break
            shown += _show_row(console, each, row, index, seed)
        if not shown:
            console.print(f"no target for any of {len(rows)} rows of {split}", style="yellow")


def _show_row(console: Console, template: Template, row: Row, index: int, seed: int) -> bool:
    try:
        rendered = template.render(row, (seed, template.dataset, template.name, index))
    except UserError as error:
        console.print(Text(f"row {index}: {error}"), style="red")
        return True
    if rendered is None:
        return False
    console.print(Text(f"row {index} source"), style="bold")
    console.print(Text(rendered.source), style="cyan")
    console.print(Text("target"), style="bold")
    console.print(Text(rendered.target), style="green")
    if rendered.choices:
        console.print(Text.assemble(("choices ", "bold"), " | ".join(rendered.choices)))
    return True
