"""Examples per second of rank classification: this project, t-zero's way, and lm-evaluation-harness.

One model, the same rows, one machine, one run; the three take turns and the best of their turns counts.

    python -m scripts.benchmarks.rank_eval --model MODEL_DIR --data-dir data/tasks --rows 200

Without --model a randomly initialized T5 of the given --size is made; the speed does not depend on the weights.
It then needs --tokenizer, the directory or Hub id of any tokenizer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from eval.examples import Example, build_examples
from eval.loading import LoadedModel, load_model
from eval.ranking import predict
from eval.runner import task_templates
from eval.scorer import ChoiceScorer
from eval.settings import ModelSettings, ScoringSettings
from eval.tasks import EvalTask
from metro_t0.command import Parser
from metro_t0.devices import best_device
from metro_t0.prompts.datasets import load_rows
from metro_t0.prompts.names import DatasetName
from metro_t0.tables import print_table

TASKS = {
    "copa (2 choices)": EvalTask("copa", DatasetName.parse("super_glue/copa"), "validation", ("more likely",)),
    "rte (2 choices)": EvalTask("rte", DatasetName.parse("super_glue/rte"), "validation", ("GPT-3 style",)),
    "hellaswag (4 names)": EvalTask(
        "hellaswag", DatasetName.parse("hellaswag"), "validation", ("if_begins_how_continues",)
    ),
    "hellaswag (4 endings)": EvalTask(
        "hellaswag", DatasetName.parse("hellaswag"), "validation", ("Predict ending with hint",)
    ),
    "trec (6 choices)": EvalTask("trec", DatasetName.parse("trec"), "test", ("trec1",)),
    "dbpedia (14 choices)": EvalTask(
        "dbpedia", DatasetName.parse("dbpedia_14"), "test", ("pick_one_category_for_the_following_text",)
    ),
    # Nothing to win: a short prompt, answers of one word.
    "wsc (2 words)": EvalTask(
        "wsc", DatasetName.parse("super_glue/wsc.fixed"), "validation", ("does the pronoun refer to",)
    ),
    "mmlu (4 choices)": EvalTask(
        "mmlu",
        DatasetName.parse("mmlu"),
        "validation",
        ("heres_a_problem",),
        templates_of=DatasetName.parse("ai2_arc/ARC-Challenge"),
        row_format="mmlu_as_arc",
    ),
}
SIZES = {
    "small": {"d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048, "num_layers": 6},
    "base": {"d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 3072, "num_layers": 12},
}
T_ZERO_BATCH = 8
"""Per-device evaluation batch of t-zero's launch commands."""
Contender = Callable[[Sequence[Example]], list[int]]


def ours(loaded: LoadedModel, max_tokens: int) -> Contender:
    """This project, encoding and decoding included."""

    def predict_all(examples: Sequence[Example]) -> list[int]:
        scorer = ChoiceScorer(loaded, ScoringSettings(), max_tokens)
        scores, _ = scorer.score([e.source for e in examples], [e.choices for e in examples])
        return [predict(row) for row in scores]

    return predict_all


def t_zero(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Contender:
    """t-zero's procedure: batches in the order of the data, each prompt repeated with every choice, all padded to the
    longest, one full forward pass with labels, log-softmax over the vocabulary at all positions."""

    @torch.inference_mode()
    def predict_all(examples: Sequence[Example]) -> list[int]:
        predictions = []
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            prompts = [example.source for example in batch for _ in example.choices]
            answers = [choice for example in batch for choice in example.choices]
            inputs = tokenizer(prompts, padding=True, truncation=True, max_length=512, return_tensors="pt")
            targets = tokenizer(text_target=answers, padding=True, truncation=True, max_length=256, return_tensors="pt")
            inputs, targets = inputs.to(model.device), targets.to(model.device)
            logits = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=targets["input_ids"]
            ).logits
            masked = logits.log_softmax(-1) * targets["attention_mask"][..., None]
            totals = masked.gather(-1, targets["input_ids"][..., None])[..., 0].sum(-1).tolist()
            for example in batch:
                scores, totals = totals[: len(example.choices)], totals[len(example.choices) :]
                predictions.append(scores.index(max(scores)))
        return predictions

    return predict_all


