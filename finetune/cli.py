"""`metro-t0-prompts`: check, build, show, list and score prompted mixtures."""

from __future__ import annotations

from pathlib import Path

from finetune.settings import BuildSettings, PromptSettings, ScoreSettings, ShowSettings
from metro_t0.command import Command, Program
from metro_t0.common_options import (
    data_dir_option,
    dataset_option,
    only_option,
    output_option,
    templates_option,
    workers_option,
)
from metro_t0.options import option

SOME_FAILED = 3


class Check(Command):
    """Look whether every data set can be had and looks as it should: run this first where there is a network.

    examples:
      metro-t0-prompts check --mixture t0
      metro-t0-prompts check --mixture trec --download
      metro-t0-prompts check --mixture mine.yaml --data-dir DIR --templates my_templates

    A line per data set: ok, by hand (it is given out by a form) or failed; where its rows are, its columns and classes,
    its rows, and how many of its templates render. Exit status: 0 all well, 3 something failed.
    """

    mixture: str | None = option(None, "t0, t0+, t0++, one data set, or a .yaml file (default: every data set known)")
    rows: int = option(20, "rows of each data set to render by its templates", at_least=1, at_most=1000)
    download: bool = option(False, "take whole data sets, not a look at their first rows")
    settings: PromptSettings

    def run(self) -> int:
        from finetune.checking import check_datasets, summary
        from finetune.mixtures import load_mixture
        from metro_t0.prompts.hub import hub_sources

        known = load_mixture(self.mixture, self.settings.templates_dir).train if self.mixture else tuple(hub_sources())
        checked = []
        for each in check_datasets(known, self.settings, self.rows, self.download):
            print(each.line(), flush=True)
            checked.append(each)
        print(summary(checked))
        return SOME_FAILED if any(each.problems for each in checked) else 0


class List(Command):
    """List mixtures, data sets, templates.

    examples:
      metro-t0-prompts list                        # mixtures
      metro-t0-prompts list --mixture t0           # its data sets
      metro-t0-prompts list --dataset glue/mrpc    # its templates
    """

    mixture: str | None = option(None, "list the data sets of this mixture")
    dataset: str | None = dataset_option(None, help="list the templates of this data set")
    data_dir: Path | None = data_dir_option()
    templates_dir: Path | None = templates_option()

    def run(self) -> None:
        from finetune.listing import list_datasets, list_mixtures, list_templates
        from finetune.mixtures import load_mixture
        from metro_t0.prompts.names import DatasetName

        if self.dataset:
            list_templates(DatasetName.parse(self.dataset), self.templates_dir)
        elif self.mixture:
            list_datasets(load_mixture(self.mixture, self.templates_dir), self.templates_dir, self.data_dir)
        else:
            list_mixtures(self.templates_dir)


class Show(Command, ShowSettings):
    """Print rendered examples.

    examples:
      metro-t0-prompts show --dataset embedded/next_part
      metro-t0-prompts show --dataset super_glue/rte --data-dir DIR
      metro-t0-prompts show --dataset glue/mrpc --template equivalent --split validation --rows 5 --data-dir DIR
    """

    def run(self) -> None:
        from finetune.showing import show_examples

        show_examples(self)


class Build(Command):
    """Render, tokenize, write token files.

    examples:
      small tasks made from the embedded documentation corpus, with no download
        metro-t0-prompts build --mixture embedded --tokenizer VOCAB --output prompted
      two data sets of T0 from local files, 1,000 rows of each split
        metro-t0-prompts build --mixture t0 --only imdb,glue/mrpc --limit 1000 --data-dir DIR --tokenizer VOCAB \\
            --output prompted
      one data set with your own templates
        metro-t0-prompts build --mixture mine --templates templates --data-dir DIR --tokenizer VOCAB --output prompted
      ready-rendered text from the hub
        metro-t0-prompts build --mixture t0++ --source p3 --tokenizer VOCAB --output prompted

    The same command again continues where it was stopped. Exit status: 0 all built, 2 bad input, 3 something failed
    (it is named at the end) and the rest was built.
    """

    mixture: str = option(help="t0, t0+, t0++, embedded, one data set, or a .yaml file")
    settings: BuildSettings
    only: tuple[str, ...] = only_option("data sets of the mixture (NAME or NAME/SUBSET)")
    workers: int | None = workers_option()
    output: Path = output_option()

    def run(self) -> int:
        from finetune.building import Builder
        from finetune.mixtures import choose_datasets, load_mixture
        from finetune.report import print_build
        from metro_t0.data.mixture_files import MIXTURE_FILE
        from metro_t0.parallel import workers
        from metro_t0.tokenization import Tokenizer

        mixture = load_mixture(self.mixture, self.settings.templates_dir)
        datasets = choose_datasets(mixture, self.only) if self.only else mixture.train
        tokenizer = Tokenizer.load(self.settings.tokenizer)
        with workers(self.workers) as pool:
            report = Builder(mixture, self.settings, tokenizer, self.output, pool).build(datasets)
        print_build(report)
        tasks = sum(task["status"] == "built" for record in report.records for task in record["tasks"])
        print(f"{tasks} tasks in {self.output / MIXTURE_FILE}")
        return SOME_FAILED if report.failures else 0


class Score(Command, ScoreSettings):
    """Exact match on held-out examples.

    examples:
      metro-t0-prompts score --model exported --prompted prompted
      metro-t0-prompts score --model exported --prompted prompted --only glue/mrpc,trec --limit 200 --output scores.json
    """

    output: Path | None = option(None, "write the scores as JSON here, too", metavar="FILE")

    def run(self) -> None:
        from dataclasses import asdict

        from finetune.report import print_scores
        from finetune.scoring import score_mixture
        from metro_t0.files import write_json

        scores = score_mixture(self)
        if self.output:
            write_json(self.output, [asdict(score) for score in scores])
        print_scores(scores)


main = Program("metro-t0-prompts", "Prompted multi-task mixtures of real data sets.", (Check, List, Show, Build, Score))

if __name__ == "__main__":
    raise SystemExit(main())
