"""The README for package indexes, which show it without the files around it. Everything else is in pyproject.toml.

Links to those files lead into the repository that `[project.urls]` names; where it names none they become plain words.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
URL = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"].get("Repository")


def alone(match: re.Match[str]) -> str:
    """A picture needs the raw file, a link the page that shows it."""
    if URL is None:
        return "" if match[1] else match[2]
    kind = "raw" if match[1] else "blob"
    return f"{match[1]}[{match[2]}]({URL}/{kind}/main/{match[3]})"


README = (HERE / "README.md").read_text(encoding="utf-8")
setup(
    long_description=re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)", alone, README),
    long_description_content_type="text/markdown",
)
