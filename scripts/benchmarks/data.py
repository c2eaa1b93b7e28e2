"""Speed of tokenizer + binarize beside SentencePiece + fairseq-preprocess, on the same text in the same run.

    python -m scripts.benchmarks.data --text corpus.txt.zst --vocabulary vocab_32k --megabytes 16

--vocabulary is a directory with sp.model and dict.txt, because both sides must use one vocabulary. The other side is
the released recipe: normalization in Python, the sentencepiece package, pieces as text, then fairseq-preprocess.
Times are of whole processes, start included: wall-clock, and the processor time that they took, which is what counts
for one core and hardly depends on what else runs on the machine. binarize's start is measured with one line of text
and listed apart. The token files of both sides are compared.
--tokenizer-only measures instead, in this process, text to ids without files: ours at the first sight of the text and
again with its words known, by `Tokenizer` and by the class for `transformers` (lists, and padded numpy arrays of 1,000
lines cut to 512 ids).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metro_t0.data.token_files import TokenFile
from metro_t0.parallel import default_workers
from metro_t0.tables import print_table
from metro_t0.text_files import open_bytes
from metro_t0.tokenization import Tokenizer

ORACLE = Path(__file__).resolve().parents[2] / "tests" / "tokenization"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
SENTENCEPIECE_SIDE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sentencepiece_oracle import SentencePieceOracle, normalize
oracle = SentencePieceOracle(Path(sys.argv[2]), lowercase=sys.argv[5] == "True")
with open(sys.argv[3], encoding="utf-8") as lines, open(sys.argv[4], "w", encoding="utf-8") as out:
    for line in lines:
        text = normalize(line)
        text = text.lower() if oracle.lowercase else text
        out.write(" ".join(oracle.processor.encode(text, out_type=str)) + "\\n")
"""


LINES_PER_BATCH = 1_000
PEER_LINES = 8


@dataclass(frozen=True, order=True)
class Spent:
    """Seconds of processor time, and of wall-clock time."""

    processor: float
    wall: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.processor + other.processor, self.wall + other.wall)


def measure(command: list[str]) -> Spent:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=os.environ | ONE_THREAD)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Spent(processor, time.perf_counter() - start)


def binarize(text: Path, vocabulary: Path, output: Path, workers: int) -> Spent:
    command = [sys.executable, "-c", "from metro_t0.data.cli import main; import sys; sys.exit(main(sys.argv[1:]))"]
    command += ["binarize", str(text), "--tokenizer", str(vocabulary), "--valid-fraction", "0"]
    return measure([*command, "--workers", str(workers), "--output", str(output)])


def sentencepiece_and_preprocess(
    text: Path, vocabulary: Path, output: Path, lowercase: bool, workers: int
) -> tuple[Spent, Spent]:
    pieces = output.with_suffix(".pieces")
    script = [sys.executable, "-c", SENTENCEPIECE_SIDE, str(ORACLE), str(vocabulary), str(text), str(pieces)]
    tokenizing = measure([*script, str(lowercase)])
    command = [sys.executable, "-m", "fairseq_cli.preprocess", "--only-source", "--srcdict"]
    command += [str(vocabulary / "dict.txt"), "--trainpref", str(pieces), "--destdir", str(output)]
    return tokenizing, measure([*command, "--workers", str(workers)])


def tokenizer_alone(text: Path, vocabulary: Path, lowercase: bool, repeats: int) -> None:
    """Megabytes per second of processor time on one thread, both sides in turn; the fastest of each counts."""
    sys.path.insert(0, str(ORACLE))
    definition = importlib.import_module("sentencepiece_oracle")
    oracle = definition.SentencePieceOracle(vocabulary, lowercase)
    lines = text.read_text(encoding="utf-8").split("\n")
    megabytes = text.stat().st_size / 1e6
    # The peer learns nothing from what it saw, so that a part of the lines tells its rate.
    some = lines[::PEER_LINES]
    share = sum(len(line.encode()) + 1 for line in some) / (megabytes * 1e6)

    def sentencepiece() -> None:
        for line in some:
            line = definition.normalize(line)
            oracle.processor.encode(line.lower() if lowercase else line, out_type=str)

    normalized = [definition.normalize(line) for line in some]
    ready = [line.lower() if lowercase else line for line in normalized]

    def in_batches() -> None:  # the strongest peer: the package's own batches, of text that is normalized already
        oracle.processor.encode(ready, out_type=int, num_threads=1)

    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        seconds.setdefault("Python + sentencepiece", []).append(timed(sentencepiece) / share)
        seconds.setdefault("sentencepiece in batches, no normalization", []).append(timed(in_batches) / share)
        for name, encode in ours(vocabulary, lines).items():
            seconds.setdefault(f"{name}, first sight", []).append(timed(encode))
            seconds.setdefault(f"{name}, words known", []).append(timed(encode))
    rates = {what: megabytes / min(spent) for what, spent in seconds.items()}
    for what, rate in rates.items():
        usual, strongest = (rate / peer for peer in list(rates.values())[:2])
        print(f"{what}: {rate:.2f} MB/s, {usual:.1f} times the usual peer, {strongest:.1f} times the strongest")


