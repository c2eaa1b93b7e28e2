"""What stands around the code agrees with it: versions, container, CI, pins, links."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import metro_t0

ROOT = Path(__file__).resolve().parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {name.removesuffix("*") for name in SETUP["tool"]["setuptools"]["packages"]["find"]["include"]}


def test_version_is_said_alike() -> None:
    version = metro_t0.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_dockerfile_copies_and_installs_what_exists() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, flags=re.MULTILINE) for name in line.split()]
    assert all((ROOT / name).exists() for name in copied), copied
    assert {*PACKAGES, "pyproject.toml", "setup.py", "README.md", "LICENSE"} <= set(copied)
    extras = {name for names in re.findall(r"\.whl\)\[([\w,]+)\]", text) for name in names.split(",")}
    assert extras
    assert extras <= set(SETUP["project"]["optional-dependencies"])


def test_public_ci_runs_the_same_script_on_the_supported_pythons() -> None:
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    assert any(step.get("run") == ".ci/run" for step in job["steps"])
    listed = [line.rpartition(" :: ")[2] for line in SETUP["project"]["classifiers"] if "Python :: 3." in line]
    assert job["strategy"]["matrix"]["python"] == listed


def test_what_is_installed_without_dependencies_is_pinned_by_hash() -> None:
    text = (ROOT / "requirements-nodeps.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == 2
    assert all("==" in line and "--hash=sha256:" in line for line in lines)


def test_links_between_the_guides_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    dead = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.parent / target).exists():
                dead.append(f"{page.name}: {target}")
    assert not dead
