"""Rows to token ids: what one worker does with one slice of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.planning import P3_COLUMNS, PlannedTask
from finetune.settings import BuildSettings
from metro_t0.data.token_files import token_dtype
from metro_t0.errors import UserError
from metro_t0.prompts.datasets import Row, RowSource
from metro_t0.prompts.rendering import HiddenLabelError, MissingColumnError, RenderError
from metro_t0.tokenization import Tokenizer

READ = "rows"
RENDERED = "rendered"
NO_TARGET = "no target"
HIDDEN_LABEL = "hidden label"
MISSING_COLUMN = "missing column"
RENDER_ERROR = "error"
SOURCE_CUT = "source cut"
TARGET_CUT = "target cut"
SKIPPED = (NO_TARGET, HIDDEN_LABEL, MISSING_COLUMN, RENDER_ERROR)


@dataclass
class TokenizedSlice:
    """The examples that one task makes of one slice of rows."""

    source_tokens: NDArray[np.integer]
    source_sizes: NDArray[np.int32]
    target_tokens: NDArray[np.integer]
    target_sizes: NDArray[np.int32]
    counts: Counter[str]
    """How many rows were read, rendered, skipped by reason, and cut."""
    complaint: str | None = None
    """The first message about a row that could not be rendered."""
    failure: str | None = None
    """Why the task cannot be built at all, where that is so."""


@dataclass(frozen=True)
class SliceJob:
    """Some rows of one split, for all tasks that read them."""

    rows: RowSource
    split: str
    indices: NDArray[np.int64] = field(repr=False)
    """(rows,) which rows, ascending."""
    tasks: tuple[PlannedTask, ...] = field(repr=False)
    settings: BuildSettings = field(repr=False)


def tokenize_slice(job: SliceJob) -> list[TokenizedSlice]:
    """Render and tokenize; one result per task, in the order of `job.tasks`."""
    table = job.rows.open()
    first, last = int(job.indices[0]), int(job.indices[-1])
    if last - first + 1 == len(job.indices):
        rows = list(table[first : last + 1])
    else:
        rows = [table[int(index)] for index in job.indices]
    if job.settings.source == "p3":
        rows = [{name: row[name] for name in P3_COLUMNS if name in row} for row in rows]
    return [_tokenize_task(task, rows, job) for task in job.tasks]


def _tokenize_task(task: PlannedTask, rows: Sequence[Row], job: SliceJob) -> TokenizedSlice:
    counts: Counter[str] = Counter({READ: len(rows)})
    complaint = failure = None
    sources: list[str] = []
    targets: list[str] = []
    for index, row in zip(job.indices.tolist(), rows, strict=True):
        try:
            rendered = task.template.render(row, (job.settings.seed, task.template.dataset, task.template.name, index))
        except HiddenLabelError:
            counts[HIDDEN_LABEL] += 1
            continue
        except (MissingColumnError, RenderError) as error:
            counts[MISSING_COLUMN if isinstance(error, MissingColumnError) else RENDER_ERROR] += 1
            complaint = complaint or f"{error} (first at row {index} of {job.split})"
            continue
        except UserError as error:
            failure = str(error)
            break
        if rendered is None:
            counts[NO_TARGET] += 1
        else:
            sources.append(rendered.source)
            targets.append(rendered.target)
    counts[RENDERED] = len(sources)
    tokenizer = _tokenizer(job.settings.tokenizer)
    # The stored source leaves room for the <s> that training puts before it, as evaluation does.
    source = _encode(tokenizer, sources, job.settings.max_source_tokens - 1)
    target = _encode(tokenizer, targets, job.settings.max_target_tokens)
    counts[SOURCE_CUT], counts[TARGET_CUT] = source[2], target[2]
    return TokenizedSlice(source[0], source[1], target[0], target[1], counts, complaint, failure)


def _encode(
    tokenizer: Tokenizer, texts: list[str], max_tokens: int
) -> tuple[NDArray[np.integer], NDArray[np.int32], int]:
    """Ids of all texts back to back, each with its end token; their sizes; and how many texts were cut."""
    ids, lengths = tokenizer.encode_flat(texts)
    kept = np.minimum(lengths, max_tokens - 1)
    place = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.full(int(kept.sum()) + len(texts), tokenizer.eos_id, dtype=token_dtype(len(tokenizer)))
    is_piece = np.ones(len(tokens), dtype=bool)
    is_piece[np.cumsum(kept + 1) - 1] = False
    tokens[is_piece] = ids[place < max_tokens - 1]
    return tokens, (kept + 1).astype(np.int32), int((lengths > kept).sum())


@lru_cache(maxsize=1)
def _tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)