def ours(vocabulary: Path, lines: list[str]) -> dict[str, Callable[[], object]]:
    """Our ways to encode the lines, each with a tokenizer that knows no words yet."""
    from metro_t0.hf import MetroT5TokenizerFast

    tokenizer = Tokenizer.load(vocabulary)
    lists, arrays = (MetroT5TokenizerFast.from_vocabulary(tokenizer, max_length=512) for _ in range(2))
    batches = [lines[start : start + LINES_PER_BATCH] for start in range(0, len(lines), LINES_PER_BATCH)]

    # Nothing is kept, as the peer keeps nothing: Python's garbage collector walks through kept lists again and again.
    def ragged() -> None:
        for batch in batches:
            lists(batch, verbose=False)

    def padded() -> None:
        for batch in batches:
            arrays(batch, padding=True, truncation=True, return_tensors="np")

    return {
        "Tokenizer": lambda: tokenizer.encode_flat(lines),
        "transformers, lists": ragged,
        "transformers, padded arrays": padded,
    }


def timed(run: Callable[[], object]) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    run()
    return time.process_time() - start


def excerpt(source: Path, megabytes: float, target: Path) -> int:
    with open_bytes(source) as stream:
        text = stream.read(int(megabytes * 1e6))
    text = text[: text.rfind(b"\n\n") + 2]
    target.write_bytes(text)
    return len(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--cased", action="store_true", help="the vocabulary keeps case (the released 64k one)")
    parser.add_argument("--megabytes", type=float, default=16.0)
    parser.add_argument("--repeats", type=int, default=2, help="interleaved; the fastest of each side counts")
    parser.add_argument("--tokenizer-only", action="store_true", help="text to ids alone, in this process")
    options = parser.parse_args()
    cores = default_workers()
    starts, ours_one, ours_all, pieces, preprocess = [], [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        megabytes = excerpt(options.text, options.megabytes, directory / "text.txt") / 1e6
        if options.tokenizer_only:
            os.environ.update(ONE_THREAD)
            return tokenizer_alone(directory / "text.txt", options.vocabulary, not options.cased, options.repeats)
        for repeat in range(options.repeats):
            place = directory / str(repeat)
            place.mkdir()
            (place / "line.txt").write_text("One line.\n")
            starts.append(binarize(place / "line.txt", options.vocabulary, place / "start", 1))
            ours_one.append(binarize(directory / "text.txt", options.vocabulary, place / "ours", 1))
            theirs = sentencepiece_and_preprocess(
                directory / "text.txt", options.vocabulary, place / "theirs", not options.cased, 1
            )
            pieces.append(theirs[0])
            preprocess.append(theirs[1])
            ours_all.append(binarize(directory / "text.txt", options.vocabulary, place / "all", cores))
        files = TokenFile(place / "ours" / "train"), TokenFile(place / "theirs" / "train")
        different = sum(not np.array_equal(a, b) for a, b in zip(*files, strict=True))
        tokens = int(files[0].sizes.sum(dtype=np.int64))
    report(megabytes, tokens, min(ours_one), min(ours_all), min(pieces), min(preprocess), cores)
    start, one = min(starts).processor, min(ours_one).processor
    print(
        f"start of binarize: {start:.2f} s of processor time; without it {megabytes / (one - start):.1f} MB/s per core"
    )
    print(json.dumps({"items": len(files[0]), "items that differ": different}))


def report(
    megabytes: float, tokens: int, one: Spent, every: Spent, pieces: Spent, preprocess: Spent, cores: int
) -> None:
    header = ("what", "processor s", "MB/s", "tokens/s", "times", "wall s", "times (wall)")
    theirs = pieces + preprocess
    rows = {
        "Python normalization + sentencepiece": pieces,
        "fairseq-preprocess": preprocess,
        "both, one core": theirs,
        "metro-t0-data binarize, one core": one,
        f"metro-t0-data binarize, {cores} cores": every,
    }
    lines = [
        [
            what,
            f"{spent.processor:.1f}",
            f"{megabytes / spent.processor:.2f}",
            f"{tokens / spent.processor:,.0f}",
            f"{theirs.processor / spent.processor:.1f}",
            f"{spent.wall:.1f}",
            f"{theirs.wall / spent.wall:.1f}",
        ]
        for what, spent in rows.items()
    ]
    print_table(header, lines, f"{megabytes:.1f} MB, {tokens:,} tokens")


if __name__ == "__main__":
    main()
