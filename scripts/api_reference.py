"""The API reference, made from the docstrings by pdoc, without network.

    python scripts/api_reference.py build/api                        # all packages
    python scripts/api_reference.py build/api metro_t0.modeling      # one room

Modules that a package's `__all__` does not list are named to pdoc, which leaves them out by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import pdoc
import pdoc.extract

PACKAGES = ("metro_t0", "finetune", "eval", "ablation")
"""Not fairseq_plugins: its options are made when fairseq loads it."""


def modules(package: str) -> list[str]:
    """A package and all modules in it, but those that need a package which is not installed (triton on a CPU)."""
    names = [package]
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print(f"left out {module.name}: {error.name} is not installed", file=sys.stderr)
        else:
            names.append(module.name)
    return names


def main(output: Path, packages: tuple[str, ...] = PACKAGES) -> None:
    """Write one HTML page per module, and an index."""
    found = pdoc.extract.walk_specs(packages)
    missed = [name for package in packages for name in modules(package) if name not in found]
    pdoc.pdoc(*packages, *missed, output_directory=output)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or PACKAGES)
