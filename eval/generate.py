"""Predictions of a sequence-to-sequence model for a file of sources, written as they come and continued on a rerun."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from eval.loading import LoadedModel, open_model
from eval.ranking import not_finite_cause
from eval.results import unrecorded
from eval.settings import GenerationSettings, ModelSettings
from eval.text_metrics import METRICS, best_over_references, bootstrap_midpoint
from metro_t0.claims import claimed
from metro_t0.data.pairs import Pair, read_pairs
from metro_t0.errors import UserError
from metro_t0.files import decoded, sha256_of, write_json
from metro_t0.progress import progress
from metro_t0.randomness import sample_indices
from metro_t0.shapes import expect, json_value

PREDICTIONS = "predictions.jsonl"
SETTINGS = "settings.json"
SUMMARY = "summary.json"
BATCHES_PER_CHUNK = 8


def generate(model_settings: ModelSettings, file: Path, settings: GenerationSettings, output: Path) -> int:
    """Write OUTPUT/predictions.jsonl, one line per example in the order of the file; returns how many.

    Examples that are there already are not computed again. Raises `UserError` where the directory holds predictions
    of another model, file or setting.
    """
    pairs = read_pairs(file)
    pairs = [pairs[i] for i in sample_indices(len(pairs), settings.limit, "limit", settings.seed)]
    model = open_model(model_settings)
    identity = {**model.identity, "file": sha256_of(file), **asdict(settings)}
    with claimed(output, identity, SETTINGS, [PREDICTIONS], ignore=unrecorded(output / SETTINGS)):
        done = len(read_predictions(output))
        if done > len(pairs):
            raise UserError(f"{output / PREDICTIONS}: has {done} predictions for {len(pairs)} examples; remove it")
        if done == len(pairs):
            return done
        loaded = model.load()
        if loaded.tokenizer.pad_token is None:
            loaded.tokenizer.pad_token = loaded.tokenizer.eos_token  # behind the mask any token is as good
        chunk = settings.batch_size * BATCHES_PER_CHUNK
        starts = range(done, len(pairs), chunk)
        for start in progress(starts, "generate", len(starts), f"chunks of {chunk} examples"):
            rows = pairs[start : start + chunk]
            texts = list(_predict(loaded, [pair.source for pair in rows], settings))
            scored = [
                _scored(loaded, number, pair, prediction, settings)
                for number, (pair, prediction) in enumerate(zip(rows, texts, strict=True), start)
            ]
            with open(output / PREDICTIONS, "a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in scored)
    return len(pairs)


def read_predictions(output: Path) -> list[dict[str, Any]]:
    """The predictions of a directory so far. A line that a killed run left unfinished is cut off."""
    path = output / PREDICTIONS
    if not path.is_file():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(path, "r+b") as stream:
            stream.truncate(len(whole))
    places = ((f"{path}: line {number}", line) for number, line in enumerate(decoded(whole, path).split("\n")[:-1], 1))
    return [expect(json_value(line, place), dict[str, Any], place) for place, line in places]


class NanWatch(LogitsProcessor):
    """Notes whether any logit was NaN, without making a GPU wait at every token."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by `generate` with (rows, V) logits or log-probabilities; leaves them as they are."""
        here = scores.isnan().any()
        self._seen = here if self._seen is None else self._seen | here
        return scores

    @property
    def seen(self) -> bool:
        """Whether a logit was NaN so far."""
        return self._seen is not None and bool(self._seen)


@torch.inference_mode()
def _predict(loaded: LoadedModel, sources: Sequence[str], settings: GenerationSettings) -> Iterator[str]:
    """Predictions in the order of the sources; batches hold sources of similar length."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found: dict[int, str] = {}
    watch = NanWatch()
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        batch = loaded.tokenizer(
            [sources[i] for i in rows],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=settings.max_source_tokens,
        ).to(loaded.model.device)
        try:
            ids = loaded.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                num_beams=settings.beams,
                do_sample=False,
                num_return_sequences=1,
                return_dict_in_generate=False,
                max_new_tokens=settings.max_target_tokens,
                logits_processor=LogitsProcessorList([watch]),
                **({"length_penalty": settings.length_penalty, "early_stopping": True} if settings.beams > 1 else {}),
            )
        except IndexError:
            raise UserError(
                f"a source of {batch['input_ids'].size(1)} tokens, or its prediction, is longer than the model's table "
                "of positions; give a smaller --max-source-tokens or --max-target-tokens"
            ) from None
        if watch.seen:
            raise UserError(f"logits of generated tokens are {not_finite_cause(loaded.model.dtype)}")
        found.update(zip(rows, loaded.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True))
    return iter(found[i] for i in range(len(sources)))


def _scored(
    loaded: LoadedModel, number: int, pair: Pair, prediction: str, settings: GenerationSettings
) -> dict[str, Any]:
    references = [reference_text(loaded, text, settings) for text in pair.references]
    scores = {name: best_over_references(metric, prediction, references) for name, metric in METRICS.items()}
    return {"index": number, "source": pair.source, "prediction": prediction, "references": references, **scores}


def reference_text(loaded: LoadedModel, text: str, settings: GenerationSettings) -> str:
    """The reference as it is, or as the model could have written it within `max_target_tokens` tokens."""
    if settings.reference == "raw":
        return text
    ids = loaded.tokenizer(text_target=text, truncation=True, max_length=settings.max_target_tokens)["input_ids"]
    return str(loaded.tokenizer.decode(ids, skip_special_tokens=True))


def summarize(output: Path) -> dict[str, float]:
    """Mean of every metric over all predictions, written to OUTPUT/summary.json."""
    rows = read_predictions(output)
    summary = {name: sum(row[name] for row in rows) / len(rows) for name in METRICS}
    summary["rouge1_bootstrap"] = bootstrap_midpoint([row["rouge1"] for row in rows])
    write_json(output / SUMMARY, {"examples": len(rows), **summary})
    return summary
