"""`metro-t0-synthetic downstream`: fine-tuning data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from metro_t0.command import Command
from metro_t0.common_options import data_dir_option, output_option, tokenizer_option
from metro_t0.options import option

SplitName = Literal["train", "validation", "test"]
SPLITS: dict[SplitName, str] = {"train": "train", "validation": "valid", "test": "test"}


class Downstream(Command):
    """Write a downstream task as source/target text for fine-tuning and metro-t0-eval generate.

    example:
      metro-t0-synthetic downstream retrosynthesis --data-dir tasks --tokenizer vocab --output retro
    """

    task: str = option(help="name of the task, as mtop or retrosynthesis (docs/synthetic.md)", positional=True)
    data_dir: Path | None = data_dir_option()
    tokenizer: Path = tokenizer_option()
    splits: tuple[SplitName, ...] = option(tuple(SPLITS), "which splits to write")
    output: Path = output_option()

    def run(self) -> None:
        from metro_t0.claims import check_dictionary
        from metro_t0.tokenization import Tokenizer
        from metro_t0.transfer.downstream import get_downstream, write_split

        get_downstream(self.task)
        tokenizer = Tokenizer.load(self.tokenizer)
        check_dictionary(self.output, tokenizer.fingerprint)
        if self.output.resolve() != self.tokenizer.resolve():
            tokenizer.save(self.output)
        for split in self.splits:
            count = write_split(self.task, split, self.data_dir, self.output, SPLITS[split])
            print(f"{self.output / SPLITS[split]}.jsonl: {count} examples")


COMMANDS = (Downstream,)
