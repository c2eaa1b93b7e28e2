"""The README for package indexes: its relative links made absolute. Everything else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
URL = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def absolute(match: re.Match[str]) -> str:
    """A picture needs the raw file, a link the page that shows it."""
    kind = "raw" if match[1] else "blob"
    return f"{match[1]}[{match[2]}]({URL}/{kind}/main/{match[3]})"


README = (HERE / "README.md").read_text(encoding="utf-8")
setup(
    long_description=re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)", absolute, README),
    long_description_content_type="text/markdown",
)