def lm_eval_harness(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Contender:
    """lm-evaluation-harness's own class and request loop. The end token is written out: it adds none to a choice."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="seq2seq", batch_size=batch_size, max_length=512)

    def predict_all(examples: Sequence[Example]) -> list[int]:
        requests = [
            Instance("loglikelihood", {}, (example.source, choice + tokenizer.eos_token), i)
            for i, example in enumerate(examples)
            for choice in example.choices
        ]
        totals = [total for total, _ in harness.loglikelihood(requests, disable_tqdm=True)]
        predictions = []
        for example in examples:
            scores, totals = totals[: len(example.choices)], totals[len(example.choices) :]
            predictions.append(scores.index(max(scores)))
        return predictions

    return predict_all


def random_model(size: str, tokenizer: str, device: str) -> LoadedModel:
    """A T5 with random weights and somebody's tokenizer."""
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(tokenizer)
    config = T5Config(**SIZES[size], vocab_size=32128, decoder_start_token_id=words.pad_token_id or 0)
    model = T5ForConditionalGeneration(config).eval().to(device)
    return LoadedModel(model, words, {"model": f"T5 {size}, random weights"})


def main() -> int:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--model", help="directory or Hub id")
    parser.add_argument("--size", choices=list(SIZES), default="base", help="of the random T5 without --model")
    parser.add_argument("--tokenizer", help="directory or Hub id, needed without --model")
    parser.add_argument("--device", default=best_device())
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the process's CPU seconds: for a machine shared with other work"
    )
    parser.add_argument("--max-tokens", type=int, default=1024, help="token budget of this project's batches")
    parser.add_argument("--harness-batch", type=int, default=8, help="batch size of lm-evaluation-harness")
    parser.add_argument("--only", nargs="+", default=list(TASKS), choices=list(TASKS))
    options = parser.parse_args()
    if options.model:
        loaded = load_model(ModelSettings(options.model, device=options.device))
    elif options.tokenizer:
        loaded = random_model(options.size, options.tokenizer, options.device)
    else:
        parser.error("give --model, or --tokenizer for a random model")
    contenders: dict[str, Contender] = {
        "metro-t0": ours(loaded, options.max_tokens),
        "t-zero's way": t_zero(loaded.model, loaded.tokenizer, T_ZERO_BATCH),
        "lm-evaluation-harness": lm_eval_harness(loaded.model, loaded.tokenizer, options.harness_batch),
    }
    unit = "CPU second" if options.cpu_time else "s"
    header = ("task", *contenders, "vs t-zero", "vs harness", "same predictions")
    rows = [(name, *measure(TASKS[name], contenders, options)) for name in options.only]
    print_table(header, rows, f"{loaded.identity['model']}, {options.rows} rows, {options.device}, examples/{unit}")
    return 0


def measure(task: EvalTask, contenders: dict[str, Contender], options: argparse.Namespace) -> list[str]:
    """One row of the table."""
    rows = load_rows(task.dataset.name, task.dataset.subset, task.split, options.data_dir)
    (template,) = task_templates(task, None)
    stride = max(1, len(rows) // options.rows)  # spread over the data: MMLU is sorted by subject
    examples = build_examples(task, template, rows, range(0, len(rows), stride), seed=0).examples[: options.rows]
    seconds = dict.fromkeys(contenders, float("inf"))
    predictions: dict[str, list[int]] = {}
    for contender in contenders.values():
        contender(examples[:T_ZERO_BATCH])  # warm-up
    clock = time.process_time if options.cpu_time else time.perf_counter
    for _ in range(options.turns):
        for name, contender in contenders.items():
            start = clock()
            predictions[name] = contender(examples)
            seconds[name] = min(seconds[name], clock() - start)
            print(f"{task.name}, {name}: {len(examples) / seconds[name]:.2f} examples/s", file=sys.stderr, flush=True)
    first, *others = predictions.values()
    same = [sum(a == b for a, b in zip(first, other, strict=True)) for other in others]
    mine, *theirs = seconds.values()
    return [
        *(f"{len(examples) / s:.2f}" for s in seconds.values()),
        *(f"{s / mine:.1f}x" for s in theirs),
        ", ".join(f"{count}/{len(examples)}" for count in same),
    ]


if __name__ == "__main__":
    sys.exit(main())
