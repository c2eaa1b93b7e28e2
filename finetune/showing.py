"""`metro-t0-prompts show`: what the model will see."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from finetune.settings import ShowSettings
from metro_t0.errors import UserError, printable
from metro_t0.prompts.datasets import Row, load_rows
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.rendering import HiddenLabelError, Template
from metro_t0.prompts.templates import find_template, load_templates


def show_examples(settings: ShowSettings) -> None:
    """Print the first rows of a split rendered by one template, or by each of the data set, line for line.

    Rows for which a template has no target are passed over. Raises `UserError` for unknown names.
    """
    dataset = DatasetName.parse(settings.dataset)
    templates = load_templates(dataset.name, dataset.subset, settings.templates_dir, settings.max_variable_length)
    chosen = [find_template(templates, settings.template)] if settings.template else list(templates.values())
    rows = load_rows(dataset.name, dataset.subset, settings.split, settings.data_dir)
    for each in chosen:
        flags = [flag for flag, on in (("original task", each.original_task), ("choices", each.has_choices)) if on]
        _say(f"--- {dataset}  {each.name}  ({', '.join(flags) or 'no choices'})", "bold")
        shown = 0
        for index, row in enumerate(rows):
            if shown == settings.rows:
                break
            shown += _show_row(each, row, index, settings.seed)
        if not shown:
            _say(f"no target for any of {len(rows)} rows of {settings.split}", "yellow")


def _show_row(template: Template, row: Row, index: int, seed: int) -> bool:
    try:
        rendered = template.render(row, (seed, template.dataset, template.name, index))
    except HiddenLabelError:
        return False
    except UserError as error:
        _say(f"row {index}: {error}", "red")
        return True
    if rendered is None:
        return False
    _say(f"row {index} source", "bold")
    _say(rendered.source, "cyan")
    _say("target", "bold")
    _say(rendered.target, "green")
    if rendered.choices:
        _say("choices " + " | ".join(rendered.choices))
    return True


def _say(text: str, style: str = "") -> None:
    """Text as the model sees it: a terminal may fold its lines, but no line end is put into it."""
    Console().print(Text(printable(text)), style=style, soft_wrap=True)
