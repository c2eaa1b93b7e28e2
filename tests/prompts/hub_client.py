"""A process that uses the package against another hub: one JSON line in, one JSON line out.

The address of the hub is read when the libraries are imported, so that the process of the tests cannot change it. Run
as `python hub_client.py [COMMAND LINE]`, with HF_ENDPOINT and HF_HOME set.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import replace
from typing import Any

from hub_server import small

from metro_t0.errors import UserError
from metro_t0.prompts import hub
from metro_t0.prompts.datasets import available_splits, load_rows
from metro_t0.prompts.names import DatasetName


def shrink_table() -> None:
    """The stand-in has few rows: the same few are right."""
    table = {
        name: replace(
            source, rows={split: tuple(small(count) for count in counts) for split, counts in source.rows.items()}
        )
        for name, source in hub.hub_sources().items()
    }
    hub.hub_sources = lambda: table  # type: ignore[assignment]


class Collector(logging.Handler):
    """Keeps what the package says."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def answer(request: dict[str, Any]) -> dict[str, Any]:
    name = DatasetName(request["name"], request.get("subset"))
    if name.subset and name.subset.startswith("P3/"):  # a hub id and a configuration, as a mixture of P3 asks for them
        name = DatasetName("bigscience/P3", name.subset.removeprefix("P3/"))
    start = time.process_time()
    if "split" not in request:
        return {"splits": available_splits(name.name, name.subset)}
    rows = load_rows(name.name, name.subset, request["split"])
    return {"count": len(rows), "rows": rows[: request.get("rows", 3)], "seconds": time.process_time() - start}


def main() -> None:
    shrink_table()
    said: list[str] = []
    logging.getLogger("metro_t0").addHandler(Collector(said))
    if len(sys.argv) > 1:  # a command line of metro-t0-prompts instead
        from finetune.cli import main as command

        sys.exit(command(sys.argv[1:]))
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except UserError as error:
            result = {"error": str(error)}
        result["said"] = said.copy()
        said.clear()
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
