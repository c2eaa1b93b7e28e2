"""Scripts are imported as they are run: from the repository's root (`python -m scripts.benchmarks.NAME`)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
