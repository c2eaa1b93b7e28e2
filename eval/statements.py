"""Classification as BTZSC stores it: a row per text and statement, and one statement of a text is true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = -1


def statements_of_a_text(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows (text, hypothesis, labels) to rows (text, choices, label): the statements of a text and which one is true.

    Consecutive rows of one text belong together until a statement comes again. A text of which none or several
    statements are true has the label -1, as hidden labels have, and so no place in the score.
    """
    groups: list[dict[str, Any]] = []
    for row in rows:
        text, statement = row["text"], row["hypothesis"]
        if not groups or groups[-1]["text"] != text or statement in groups[-1]["choices"]:
            groups.append({"text": text, "choices": [], "true": []})
        groups[-1]["true"] += [len(groups[-1]["choices"])] if row["labels"] == 1 else []
        groups[-1]["choices"].append(statement)
    for group in groups:
        true = group.pop("true")
        group["label"] = true[0] if len(true) == 1 else HIDDEN
    return groups
