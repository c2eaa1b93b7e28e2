"""`metro-t0-eval generate`: write a model's predictions for a file and score them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.generate import GenerationSettings, generate, read_pairs, summarize
from eval.loading import DTYPES, ModelSettings, load_model
from metro_t0.errors import UserError

EXAMPLES = """examples:
  metro-t0-eval generate --model my_model/ --file test.jsonl --output results/generated
  metro-t0-eval generate --model my_model/ --file test.tsv --output results/greedy --beams 1 --max-target 256
  metro-t0-eval generate --model my_model/ --file test.tsv --output results/paper --reference roundtrip

The file: lines `source<TAB>target` (.tsv), or JSON lines {"source": .., "target": ..} or {"source": ..,
"references": [..]}. The output: predictions.jsonl (one line per example, with its scores) and summary.json. A second
run computes what is missing.
"""


def register(subcommands: Any) -> None:
    """Add the command."""
    defaults = GenerationSettings()
    parser = subcommands.add_parser("generate", help="write and score a model's answers to a file", epilog=EXAMPLES)
    add = parser.add_argument
    add("--model", required=True, help="directory or Hugging Face Hub id of a sequence-to-sequence model")
    add("--file", type=Path, required=True, help="sources and targets: .tsv or .jsonl, also .gz or .zst")
    add("--output", type=Path, required=True, help="directory of the predictions")
    add("--beams", type=int, default=defaults.beams, help="beams; 1 is greedy search (default: 4)")
    add("--length-penalty", type=float, default=defaults.length_penalty, help="of beam search (default: 0.6)")
    add("--max-source", type=int, default=defaults.max_source, help="tokens of a source; the rest is cut off")
    add("--max-target", type=int, default=defaults.max_target, help="tokens of a prediction")
    add("--batch-size", type=int, default=defaults.batch_size, help="examples decoded together (default: 16)")
    add("--reference", choices=("raw", "roundtrip"), default="raw", help="what predictions are compared with")
    add("--limit", type=int, help="only that many examples")
    add("--revision", help="branch, tag or commit of a Hub model")
    add("--dtype", default="float32", choices=list(DTYPES), help="of weights and activations")
    add("--device", help="cuda, cuda:1, mps or cpu (default: the best present)")
    add("--trust-remote-code", action="store_true", help="run the Python code that comes with the model")
    parser.set_defaults(body=_generate)


def _generate(options: argparse.Namespace) -> None:
    for name in ("beams", "max_source", "max_target", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1")
    pairs = read_pairs(options.file)[: options.limit]
    settings = GenerationSettings(
        beams=options.beams,
        length_penalty=options.length_penalty,
        max_source=options.max_source,
        max_target=options.max_target,
        batch_size=options.batch_size,
        reference=options.reference,
    )
    model = load_model(
        ModelSettings(options.model, options.revision, options.dtype, options.device, options.trust_remote_code)
    )
    generate(model, pairs, settings, options.output, options.file)
    table = Table("metric", "percent")
    for name, value in summarize(options.output).items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)
    print(f"{len(pairs)} predictions in {options.output}")
