"""Processes for which the stand-in is the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


CLIENT = (str(HERE / "hub_client.py"),)


def started(url: str, home: Path, *arguments: object, program: Sequence[str] = CLIENT) -> subprocess.Popen[str]:
    """A process for which the hub is at `url`. program: what Python runs."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
    }
    command = [sys.executable, *program, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=variables)


class Client:
    """A process that asks a hub for rows."""

    def __init__(self, url: str, home: Path) -> None:
        self.process = started(url, home)

    def ask(self, name: str, split: str | None = None, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        first, _, subset = name.partition("/")
        request = {"name": first, "subset": subset or None, **({"split": split} if split else {}), **more}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> str:
        """End the process. Returns what it wrote to the error stream."""
        return self.process.communicate()[1]
