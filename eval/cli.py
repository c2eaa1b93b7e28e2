"""`metro-t0-eval`: zero-shot evaluation by rank classification."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eval.settings import EvaluationSettings, GenerationSettings, ModelSettings, PackSettings, RetrievalSettings
from metro_t0.command import Command, Program
from metro_t0.common_options import dataset_option, output_option, templates_option
from metro_t0.errors import UserError, printable
from metro_t0.options import option


class T0(Command, EvaluationSettings):
    """The 11 data sets of T0 Eval.

    examples:
      metro-t0-eval t0 --model bigscience/T0_3B --dtype bfloat16 --output results/t0_3b
      metro-t0-eval t0 --model my_model/ --data-dir data/tasks --output results/mine --only rte,copa
      torchrun --nproc-per-node 8 -m eval.cli t0 --model google/flan-t5-xl --output results/flan_t5_xl

    The license of Story Cloze asks every user for a form: put your copy of the 2016 validation set into
    DATA_DIR/story_cloze/2016/validation.jsonl (see docs/evaluation.md). A data set that is absent is reported, and the
    average is then marked as a mean over k of 11.
    """

    def run(self) -> None:
        from eval.evaluation import evaluate
        from eval.tasks import built_in_tasks

        evaluate(self, built_in_tasks("t0"))


class Mmlu(Command, EvaluationSettings):
    """The 57 subjects of MMLU.

    examples:
      metro-t0-eval mmlu --model google/flan-t5-base --output results/flan_mmlu
      metro-t0-eval mmlu --model my_model/ --split test --data-dir data/tasks --output results/mine_mmlu
      metro-t0-eval mmlu --model my_model/ --passages passages.jsonl --top-k 5 --output results/mine_mmlu_retrieval
    """

    split: Literal["validation", "test"] = option("validation", "1,531 or 14,042 questions")
    passages: Path | None = option(None, "passages per question, of metro-t0-eval retrieve", metavar="FILE")
    top_k: int = option(5, "passages added to a prompt (the paper: 5)", at_least=1, at_most=1000)

    def run(self) -> None:
        from eval.evaluation import evaluate
        from eval.mmlu import adds_passages
        from eval.tasks import built_in_tasks
        from metro_t0.files import sha256_of

        settings: dict[str, str | int] = {"split": self.split}
        if self.passages:
            settings |= {"passages": sha256_of(self.passages)[:16], "top_k": self.top_k}
        edit_source = adds_passages(self.passages, self.top_k) if self.passages else None
        evaluate(self, built_in_tasks("mmlu", self.split), settings, edit_source)


class Tasks(Command, EvaluationSettings):
    """Data sets of your own choice.

    examples:
      metro-t0-eval tasks --tasks my_tasks.yaml --model my_model/ --output results/mine
      metro-t0-eval tasks --tasks embedded --model my_model/ --output results/embedded

    my_tasks.yaml:
      tasks:
        - {dataset: super_glue/boolq}                                # every template with answer choices
        - {dataset: imdb, split: test, templates: [Reviewer Opinion bad good choices]}
    """

    tasks: str = option(
        help="task set by name (btzsc, embedded), or a YAML file that lists data sets and templates", metavar="TASKS"
    )

    def run(self) -> None:
        from eval.evaluation import evaluate
        from eval.tasks import task_set_of

        evaluate(self, task_set_of(self.tasks))


class Templates(Command):
    """List the prompt templates of a data set.

    example:
      metro-t0-eval templates --dataset super_glue/boolq
    """

    dataset: str = dataset_option()
    templates_dir: Path | None = templates_option()

    def run(self) -> None:
        from metro_t0.prompts.names import DatasetName
        from metro_t0.prompts.templates import load_templates
        from metro_t0.tables import print_table

        dataset = DatasetName.parse(self.dataset)
        templates = load_templates(dataset.name, dataset.subset, self.templates_dir).values()
        rows = [(template.name, template.answer_choices or "none: cannot be ranked") for template in templates]
        print_table(("template", "answer choices"), rows, title=str(dataset), left=(1,))


class Report(Command):
    """Tables, figures and page of one or more results directories.

    examples:
      metro-t0-eval report results/mine                                         # again, into the same directory
      metro-t0-eval report results/t5 results/metro --output results/compared   # the first is the reference
    """

    results: tuple[Path, ...] = option(
        help="results directories; further ones are compared with the first", positional=True, metavar="DIR"
    )
    output: Path | None = option(None, "directory of the report (needed for several results)", metavar="DIR")
    length_normalize: bool = option(False, "report the mean per token beside the sum")

    def run(self) -> None:
        from eval.evaluation import report
        from eval.summary import summarize_directories

        if self.output is None and len(self.results) > 1:
            raise UserError("--output is needed: several results need a directory of their own for the report")
        report(self.output or self.results[0], summarize_directories(self.results), self.length_normalize)


class Track(Command):
    """Log the scores to the run that training logged to.

    examples:
      metro-t0-eval track results/mine --update 20000 --to tensorboard:runs/mine/tb   # that of --tensorboard-logdir
      metro-t0-eval track results/mine --update 20000 --to wandb:PROJECT/ID           # WANDB_MODE=offline keeps it here
      metro-t0-eval track results/mine --update 20000 --to mlflow:RUN_ID              # in MLFLOW_TRACKING_URI
      metro-t0-eval track results/mine --update 20000 --to trackio:PROJECT/NAME
    """

    results: Path = option(help="results directory", positional=True, metavar="DIR")
    to: str = option(help="tracker and run, see below", metavar="TRACKER:PLACE")
    update: int = option(help="updates of the checkpoint that was evaluated", at_least=0, at_most=10**12)

    def run(self) -> None:
        from eval.results import ResultsDirectory
        from eval.summary import summarize_directory
        from eval.tracking import log_scores

        metrics = log_scores(self.to, summarize_directory(ResultsDirectory(self.results)), self.update)
        print(f"{self.to}: {len(metrics)} scores at update {self.update}")


class Retrieve(Command, RetrievalSettings):
    """Find passages for MMLU questions.

    examples:
      metro-t0-eval retrieve --encoder sentence-transformers/gtr-t5-base --collection msmarco/collection.tsv \\
          --index msmarco_gtr/ --output passages.jsonl
      metro-t0-eval retrieve --encoder sentence-transformers/gtr-t5-base --collection hf:BeIR/msmarco/corpus:corpus \\
          --index msmarco_gtr/ --output passages.jsonl
      metro-t0-eval mmlu --model my_model/ --passages passages.jsonl --top-k 5 --output results/mine_retrieval

    The index is built once, shard by shard, and continued after an interruption; a shard of 500,000 passages of 768
    dimensions takes 1.5 GB of memory and of disk.
    """

    def run(self) -> None:
        from eval.retrieval import retrieve

        questions, found, total = retrieve(self)
        print(f"{self.output}: {found} of {total} passages for each of {questions} questions")


class LmEvalTasks(Command, PackSettings):
    """A task pack for lm-evaluation-harness (--include_path).

    examples:
      metro-t0-eval lm-eval-tasks --data-dir data/tasks --output pack/
      python -m eval.harness --model metro-t0 --model_args pretrained=my_model/ --include_path pack/ --tasks metro_t0
      metro-t0-eval lm-eval-tasks --tasks my_tasks.yaml --output pack/
    """

    def run(self) -> None:
        from eval.lm_eval_pack import write_pack

        pack = write_pack(self)
        print(f"{self.output}: group {pack.group}: {pack.num_tasks} tasks, {pack.num_examples} examples")
        for name, reason in pack.missing.items():
            print(printable(f"not in the pack: {name}: {reason}"))


class Generate(Command):
    """Write and score a model's answers to a file.

    examples:
      metro-t0-eval generate --model my_model/ --file test.jsonl --output results/generated
      metro-t0-eval generate --model my_model/ --file test.tsv --output results/greedy --beams 1 --max-target-tokens 256
      metro-t0-eval generate --model my_model/ --file test.tsv --output results/paper --reference roundtrip

    The file: lines `source<TAB>target` (.tsv), or JSON lines {"source": .., "target": ..} or {"source": ..,
    "references": [..]}. The output: predictions.jsonl (one line per example, with its scores) and summary.json. A
    second run computes what is missing.
    """

    model: ModelSettings
    file: Path = option(help="sources and targets: .tsv or .jsonl, also .gz or .zst", metavar="FILE")
    generation: GenerationSettings
    output: Path = output_option(help="directory of the predictions")

    def run(self) -> None:
        from eval.generate import generate, summarize
        from metro_t0.tables import print_table

        count = generate(self.model, self.file, self.generation, self.output)
        print_table(("metric", "percent"), [(name, f"{value:.2f}") for name, value in summarize(self.output).items()])
        print(f"{count} predictions in {self.output}")


main = Program(
    "metro-t0-eval",
    "Zero-shot evaluation of sequence-to-sequence models by rank classification.",
    (T0, Mmlu, Tasks, Templates, Report, Track, Retrieve, LmEvalTasks, Generate),
)

if __name__ == "__main__":
    raise SystemExit(main())
