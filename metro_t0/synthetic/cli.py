"""`metro-t0-synthetic`: generate, look at, describe and check synthetic examples; initialize from statistics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metro_t0.analysis import synthetic_commands
from metro_t0.command import Command, Program
from metro_t0.common_options import MOST_EXAMPLES, MOST_TOKENS, output_option
from metro_t0.errors import UserError
from metro_t0.options import option
from metro_t0.synthetic.settings import BLOCK, VALID_EXAMPLES, Format, Order, Profile, StreamSettings, order_option
from metro_t0.transfer import commands as transfer_commands
from metro_t0.transfer import downstream_command

if TYPE_CHECKING:
    from metro_t0.synthetic.stream import Split
    from metro_t0.synthetic.vocabulary import SyntheticVocabulary


class OfStream(Command):
    """A stream of examples and the vocabulary that they are written with."""

    stream: StreamSettings
    vocabulary: str = option(help="t5, t5:DIRECTORY, compact:N or a tokenizer directory")
    num_tokens: int | None = option(
        None, "draw sequences from that many tokens only (default: all)", at_least=1, at_most=MOST_TOKENS
    )

    def load(self) -> SyntheticVocabulary:
        """Read or make the vocabulary, with the names of the stream's tasks."""
        from metro_t0.synthetic.stream import parse_rates
        from metro_t0.synthetic.vocabulary import load_vocabulary

        return load_vocabulary(self.vocabulary, parse_rates(self.stream.tasks), self.num_tokens)


class Generate(OfStream):
    """Write examples of every task: DIR/{train,valid}/TASK.* and manifest.json.

    example:
      metro-t0-synthetic generate set,identity --vocabulary compact:1000 --train 10000 --output data/a
    """

    output: Path = output_option()
    format: Format = option("fairseq", "of the files")
    train: int = option(1_000_000, "training examples per task", at_least=1, at_most=MOST_EXAMPLES)
    valid: int = option(10_000, "validation examples per task", at_least=1, at_most=VALID_EXAMPLES)
    deduplicate: bool = option(False, "keep the first example of every source")

    def run(self) -> None:
        from metro_t0.synthetic.storage import generate

        mixture = self.stream.mixture(self.load())
        counts: dict[Split, int] = {"train": self.train, "valid": self.valid}
        dropped = generate(self.output, self.format, mixture, counts, self.deduplicate)
        for name, count in dropped.items():
            duplicates = f", {count} duplicate sources left out" if self.deduplicate else ""
            print(f"{name}: {self.train} training and {self.valid} validation examples{duplicates}")
        print(f"wrote {self.output}")


class Inspect(OfStream):
    """Show examples with letters for tokens.

    example:
      metro-t0-synthetic inspect set --vocabulary compact:1000 --length-min 5 --length-max 10
      metro-t0-synthetic inspect set,delete,lime --vocabulary compact:1000 --length-max 14 --length-min 5
    """

    show: int = option(5, "examples to show", at_least=1, at_most=MOST_EXAMPLES, flag="--examples")
    ids: bool = option(False, "show token ids instead of letters")

    def run(self) -> None:
        from metro_t0.analysis.synthetic_examples import print_examples

        print_examples(self.stream.mixture(self.load()), self.show, self.ids)


class Stats(OfStream):
    """Lengths, shares and duplicates of the first examples of a stream.

    example:
      metro-t0-synthetic stats set:1,lime:1 --vocabulary compact:32000 --examples 10240
    """

    read: int = option(10 * BLOCK, "examples to look at", at_least=1, at_most=MOST_EXAMPLES, flag="--examples")

    def run(self) -> None:
        from metro_t0.analysis.synthetic_examples import print_statistics

        print_statistics(self.stream.mixture(self.load()), self.read)


class Verify(Command):
    """Recompute every target of generated files and report the first wrong one (exit status 1).

    examples:
      metro-t0-synthetic verify data/a
      metro-t0-synthetic verify data/set --vocabulary TOKENIZER_DIR
      metro-t0-synthetic verify set.tsv --task set --vocabulary t5 --order cpython_set
    """

    path: Path = option(help="a directory that generate wrote, or one TSV file of id lists", positional=True)
    task: str | None = option(None, "of a TSV file: its task")
    vocabulary: str | None = option(None, "of a TSV file, or of a directory made with a tokenizer")
    profile: Profile = option("authors", "of a TSV file")
    task_prefix: bool | None = option(None, "of a TSV file: the task's name in front of the source")
    order: Order = order_option()

    def run(self) -> int:
        from metro_t0.synthetic.storage import read_tsv, verify_directory, verify_rows
        from metro_t0.synthetic.stream import parse_rates
        from metro_t0.synthetic.vocabulary import load_vocabulary

        if self.path.is_dir():
            return verify_directory(self.path, self.vocabulary)
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file or directory")
        if self.task is None or self.vocabulary is None:
            raise UserError(f"{self.path}: to check a single file, give --task and --vocabulary")
        if len(parse_rates(self.task)) > 1:
            raise UserError(f"--task {self.task}: a file holds the examples of one task")
        stream = StreamSettings(self.task, profile=self.profile, order=self.order, task_prefix=self.task_prefix)
        mixture = stream.mixture(load_vocabulary(self.vocabulary, parse_rates(self.task)))
        return verify_rows(self.path, read_tsv(self.path), mixture.streams[0])


COMMANDS = (
    Generate,
    Inspect,
    Stats,
    Verify,
    *transfer_commands.COMMANDS,
    *downstream_command.COMMANDS,
    *synthetic_commands.COMMANDS,
)
main = Program("metro-t0-synthetic", __doc__, COMMANDS)

if __name__ == "__main__":
    raise SystemExit(main())
