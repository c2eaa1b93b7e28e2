"""`metro-t0-data`: train a vocabulary, turn text into token files, look into them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from metro_t0.command import Command, Program
from metro_t0.common_options import MOST_EXAMPLES, output_option, tokenizer_option, workers_option
from metro_t0.errors import UserError, printable
from metro_t0.options import option
from metro_t0.tokenization.settings import BpeSettings

RECORD_NAME = "vocabulary.json"
"""What a vocabulary was trained on and to be."""


class Text(Command):
    """Where text comes from and how many processes read it.

    inputs:
      FILE          .txt (a paragraph per line, an empty line between documents), .jsonl, .parquet; plain, .gz or .zst
      'GLOB'        many files, in the order of their names
      hf:NAME[/CONFIG][:SPLIT]    a Hugging Face data set or a local directory of data files, streamed (SPLIT: train)
      builtin:python-docs[?max_mb=24]    English documentation found in the running Python installation
    """

    inputs: tuple[str, ...] = option(help="see below", positional=True, metavar="INPUT")
    field: str = option("text", "field or column of the text")
    workers: int | None = workers_option()


class Tokenizer(Text):
    """Train a BPE vocabulary (dict.txt and tokenizer.json).

    examples:
      metro-t0-data tokenizer builtin:python-docs --vocab-size 4096 --lowercase --output vocab
      metro-t0-data tokenizer 'corpus/train-*.txt.zst' --vocab-size 32768 --lowercase --output vocab
      metro-t0-data tokenizer web.jsonl.gz --field content --vocab-size 64000 --output vocab
    """

    vocabulary: BpeSettings
    max_mb: int = option(1000, "train on the first MB of the inputs' text", at_least=1, at_most=10**8, metavar="MB")
    overwrite: bool = option(False, "replace another vocabulary in the directory")
    output: Path = output_option()

    def run(self) -> None:
        from metro_t0.claims import OR_OVERWRITE, check_owner, lock
        from metro_t0.data.inspection import print_bad_lines
        from metro_t0.data.sources import LOCAL_INPUTS, local_states, resolve_inputs
        from metro_t0.data.training_text import words_of
        from metro_t0.files import read_json, write_json
        from metro_t0.tokenization import Tokenizer
        from metro_t0.tokenization.tokenizer import DICT_NAME
        from metro_t0.tokenization.training import train_bpe

        inputs = resolve_inputs(self.inputs, self.field)
        plan = {"inputs": [each.identity() for each in inputs], "max_mb": self.max_mb, **asdict(self.vocabulary)}
        plan[LOCAL_INPUTS] = local_states(inputs)
        record = self.output / RECORD_NAME
        with lock(self.output):
            if (self.output / DICT_NAME).is_file() and not self.overwrite:
                if not record.is_file():
                    raise UserError(f"{self.output}: holds a vocabulary of another origin; {OR_OVERWRITE}")
                before = {LOCAL_INPUTS: plan[LOCAL_INPUTS], **read_json(record, dict[str, Any])}
                check_owner(self.output, before, plan, OR_OVERWRITE)
            else:
                words, skipped = words_of(inputs, self.max_mb, self.workers)
                print_bad_lines(skipped.counts, skipped.examples)
                train_bpe(words, self.vocabulary, self.output)
                write_json(record, plan)
            size = len(Tokenizer.load(self.output))
        print(f"{self.output}: vocabulary of {size} ids (dict.txt, tokenizer.json)")


class Binarize(Text):
    """Turn text into fairseq token files.

    examples:
      metro-t0-data binarize builtin:python-docs --tokenizer vocab --output data-bin
      metro-t0-data binarize 'corpus/train-*.txt.zst' --valid corpus/valid.txt.zst --tokenizer vocab --output data-bin
      metro-t0-data binarize hf:allenai/c4/en:train --tokenizer vocab --valid-fraction 5e-4 --shards 8 --output data-bin

    Interrupted, the same command continues. The directory trains as it is: fairseq-train data-bin ...
    (with --shards: fairseq-train data-bin/shard0:data-bin/shard1:...).
    """

    tokenizer: Path = tokenizer_option()
    valid: tuple[str, ...] = option((), "inputs of the validation set", metavar="INPUT")
    valid_fraction: float = option(
        0.01,
        "without --valid: share of documents held out, chosen by a hash of their text; 0: none",
        at_least=0,
        below=1,
        metavar="SHARE",
    )
    shards: int = option(1, "training shards", at_least=1, at_most=10_000)
    overwrite: bool = option(False, "replace another data set in the directory")
    part: str | None = option(
        None,
        "encode this share only, on one of N machines with the same disk; the command without --part then joins all",
        metavar="I/N",
    )
    output: Path = output_option()

    def run(self) -> None:
        from metro_t0.data.binarize import BinarizeSettings, binarize, encode_share
        from metro_t0.data.inspection import print_info
        from metro_t0.data.shares import parse_share
        from metro_t0.data.sources import resolve_inputs
        from metro_t0.parallel import default_workers
        from metro_t0.tokenization import Tokenizer

        settings = BinarizeSettings(
            inputs=resolve_inputs(self.inputs, self.field),
            valid_inputs=resolve_inputs(self.valid, self.field) if self.valid else [],
            valid_fraction=0.0 if self.valid else self.valid_fraction,
            shards=self.shards,
            output=self.output,
            overwrite=self.overwrite,
        )
        tokenizer, processes = Tokenizer.load(self.tokenizer), self.workers or default_workers()
        if self.part is None:
            print_info(self.output, binarize(settings, tokenizer, processes))
            return
        count = encode_share(settings, tokenizer, processes, parse_share(self.part))
        print(f"{self.output}: part {self.part} is done, {count} pieces; when all are, run the command without --part")


class Inspect(Command):
    """Print the first documents of a data directory as text.

    example:
      metro-t0-data inspect data-bin --split valid
    """

    directory: Path = option(help="directory of metro-t0-data binarize", positional=True, metavar="DIR")
    split: Literal["train", "valid"] = option("train", "set to read")
    documents: int = option(2, "how many", at_least=1, at_most=MOST_EXAMPLES)

    def run(self) -> None:
        from metro_t0.data.inspection import print_documents

        print_documents(self.directory, self.split, self.documents)


class Verify(Command):
    """Hold every file of a data directory against the checksums in its info.json (status 1 where one differs).

    example:
      metro-t0-data verify data-bin
    """

    directory: Path = option(help="directory of metro-t0-data binarize, or a shard", positional=True, metavar="DIR")

    def run(self) -> int:
        from metro_t0.data.record import damaged_files
        from metro_t0.progress import progress

        files = list(progress(damaged_files(self.directory), "verify", unit="files"))
        wrong = [f"{self.directory / name} {complaint}" for name, complaint in files if complaint]
        for line in wrong:
            print(printable(line))
        print(f"{self.directory}: {len(files) - len(wrong)} of {len(files)} files are as they were written")
        return 1 if wrong else 0


main = Program("metro-t0-data", __doc__, (Tokenizer, Binarize, Inspect, Verify))

if __name__ == "__main__":
    raise SystemExit(main())
