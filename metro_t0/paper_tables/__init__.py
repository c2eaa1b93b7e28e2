"""Tables as the papers print them, one CSV file each.

metro_t0: Gong et al. 2023; synthetic_tasks: Wu, Li and Liang 2022; model_cards: what the cards of models say.
"""

from __future__ import annotations

import csv
from importlib import resources


def printed_table(paper: str, name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a printed table, as in ("metro_t0", "table2_t0_eval")."""
    path = resources.files("metro_t0.paper_tables") / paper / f"{name}.csv"
    with path.open(encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    return header, rows
