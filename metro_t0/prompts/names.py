"""How data sets and prompted tasks are named."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

MOST_TASK_BYTES = 180
"""A task's name is the beginning of file names, which end at 255 bytes."""
EMBEDDED_NAME = "embedded"
"""The name under which the data sets made from the embedded documentation corpus go (`embedded/SUBSET`)."""


@dataclass(frozen=True, order=True)
class DatasetName:
    """A data set by the name that T0 and promptsource know, written `name` or `name/subset`."""

    name: str
    subset: str | None = None

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """`NAME` or `NAME/SUBSET`; with two bars the hub's `OWNER/NAME/CONFIGURATION`."""
        name, _, subset = text.rpartition("/") if text.count("/") == 2 else text.partition("/")
        return cls(name, subset or None)

    def __str__(self) -> str:
        return self.name if self.subset is None else f"{self.name}/{self.subset}"

    @property
    def task_prefix(self) -> str:
        """`name` or `name_subset`, as T0's task names and lists write it."""
        return self.name if self.subset is None else f"{self.name}_{self.subset}"


def task_name(dataset: DatasetName, template: str) -> str:
    """T0's name of one template of one data set: whatever is no word character, digit or dot becomes `_`.

    What is too long for a file's name ends in a hash instead.
    """
    name = re.sub(r"[^\w.]+", "_", f"{dataset.task_prefix}_{template}")
    if len(name.encode()) <= MOST_TASK_BYTES:
        return name
    return f"{name.encode()[:MOST_TASK_BYTES].decode(errors='ignore')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
