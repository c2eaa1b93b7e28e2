"""A warning where the installed package `apex` is not NVIDIA's: `pip install apex` gets another one of that name."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

logger = logging.getLogger(__name__)


def install() -> None:
    """Warn once, when the plugin is loaded. fairseq itself takes the other package for none, without a word."""
    if not is_nvidias():
        logger.warning(
            "the installed package apex is not NVIDIA's (pip install apex gets another one): fairseq does not use it. "
            "Nothing here needs apex; pip uninstall apex"
        )


def is_nvidias() -> bool:
    """False where a package `apex` is installed that has no `apex.optimizers`. It is looked for, not imported."""
    spec = find_spec("apex")
    if spec is None:
        return True
    places = spec.submodule_search_locations or []
    return any((Path(place) / "optimizers").is_dir() for place in places)
