"""fairseq's options made from this project's own declarations (`metro_t0.options`); `ranges` checks their bounds.

A dataclass of fairseq may use `option` for its fields, take over those of a library class one by one (`same`), or be
made of a whole library class (`fairseq_dataclass`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fairseq.dataclass import ChoiceEnum

from metro_t0.options import kinds


def same(source: type, name: str) -> Any:
    """The field of that name of a library class, with its default, help text and bounds."""
    declared = next(field for field in dataclasses.fields(source) if field.name == name)
    return dataclasses.field(default=declared.default, metadata=dict(declared.metadata))


def choices(source: type, name: str) -> Any:
    """The type of such a field where it is a `Literal`: fairseq's choices."""
    return ChoiceEnum(kinds(source)[name].choices)


def fairseq_dataclass(
    name: str, source: type, defaults: Any, module: str, base: type, omit: frozenset[str] = frozenset()
) -> type:
    """A fairseq dataclass with the fields, help texts, bounds and defaults of one of our own dataclasses.

    `Literal` fields become fairseq choices. A bool that is true by default becomes `--field {true,false}`, because
    fairseq would turn it into a flag of the same name that means its opposite.
    """
    declared = kinds(source)
    fields: list[tuple[str, type, Any]] = []
    for field in dataclasses.fields(source):
        if field.name in omit:
            continue
        default = getattr(defaults, field.name)
        kind: type = type(default)
        if declared[field.name].choices:
            kind = ChoiceEnum(declared[field.name].choices)
        elif default is True:
            kind, default = ChoiceEnum(("true", "false")), "true"
        fields.append((field.name, kind, dataclasses.field(default=default, metadata=dict(field.metadata))))
    made = dataclasses.make_dataclass(name, fields, bases=(base,))
    made.__module__ = module
    return made
