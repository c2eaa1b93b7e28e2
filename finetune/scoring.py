"""Exact match and token accuracy of a Hugging Face model on the held-out examples of a built mixture.

One pass with the target given to the decoder serves both: an example whose every token (the end token included) is the
model's first choice after the tokens before it is exactly one whose greedy decoding is the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from finetune.settings import ScoreSettings
from metro_t0.common_options import SEED
from metro_t0.data.mixture_files import TRAIN, VALID
from metro_t0.devices import choose_device
from metro_t0.errors import UserError
from metro_t0.hf.loading import load_part, load_seq2seq
from metro_t0.progress import progress
from metro_t0.prompts.mixing import TaskExamples, choose_tasks, load_task_examples
from metro_t0.randomness import sample_indices
from metro_t0.rows import pad_rows, shift_right
from metro_t0.token_budget import length_sorted_batches
from metro_t0.tokenization import Tokenizer

TRAINING_TARGETS_COUNTED = 20_000


@dataclass(frozen=True)
class TaskScore:
    """Accuracy on one task's held-out examples."""

    name: str
    examples: int
    exact_match: float
    """Share of examples, from 0 to 1."""
    standard_error: float
    """Of `exact_match`: the binomial sqrt(p (1 - p) / n)."""
    token_accuracy: float
    majority: float
    """Exact match of always answering the most frequent target of the training examples."""


class Scorer:
    """A loaded model that scores tasks of the mixture its dictionary belongs to."""

    def __init__(self, model: str, data: Path, device: str | None = None, max_batch_tokens: int = 8192) -> None:
        """Raises `UserError` where the model cannot be loaded or has another dictionary than the data."""
        self.device = choose_device(device)
        self.max_batch_tokens = max_batch_tokens
        self.name = model
        tokenizer = load_part("tokenizer", AutoTokenizer, model, {})
        self.words = Tokenizer.load(data)
        pieces = self.words.vocabulary.tokens()
        if tokenizer.convert_ids_to_tokens(range(len(pieces))) != list(pieces):
            raise UserError(
                f"{data}/dict.txt is not the dictionary of {model}; build the mixture with the model's own tokenizer"
            )
        self.model = load_seq2seq(model).eval().to(self.device)

    @torch.inference_mode()
    def score(
        self, task: TaskExamples, limit: int | None, majority_target: NDArray[np.integer], seed: int = SEED
    ) -> TaskScore:
        """Score all held-out examples, or a sample of `limit` that depends on the seed and the task's name."""
        indices = np.array(sample_indices(len(task), limit, "score", seed, task.name))
        token_hits = tokens = example_hits = majority_hits = 0
        for batch in self._batches(task, indices):
            targets = [task.targets[i] for i in batch]
            predicted, expected = self._predict([task.sources[i] for i in batch], targets)
            counted = expected != self.words.pad_id
            hits = (predicted == expected) & counted
            token_hits += int(hits.sum())
            tokens += int(counted.sum())
            example_hits += int((hits == counted).all(1).sum())
            majority_hits += sum(np.array_equal(target, majority_target) for target in targets)
        share = example_hits / len(indices)
        error = float(np.sqrt(share * (1 - share) / len(indices)))
        return TaskScore(task.name, len(indices), share, error, token_hits / tokens, majority_hits / len(indices))

    def _batches(self, task: TaskExamples, indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        sizes = np.maximum(task.source_sizes[indices] + 1, task.target_sizes[indices])
        for batch in length_sorted_batches(sizes.tolist(), self.max_batch_tokens):
            yield indices[batch]

    def _predict(self, sources: Sequence[Any], targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """-> (B, T) the model's first choices, (B, T) the targets, both padded."""
        inputs = self._padded([[self.words.bos_id, *source] for source in sources])
        expected = self._padded(targets)
        shifted = shift_right(expected, self.model.config.decoder_start_token_id)
        logits = self.model(
            input_ids=inputs, attention_mask=(inputs != self.words.pad_id).long(), decoder_input_ids=shifted
        ).logits
        best, predicted = logits.max(-1)  # the maximum over NaN is NaN
        if not best[expected != self.words.pad_id].isfinite().all():
            raise UserError(
                f"{self.name}: logits are NaN or infinite, so there is no result; check the model's weights"
            )
        return predicted, expected

    def _padded(self, rows: Sequence[Any]) -> Tensor:
        return torch.from_numpy(pad_rows(rows, self.words.pad_id)).to(self.device)


def score_mixture(settings: ScoreSettings) -> list[TaskScore]:
    """Score a model on every task of a built mixture that has held-out examples, or on those named by `only`."""
    held_out = load_task_examples(settings.prompted, VALID)
    named = {task.name: task for name in settings.only for task in choose_tasks(held_out, name)}  # each once
    chosen = list(named.values()) or held_out
    training = {task.name: task for task in load_task_examples(settings.prompted, TRAIN)}
    scorer = Scorer(settings.model, settings.prompted, settings.device)
    return [
        scorer.score(task, settings.limit, most_frequent_target(training[task.name]), settings.seed)
        for task in progress(chosen, "score", unit="tasks")
    ]


def most_frequent_target(task: TaskExamples) -> NDArray[np.integer]:
    """The target that most training examples have (of 20,000 by chance, as some files are sorted by their classes)."""
    counted = sample_indices(len(task), TRAINING_TARGETS_COUNTED, "majority", task.name)
    counts = Counter(task.targets[i].tobytes() for i in counted)
    best = counts.most_common(1)[0][0]
    return np.frombuffer(best, dtype=task.targets[0].dtype)
