"""`metro-t0-eval templates`: which prompt templates a data set has, and which can be ranked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from metro_t0.command import Command
from metro_t0.common_options import dataset_option, templates_option


@dataclass(frozen=True, kw_only=True)
class Templates(Command):
    """List the prompt templates of a data set."""

    name: ClassVar[str] = "templates"
    examples: ClassVar[str] = "examples:\n  metro-t0-eval templates --dataset super_glue/boolq\n"
    dataset: str = dataset_option()
    templates_dir: Path | None = templates_option()

    def run(self) -> None:
        from eval.tasks import dataset_name
        from metro_t0.prompts.templates import load_templates
        from metro_t0.tables import print_table

        dataset = dataset_name(self.dataset)
        templates = load_templates(dataset.name, dataset.subset, self.templates_dir).values()
        rows = [(template.name, template.answer_choices or "none: cannot be ranked") for template in templates]
        print_table(("template", "answer choices"), rows, title=str(dataset), left=(1,))
