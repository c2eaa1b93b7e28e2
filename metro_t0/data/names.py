"""Messages for names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """One line that names the nearest known names."""
    choices = list(known)
    nearest = difflib.get_close_matches(name, choices, n=3, cutoff=0.4) or choices
    return f"unknown {what} {name!r}; did you mean {', '.join(nearest)}?"
