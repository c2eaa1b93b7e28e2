"""`metro-t0-prompts`: build, show, list and score prompted mixtures."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from rich.console import Console

from finetune.building import MIXTURE_FILE, Builder
from finetune.listing import PLAIN_WIDTH, list_datasets, list_mixtures, list_templates
from finetune.mixtures import CapRule, choose_datasets, load_mixture
from finetune.report import print_build, print_scores
from finetune.settings import BuildSettings, PromptSource, ValidationRule
from finetune.showing import show_examples
from metro_t0.command import Parser, run
from metro_t0.files import write_json
from metro_t0.parallel import workers
from metro_t0.prompts.hub import parse_dataset_name
from metro_t0.prompts.rendering import MAX_VARIABLE_LENGTH
from metro_t0.tokenization import Tokenizer

PROGRAM = "metro-t0-prompts"
SOME_FAILED = 3
EXAMPLES = """examples:
  metro-t0-prompts list
  metro-t0-prompts list --mixture t0+
  metro-t0-prompts show --dataset super_glue/rte --data-dir DIR
  metro-t0-prompts build --mixture embedded --tokenizer VOCAB --output prompted
  metro-t0-prompts build --mixture t0 --tokenizer VOCAB --output prompted --data-dir DIR
"""
BUILD_EXAMPLES = """examples:
  small tasks made from the embedded documentation corpus, with no download
    metro-t0-prompts build --mixture embedded --tokenizer VOCAB --output prompted
  two data sets of T0 from local files, 1,000 rows of each split
    metro-t0-prompts build --mixture t0 --only imdb,glue/mrpc --limit 1000 --data-dir DIR --tokenizer VOCAB --output out
  one data set with your own templates
    metro-t0-prompts build --mixture mine --templates my_templates --data-dir DIR --tokenizer VOCAB --output prompted
  ready-rendered text from the hub
    metro-t0-prompts build --mixture t0++ --source p3 --tokenizer VOCAB --output prompted

The same command again continues where it was stopped. Exit status: 0 all built, 2 bad input, 3 something failed
(it is named at the end) and the rest was built.
"""
SHOW_EXAMPLES = """examples:
  metro-t0-prompts show --dataset embedded/next_part
  metro-t0-prompts show --dataset glue/mrpc --template equivalent --split validation --rows 5 --data-dir DIR
"""
SCORE_EXAMPLES = """examples:
  metro-t0-prompts score --model exported --data prompted
  metro-t0-prompts score --model exported --data prompted --only glue/mrpc,trec --limit 200 --output scores.json
