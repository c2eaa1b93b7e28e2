"""What the small data sets of these tests hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEMPLATES = """dataset: colors
templates:
  k1: !Template
    name: which
    jinja: '{{ ["Say", "Tell"] | choice }} the color of {{ thing }}:
      {{ answer_choices | join(", ") }}? ||| {{ answer_choices[label] }}'
    answer_choices: red ||| green ||| blue ||| yellow
    metadata: !TemplateMetadata {original_task: true, choices_in_prompt: true, metrics: [Accuracy]}
  k2: !Template
    name: only red
    jinja: 'What is {{ thing }}? ||| {% if label == 0 %}red{% endif %}'
    answer_choices: null
    metadata: !TemplateMetadata {original_task: false, choices_in_prompt: false, metrics: [Other]}
"""


def write_dataset(directory: Path, name: str, **splits: list[dict[str, Any]]) -> None:
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def color_rows(count: int) -> list[dict[str, Any]]:
    return [{"thing": f"thing {i} " + "very " * (i % 9), "label": i % 4} for i in range(count)]
