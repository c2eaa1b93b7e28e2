"""`metro-t0-synthetic downstream`: fine-tuning data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from metro_t0.command import Command
from metro_t0.common_options import data_dir_option, output_option, tokenizer_option
from metro_t0.errors import UserError
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
        from metro_t0.files import sha256_of
        from metro_t0.transfer.downstream import get_downstream, write_split

        get_downstream(self.task)
        names = ("dict.txt", "tokenizer.json")
        for name in names:
            if not (self.tokenizer / name).is_file():
                raise UserError(f"{self.tokenizer}: no {name}; give a directory of metro-t0-data tokenizer")
        check_dictionary(self.output, sha256_of(self.tokenizer / "dict.txt"))
        self.output.mkdir(parents=True, exist_ok=True)
        for name in names if self.output.resolve() != self.tokenizer.resolve() else ():
            shutil.copy2(self.tokenizer / name, self.output / name)
        for split in self.splits:
            count = write_split(self.task, split, self.data_dir, self.output, SPLITS[split])
            print(f"{self.output / SPLITS[split]}.jsonl: {count} examples")


COMMANDS = (Downstream,)
