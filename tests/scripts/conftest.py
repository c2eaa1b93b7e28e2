"""The scripts import each other as they do when they are run: by their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent)]
