"""What a user chooses about synthetic examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from metro_t0.common_options import MOST_TOKENS, seed_option
from metro_t0.options import check, option

if TYPE_CHECKING:
    from metro_t0.synthetic.stream import TaskMixture
    from metro_t0.synthetic.vocabulary import SyntheticVocabulary

Profile = Literal["authors", "paper"]
Order = Literal["first_occurrence", "cpython_set", "sorted"]
Format = Literal["fairseq", "tsv", "parquet"]
BLOCK = 1024
VALID_BLOCKS = 10
VALID_EXAMPLES = VALID_BLOCKS * BLOCK


def order_option() -> Order:
    """`--order`."""
    order: Order = option("first_occurrence", "order of the outputs of set operations")
    return order


@dataclass(frozen=True)
class StreamSettings:
    """The examples of a stream, but for the vocabulary that writes them."""

    tasks: str = option(help="task names with optional rates, as in set:1,lime:2", positional=True, metavar="TASKS")
    seed: int = seed_option("the examples")
    profile: Profile = option("authors", "whose definition of the examples, where the two differ")
    length_min: int = option(10, "shortest input, separators included", at_least=1, at_most=MOST_TOKENS)
    length_max: int = option(220, "longest input", at_least=1, at_most=MOST_TOKENS)
    order: Order = order_option()
    task_prefix: bool | None = option(
        None, "the task's name in front of the source (default: profile authors yes, paper no)"
    )

    def __post_init__(self) -> None:
        check(self)

    def mixture(self, vocabulary: SyntheticVocabulary) -> TaskMixture:
        """The stream of these examples. Raises `UserError` for whatever cannot be."""
        from metro_t0.synthetic.stream import make_mixture  # takes a quarter of a second to import

        return make_mixture(self, vocabulary)
