"""Passages for questions: dense retrieval over a collection of any size with the memory of one shard.

A collection is encoded shard by shard, each shard becoming one FAISS index file; a search goes through the shards and
merges. Encoding resumes at the first shard that has no file. Needs the extra `retrieval`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.mmlu import question_key
from eval.passages import Collection, Passage, collection_of
from eval.settings import RetrievalSettings
from metro_t0.claims import claimed
from metro_t0.devices import choose_device
from metro_t0.errors import UserError
from metro_t0.files import atomic_path
from metro_t0.progress import progress
from metro_t0.prompts.datasets import load_rows

MANIFEST = "index.json"
Vectors = NDArray[np.float32]


class TextEncoder:
    """A sentence-transformers model; vectors are compared by inner product."""

    def __init__(self, name: str, batch_size: int, device: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UserError("retrieval needs more packages: pip install -e '.[retrieval]' in the repository") from None
        try:
            self.model = SentenceTransformer(name, device=device)
        except (OSError, ValueError) as error:
            raise UserError(f"{name}: no sentence-transformers model ({' '.join(str(error).split())[:200]})") from None
        self.name = name
        self.batch_size = batch_size
        # Cosine similarity is the inner product of unit vectors; a model trained for dot products keeps its lengths.
        # A model that names neither is one for cosine.
        self.unit_length = self.model.similarity_fn_name in (None, "cosine")

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """(texts, dimension) float32."""
        vectors = self.model.encode(
            list(texts),
            batch_size=self.batch_size,
            normalize_embeddings=self.unit_length,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


class ShardedIndex:
    """FAISS flat inner-product indices, one file per shard of a collection."""

    def __init__(self, directory: Path, collection: Collection, shard_size: int) -> None:
        self.directory = directory
        self.collection = collection
        self.shard_size = shard_size

    def build(self, encoder: TextEncoder) -> int:
        """Encode the shards that have no file yet. Returns the number of passages.

        Raises `UserError` where the directory belongs to another encoder, collection or shard size.
        """
        settings = {"encoder": encoder.name, **self.collection.settings(), "shard_size": self.shard_size}
        with claimed(self.directory, settings, MANIFEST, ["shard-*.faiss"], "give another --index"):
            return self._build(encoder)

    def _build(self, encoder: TextEncoder) -> int:
        faiss = _faiss()
        total = 0
        passages = iter(self.collection)
        shards = iter(lambda: list(islice(passages, self.shard_size)), [])
        for number, shard in enumerate(progress(shards, "encode", unit="shards")):
            total += len(shard)
            path = self._shard_path(number)
            if path.exists():
                continue
            vectors = encoder([passage.text for passage in shard])
            index = faiss.IndexFlatIP(vectors.shape[1])
            index.add(vectors)
            with atomic_path(path) as temporary:
                faiss.write_index(index, str(temporary))
        if total == 0:
            raise UserError(f"{self.collection.name}: no passages in it")
        return total

    def search(self, queries: Vectors, top_k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Exact search. Returns (queries, k) scores, best first, and the passages' positions in the collection."""
        faiss = _faiss()
        best = np.zeros((len(queries), 0), np.float32)
        where = np.zeros((len(queries), 0), np.int64)
        for number, path in enumerate(sorted(self.directory.glob("shard-*.faiss"))):
            index = faiss.read_index(str(path))
            scores, positions = index.search(queries, min(top_k, index.ntotal))
            best = np.concatenate([best, scores], axis=1)
            where = np.concatenate([where, positions + number * self.shard_size], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :top_k]
            best = np.take_along_axis(best, order, axis=1)
            where = np.take_along_axis(where, order, axis=1)
        return best, where

    def passages_at(self, positions: set[int]) -> dict[int, Passage]:
        """The passages at these positions of the collection."""
        return self.collection.at(positions)

    def _shard_path(self, number: int) -> Path:
        return self.directory / f"shard-{number:05d}.faiss"


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise UserError("retrieval needs more packages: pip install -e '.[retrieval]' in the repository") from None
    return faiss


def retrieve(settings: RetrievalSettings) -> tuple[int, int, int]:
    """Write the passages of every MMLU question: a line of JSON each, with key, question and passages.

    Returns the numbers of questions, of passages for each, and of passages in all.
    """
    collection = collection_of(settings.collection, settings.index / MANIFEST)
    rows = load_rows("mmlu", None, settings.split, settings.data_dir)
    encoder = TextEncoder(settings.encoder, settings.batch_size, choose_device(settings.device))
    index = ShardedIndex(settings.index, collection, settings.shard_size)
    total = index.build(encoder)
    scores, positions = index.search(encoder([row["question"] for row in rows]), settings.top_k)
    passages = index.passages_at(set(positions.ravel().tolist()))
    with atomic_path(settings.output) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row, row_scores, row_positions in zip(rows, scores.tolist(), positions.tolist(), strict=True):
            found = [
                {"id": passages[p].id, "score": round(score, 5), "text": passages[p].text}
                for score, p in zip(row_scores, row_positions, strict=True)
            ]
            entry = {"key": question_key(row), "question": row["question"], "passages": found}
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return len(rows), scores.shape[1], total
