"""The files of one task and split: PREFIX.source.{bin,idx} and PREFIX.target.{bin,idx}."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from finetune.examples import HIDDEN_LABEL, MISSING_COLUMN, NO_TARGET, READ, RENDER_ERROR, RENDERED, TokenizedSlice
from metro_t0.data.mixture_files import SIDES, side_prefixes
from metro_t0.data.token_files import TokenFileWriter, bin_path, idx_path, token_dtype

BUILT = "built"
EMPTY = "empty"
FAILED = "failed"


def remove_task(prefix: Path) -> None:
    """Remove what an earlier build left under a task's names."""
    for side in side_prefixes(prefix):
        for path in (bin_path(side), idx_path(side)):
            path.unlink(missing_ok=True)


class TaskWriter:
    """Writes one task's examples slice by slice; the files appear when it closes, whole or not at all."""

    def __init__(self, prefix: Path, vocabulary_size: int) -> None:
        self.prefix = prefix
        self.counts: Counter[str] = Counter()
        self.complaint: str | None = None
        self.failure: str | None = None
        dtype = token_dtype(vocabulary_size)
        self._writers = {
            side: TokenFileWriter(path, dtype) for side, path in zip(SIDES, side_prefixes(prefix), strict=True)
        }
        for writer in self._writers.values():
            writer.__enter__()

    def add(self, piece: TokenizedSlice) -> None:
        """Append the next slice."""
        self.counts.update(piece.counts)
        self.complaint = self.complaint or piece.complaint
        self.failure = self.failure or piece.failure
        if self.failure is None:
            self._writers["source"].add_items(piece.source_tokens, piece.source_sizes)
            self._writers["target"].add_items(piece.target_tokens, piece.target_sizes)

    def close(self) -> dict[str, Any]:
        """Finish the files where there is at least one example. Returns the task's outcome, counts and reason."""
        status, reason = self._outcome()
        if status == BUILT:
            for writer in self._writers.values():
                writer.__exit__(None, None, None)
        else:
            self.discard()
        counts = {key: count for key, count in sorted(self.counts.items()) if count}
        return {"status": status, "reason": reason, "counts": counts}

    def discard(self) -> None:
        """Leave no files."""
        stop = InterruptedError("discarded")
        for writer in self._writers.values():
            writer.__exit__(InterruptedError, stop, None)

    def _outcome(self) -> tuple[str, str | None]:
        counts = self.counts
        if self.failure:
            return FAILED, self.failure
        if counts[RENDERED]:
            return BUILT, self.complaint
        if counts[MISSING_COLUMN] + counts[RENDER_ERROR]:
            return FAILED, f"none of {counts[READ]} rows could be rendered: {self.complaint}"
        if counts[HIDDEN_LABEL]:
            return EMPTY, f"no row has a target: {counts[HIDDEN_LABEL]} of {counts[READ]} labels are hidden"
        return EMPTY, f"the template gives no target for any of {counts[NO_TARGET]} rows"
