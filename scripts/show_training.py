"""Read fairseq's JSON log on standard input and print one readable line per interval, and every error.

fairseq-train ... --log-format json 2>&1 | tee run.log | python scripts/show_training.py
"""

from __future__ import annotations

import json
import sys
from typing import Any

from metro_t0.command import Parser
from metro_t0.objectives.losses import OBJECTIVES

LOSSES = {f"{objective.name}_loss": objective.name.upper() for objective in OBJECTIVES} | {"loss": "loss"}


def describe(record: dict[str, Any]) -> str | None:
    """One line for a training or validation record; None for any other."""
    prefix = "valid_" if "valid_num_updates" in record else ""
    if f"{prefix}num_updates" not in record or "train_num_updates" in record:
        return None
    losses = [f"{name} {record[prefix + key]}" for key, name in LOSSES.items() if prefix + key in record]
    if len(losses) > 1:
        losses.pop()  # the sum says less than its parts
    speed = "held-out text" if prefix else f"{float(record.get('wps', 0)):,.0f} tokens/s"
    return f"  update {record[prefix + 'num_updates']:>6}   {'   '.join(losses)}   {speed}"


def main() -> None:
    """Filter standard input."""
    Parser(description=__doc__).parse_args()
    for line in sys.stdin:
        if line.startswith(("metro-t0: error:", "Traceback")) or "Error" in line.split(":")[0]:
            print(line, end="", flush=True)
        start = line.find("{")
        if start < 0:
            continue
        try:
            record = json.loads(line[start:])
        except json.JSONDecodeError:
            continue
        text = describe(record) if isinstance(record, dict) else None
        if text:
            print(text, flush=True)


if __name__ == "__main__":
    main()
