"""Tables for terminals, pipes and Markdown files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metro_t0.errors import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 100_000
"""Where the output is no terminal, no line is folded."""


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    left: Sequence[int] = (),
    last: int = 0,
) -> None:
    """Print a table whose first column, the names, is never folded or cut, however narrow the terminal.

    left: columns of text beside the first; all others hold numbers. last: so many rows at the end are set apart.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)) if title else None, title_justify="left")
    for number, name in enumerate(header):
        aside = number == 0 or number in left
        table.add_column(Text(name), justify="left" if aside else "right", no_wrap=number == 0, overflow="fold")
    for number, row in enumerate(rows):
        if last and number == len(rows) - last:
            table.add_section()
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    _print_whole(console, table)


def _print_whole(console: Console, table: Table) -> None:
    """A terminal that is narrower than the names gets lines longer than it is wide."""
    from rich.measure import Measurement

    least = Measurement.get(console, console.options, table).minimum
    console.print(table, width=max(console.width, least), crop=False)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """The same as a Markdown table that ends with a line end. Bars in cells are escaped."""
    rule = ["---" if number == 0 or number in left else "---:" for number in range(len(header))]
    return "".join(f"| {' | '.join(map(_markdown_cell, line))} |\n" for line in (header, rule, *rows))


def _markdown_cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
