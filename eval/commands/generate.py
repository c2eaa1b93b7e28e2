"""`metro-t0-eval generate`: write a model's predictions for a file and score them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eval.settings import GenerationSettings, ModelSettings
from metro_t0.command import Command
from metro_t0.common_options import output_option
from metro_t0.options import option

EXAMPLES = """examples:
  metro-t0-eval generate --model my_model/ --file test.jsonl --output results/generated
  metro-t0-eval generate --model my_model/ --file test.tsv --output results/greedy --beams 1 --max-target-tokens 256
  metro-t0-eval generate --model my_model/ --file test.tsv --output results/paper --reference roundtrip

The file: lines `source<TAB>target` (.tsv), or JSON lines {"source": .., "target": ..} or {"source": ..,
"references": [..]}. The output: predictions.jsonl (one line per example, with its scores) and summary.json. A second
run computes what is missing.
"""


@dataclass(frozen=True, kw_only=True)
class Generate(Command):
    """Write and score a model's answers to a file."""

    name: ClassVar[str] = "generate"
    examples: ClassVar[str] = EXAMPLES
    model: ModelSettings
    file: Path = option(help="sources and targets: .tsv or .jsonl, also .gz or .zst", metavar="FILE")
    generation: GenerationSettings
    output: Path = output_option("directory of the predictions")

    def run(self) -> None:
        from eval.generate import generate, summarize
        from eval.loading import open_model
        from metro_t0.data.pairs import read_pairs
        from metro_t0.randomness import sample_indices
        from metro_t0.tables import print_table

        pairs = read_pairs(self.file)
        pairs = [pairs[i] for i in sample_indices(len(pairs), self.generation.limit, "limit", self.generation.seed)]
        generate(open_model(self.model), pairs, self.generation, self.output, self.file)
        print_table(("metric", "percent"), [(name, f"{value:.2f}") for name, value in summarize(self.output).items()])
        print(f"{len(pairs)} predictions in {self.output}")
