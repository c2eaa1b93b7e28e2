"""`metro-t0-eval retrieve`: the best passages of a collection for every MMLU question."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from eval.mmlu import question_key
from eval.retrieval import ShardedIndex, TextEncoder
from metro_t0.errors import UserError
from metro_t0.files import atomic_path
from metro_t0.prompts.datasets import load_rows

EXAMPLES = """examples:
  metro-t0-eval retrieve --encoder sentence-transformers/gtr-t5-base --collection msmarco/collection.tsv \\
      --index msmarco_gtr/ --output passages.jsonl
  metro-t0-eval mmlu --model my_model/ --passages passages.jsonl --top-k 5 --output results/mine_retrieval

The index is built once, shard by shard, and continued after an interruption; a shard of 500,000 passages of 768
dimensions takes 1.5 GB of memory and of disk.
"""


def register(subcommands: Any) -> None:
    """Add the command."""
    parser = subcommands.add_parser("retrieve", help="find passages for MMLU questions", epilog=EXAMPLES)
    add = parser.add_argument
    add("--encoder", required=True, help="sentence-transformers model: directory or Hub id")
    add(
        "--collection",
        type=Path,
        required=True,
        help="passages: .tsv (id, text) or .jsonl (id, text), also .gz or .zst",
    )
    add("--index", type=Path, required=True, help="directory of the FAISS shards")
    add("--output", type=Path, required=True, help="JSONL file of passages per question")
    add("--split", default="validation", choices=["validation", "test"], help="of MMLU")
    add("--data-dir", type=Path, help="local data sets (default: the Hub)")
    add("--top-k", type=int, default=10, help="passages kept per question (default: 10)")
    add("--shard-size", type=int, default=500_000, help="passages in memory at a time (default: 500000)")
    add("--batch-size", type=int, default=64, help="texts encoded together (default: 64)")
    add("--device", help="cuda, mps or cpu (default: the best present)")
    parser.set_defaults(body=_retrieve)


def _retrieve(options: argparse.Namespace) -> int:
    for name in ("top_k", "shard_size", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1")
    if not options.collection.is_file():
        raise UserError(f"{options.collection}: no such file (--collection)")
    rows = load_rows("mmlu", None, options.split, options.data_dir)
    encoder = TextEncoder(options.encoder, options.batch_size, options.device)
    index = ShardedIndex(options.index, options.collection, options.shard_size)
    num_passages = index.build(encoder)
    scores, positions = index.search(encoder([row["question"] for row in rows]), options.top_k)
    passages = index.passages_at(set(positions.ravel().tolist()))
    with atomic_path(options.output) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row, row_scores, row_positions in zip(rows, scores.tolist(), positions.tolist(), strict=True):
            found = [
                {"id": passages[p].id, "score": round(score, 5), "text": passages[p].text}
                for score, p in zip(row_scores, row_positions, strict=True)
            ]
            entry = {"key": question_key(row), "question": row["question"], "passages": found}
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
    print(f"{options.output}: {scores.shape[1]} of {num_passages} passages for each of {len(rows)} questions")
    return 0