"""
LIST_EXAMPLES = """examples:
  metro-t0-prompts list                        # mixtures
  metro-t0-prompts list --mixture t0           # its data sets
  metro-t0-prompts list --dataset glue/mrpc    # its templates
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0, 2 for bad input, 3 where some data sets or tasks failed."""
    arguments = _parser().parse_args(argv)
    return run(PROGRAM, lambda: arguments.body(arguments))


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Prompted multi-task mixtures from real data sets.", epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    _add_build(commands)
    _add_show(commands)
    _add_score(commands)
    _add_list(commands)
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="local data sets as NAME[/SUBSET]/SPLIT.{jsonl,jsonl.gz,parquet} (default: the hub)",
    )
    parser.add_argument(
        "--templates", type=Path, help="template files as NAME[/SUBSET]/templates.yaml (default: promptsource's)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the templates' random choices and of --limit (1)")
    parser.add_argument(
        "--keep-long-variables",
        action="store_true",
        help=f"do not cut each substituted expression to {MAX_VARIABLE_LENGTH:,} characters, as promptsource does",
    )


def _add_build(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("build", help="render, tokenize, write token files", epilog=BUILD_EXAMPLES)
    parser.set_defaults(body=_build)
    parser.add_argument("--mixture", required=True, help="t0, t0+, t0++, embedded, one data set, or a .yaml file")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of the checkpoint's tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    _add_data_options(parser)
    parser.add_argument(
        "--source", choices=get_args(PromptSource), default="promptsource", help="where prompts are from"
    )
    parser.add_argument("--only", default="", help="comma-separated data sets of the mixture (NAME or NAME/SUBSET)")
    parser.add_argument("--limit", type=int, help="rows of each training split, a sample by the seed (default: all)")
    parser.add_argument("--held-out-limit", type=int, help="rows of each held-out split, likewise (default: all)")
    parser.add_argument(
        "--cap",
        choices=get_args(CapRule),
        default="t0",
        help="t0: only data sets above 500,000 rows are capped; released: every template to 500,000 / templates",
    )
    parser.add_argument(
        "--validation",
        choices=get_args(ValidationRule),
        default="t0",
        help="which tasks get held-out examples: T0's choice, all, none (t0)",
    )
    parser.add_argument("--max-source-tokens", type=int, default=512, help="<s> and end token included (512)")
    parser.add_argument("--max-target-tokens", type=int, default=256, help="end token included (256)")
    parser.add_argument("--workers", type=int, help="processes (default: all cores)")


def _add_show(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("show", help="print rendered examples", epilog=SHOW_EXAMPLES)
    parser.set_defaults(body=_show)
    parser.add_argument("--dataset", required=True, help="NAME or NAME/SUBSET")
    parser.add_argument("--template", help="one template (default: all)")
    parser.add_argument("--split", default="train", help="split to read (train)")
    parser.add_argument("--rows", type=int, default=1, help="examples per template (1)")
    _add_data_options(parser)


def _add_score(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("score", help="exact match on held-out examples", epilog=SCORE_EXAMPLES)
    parser.set_defaults(body=_score)
    parser.add_argument("--model", required=True, help="Hugging Face directory (metro-t0-convert makes one)")
    parser.add_argument("--data", type=Path, required=True, help="directory of metro-t0-prompts build")
    parser.add_argument("--only", default="", help="comma-separated data sets (NAME or NAME/SUBSET) or tasks")
    parser.add_argument("--limit", type=int, help="examples per task, a fixed sample (default: all)")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    parser.add_argument("--output", type=Path, help="write the scores as JSON here, too")


def _add_list(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("list", help="list mixtures, data sets, templates", epilog=LIST_EXAMPLES)
    parser.set_defaults(body=_list)
    parser.add_argument("--mixture", help="list the data sets of this mixture")
    parser.add_argument("--dataset", help="list the templates of this data set")
    parser.add_argument("--templates", type=Path, help="template files as NAME[/SUBSET]/templates.yaml")


def _build(arguments: argparse.Namespace) -> int:
    mixture = load_mixture(arguments.mixture, arguments.templates)
    only = [name for name in arguments.only.split(",") if name]
    datasets = choose_datasets(mixture, only) if only else mixture.train
    settings = BuildSettings(
        tokenizer=arguments.tokenizer,
        data_dir=arguments.data_dir,
        templates_dir=arguments.templates,
        source=arguments.source,
        cap=arguments.cap,
        validation=arguments.validation,
        limit=arguments.limit,
        held_out_limit=arguments.held_out_limit,
        seed=arguments.seed,
        max_source_tokens=arguments.max_source_tokens,
        max_target_tokens=arguments.max_target_tokens,
        max_variable_length=None if arguments.keep_long_variables else MAX_VARIABLE_LENGTH,
    )
    tokenizer = Tokenizer.load(arguments.tokenizer)
    with workers(arguments.workers) as pool:
        report = Builder(mixture, settings, tokenizer, arguments.output, pool).build(datasets)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    print_build(report, console)
    tasks = sum(task["status"] == "built" for record in report.records for task in record["tasks"])
    console.print(f"{tasks} tasks in {arguments.output / MIXTURE_FILE}", soft_wrap=True)
    return SOME_FAILED if report.failures else 0


def _score(arguments: argparse.Namespace) -> int:
    from finetune.scoring import score_mixture  # loads torch and transformers, which the other commands do not need

    only = [name for name in arguments.only.split(",") if name]
    scores = score_mixture(arguments.model, arguments.data, only, arguments.limit, arguments.device)
    if arguments.output:
        write_json(arguments.output, [asdict(score) for score in scores])
    print_scores(scores, Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    show_examples(
        dataset=parse_dataset_name(arguments.dataset),
        template=arguments.template,
        split=arguments.split,
        num_rows=arguments.rows,
        data_dir=arguments.data_dir,
        templates_dir=arguments.templates,
        seed=arguments.seed,
        max_variable_length=None if arguments.keep_long_variables else MAX_VARIABLE_LENGTH,
    )
    return 0


def _list(arguments: argparse.Namespace) -> int:
    if arguments.dataset:
        list_templates(parse_dataset_name(arguments.dataset), arguments.templates)
    elif arguments.mixture:
        list_datasets(load_mixture(arguments.mixture, arguments.templates), arguments.templates)
    else:
        list_mixtures(arguments.templates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
