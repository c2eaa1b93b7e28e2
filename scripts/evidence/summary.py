"""The table of an evidence run: held-out rows, seen and unseen data sets, means and deviations over seeds.

    python scripts/evidence/summary.py OUTPUT/runs [--part 30]

Accuracies are in percent. The difference to the first variant is of the means over seeds; its standard error comes from
the deviations over seeds, so twice as much is about what chance gives. The second table pairs the answers of equal
seeds to the same rows: what these models differ by (paired bootstrap over rows), whatever other seeds would give.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.results import ResultsDirectory
from eval.significance import compare_seeds
from eval.summary import Summary, summarize_directory
from metro_t0.command import Parser, run
from metro_t0.errors import UserError
from metro_t0.files import read_json
from metro_t0.tables import markdown_table

SEEN = "seen_"
"""How the tasks file names data sets whose training rows were fine-tuned on."""
FIRST = "metro"
GROUPS = {"seen": lambda task: task.startswith(SEEN), "unseen": lambda task: not task.startswith(SEEN)}
PAIRED = ("variant", "seeds", "data sets", f"minus {FIRST}", "95% over rows", "p")
COLUMNS = ("held-out rows, exact match", "seen data sets", "unseen data sets")


def scores_of(directory: Path) -> tuple[float, float, float]:
    """Of one model: the three columns, in percent."""
    tasks: Mapping[str, Any] = read_json(directory / "eval" / "summary.json")["tasks"]
    seen = [task["value"] for name, task in tasks.items() if name.startswith(SEEN)]
    unseen = [task["value"] for name, task in tasks.items() if not name.startswith(SEEN)]
    if not (seen and unseen):
        raise UserError(
            f"{directory}/eval: needs tasks named {SEEN}* and others, as scripts/evidence/tasks.yaml has them"
        )
    exact = [task["exact_match"] for task in read_json(directory / "scores.json")]
    return 100 * statistics.fmean(exact), 100 * statistics.fmean(seen), 100 * statistics.fmean(unseen)


def lines_of(runs: Path, part: str | None) -> Iterator[list[str]]:
    """One line per variant, in the order of their names but METRO first."""
    first: list[list[float]] | None = None
    for variant in sorted((d for d in runs.iterdir() if d.is_dir()), key=lambda d: (d.name != FIRST, d.name)):
        seeds = [seed if part is None else seed / f"after_{part}" for seed in sorted(variant.glob("seed*"))]
        done = [scores_of(seed) for seed in seeds if (seed / "eval" / "summary.json").is_file()]
        if not done:
            continue
        columns = [list(column) for column in zip(*done, strict=True)]
        first = first or columns
        cells = []
        for mine, reference in zip(columns, first, strict=True):
            cell = f"{statistics.fmean(mine):.2f}"
            if len(mine) > 1:
                cell += f" +- {statistics.stdev(mine):.2f}"
            if reference is not mine and min(len(mine), len(reference)) > 1:
                error = sum(statistics.variance(values) / len(values) for values in (mine, reference)) ** 0.5
                cell += f" ({statistics.fmean(mine) - statistics.fmean(reference):+.2f}, SE {error:.2f})"
            cells.append(cell)
        yield [variant.name, str(len(done)), *cells]


def paired_lines_of(runs: Path, part: str | None) -> Iterator[list[str]]:
    """Every variant against METRO, on the rows of seen and of unseen data sets."""

    def evaluated(variant: str) -> dict[str, Path]:
        found = (runs / variant).glob(f"seed*/after_{part}/eval" if part else "seed*/eval")
        return {path.relative_to(runs / variant).parts[0]: path for path in found if (path / "summary.json").is_file()}

    first = evaluated(FIRST)
    for variant in sorted(d.name for d in runs.iterdir() if d.is_dir() and d.name != FIRST):
        second = evaluated(variant)
        pairs = [(_summary(first[seed]), _summary(second[seed])) for seed in sorted(first.keys() & second.keys())]
        for group, chosen in GROUPS.items() if pairs else ():
            found = compare_seeds(pairs, chosen, group)
            interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
            yield [variant, str(len(pairs)), group, f"{100 * found.difference:+.2f}", interval, f"{found.p_value:.4f}"]


def _summary(directory: Path) -> Summary:
    return summarize_directory(ResultsDirectory(directory))


def main() -> int:
    """Print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", type=Path, help="directory of metro-t0-ablate run")
    parser.add_argument("--part", help="after that many percent of the pretraining")
    options = parser.parse_args()

    def body() -> None:
        if not options.runs.is_dir():
            raise UserError(f"{options.runs}: no such directory; give the --output of metro-t0-ablate run")
        lines = list(lines_of(options.runs, options.part))
        if not lines:
            raise UserError(f"{options.runs}: no variant is evaluated yet; run scripts/evidence/demo.sh to its end")
        print(markdown_table(["variant", "seeds", *COLUMNS], lines))
        if paired := list(paired_lines_of(options.runs, options.part)):
            print(markdown_table(list(PAIRED), paired))

    return run("summary.py", body)


if __name__ == "__main__":
    raise SystemExit(main())
