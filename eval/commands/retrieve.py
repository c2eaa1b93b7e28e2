"""`metro-t0-eval retrieve`: the best passages of a collection for every MMLU question."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from metro_t0.command import Command
from metro_t0.common_options import data_dir_option, device_option, output_option
from metro_t0.options import option

EXAMPLES = """examples:
  metro-t0-eval retrieve --encoder sentence-transformers/gtr-t5-base --collection msmarco/collection.tsv \\
      --index msmarco_gtr/ --output passages.jsonl
  metro-t0-eval retrieve --encoder sentence-transformers/gtr-t5-base --collection hf:BeIR/msmarco/corpus:corpus \\
      --index msmarco_gtr/ --output passages.jsonl
  metro-t0-eval mmlu --model my_model/ --passages passages.jsonl --top-k 5 --output results/mine_retrieval

The index is built once, shard by shard, and continued after an interruption; a shard of 500,000 passages of 768
dimensions takes 1.5 GB of memory and of disk.
"""


@dataclass(frozen=True, kw_only=True)
class Retrieve(Command):
    """Find passages for MMLU questions."""

    name: ClassVar[str] = "retrieve"
    examples: ClassVar[str] = EXAMPLES
    encoder: str = option(help="sentence-transformers model: directory or Hub id", metavar="MODEL")
    collection: str = option(
        help="passages: .tsv or .jsonl (id, text), also .gz or .zst; or hf:NAME[/CONFIG][:SPLIT], a row each",
        metavar="FILE",
    )
    index: Path = option(help="directory of the FAISS shards", metavar="DIR")
    output: Path = output_option("JSONL file of passages per question", "FILE")
    split: Literal["validation", "test"] = option("validation", "of MMLU")
    data_dir: Path | None = data_dir_option()
    top_k: int = option(10, "passages kept per question", at_least=1, at_most=10_000)
    shard_size: int = option(500_000, "passages in memory at a time", at_least=1, at_most=10**9)
    batch_size: int = option(64, "texts encoded together", at_least=1, at_most=100_000)
    device: str | None = device_option()

    def run(self) -> None:
        from eval.mmlu import question_key
        from eval.passages import collection_of
        from eval.retrieval import MANIFEST, ShardedIndex, TextEncoder
        from metro_t0.devices import choose_device
        from metro_t0.files import atomic_path
        from metro_t0.prompts.datasets import load_rows

        collection = collection_of(self.collection, self.index / MANIFEST)
        rows = load_rows("mmlu", None, self.split, self.data_dir)
        encoder = TextEncoder(self.encoder, self.batch_size, choose_device(self.device))
        index = ShardedIndex(self.index, collection, self.shard_size)
        num_passages = index.build(encoder)
        scores, positions = index.search(encoder([row["question"] for row in rows]), self.top_k)
        passages = index.passages_at(set(positions.ravel().tolist()))
        with atomic_path(self.output) as temporary, temporary.open("w", encoding="utf-8") as stream:
            for row, row_scores, row_positions in zip(rows, scores.tolist(), positions.tolist(), strict=True):
                found = [
                    {"id": passages[p].id, "score": round(score, 5), "text": passages[p].text}
                    for score, p in zip(row_scores, row_positions, strict=True)
                ]
                entry = {"key": question_key(row), "question": row["question"], "passages": found}
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        print(f"{self.output}: {scores.shape[1]} of {num_passages} passages for each of {len(rows)} questions")
