"""What a user has after `pip install`: a wheel in an environment of its own, an unrelated folder with an own eval/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

import metro_t0
from metro_t0.data.token_files import TokenFileWriter
from metro_t0.launch import train_command

ROOT = Path(__file__).resolve().parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETUP["project"]
PACKAGES = ("metro_t0", "fairseq_plugins", "finetune", "eval", "ablation")
SHRUNK = [
    "task.data=data", "task.tokens_per_sample=32", "++model.d_model=32", "++model.ffn_dim=64", "++model.num_heads=2",
    "++model.head_dim=16", "++model.encoder_layers=1", "++model.decoder_layers=1", "++model.auxiliary_layers=1",
    "dataset.batch_size=4", "dataset.num_workers=0", "++common.cpu=true", "optimization.max_update=2",
    "checkpoint.save_dir=run",
]  # fmt: skip
OWN_CONFIG = """
defaults:
  - /pretraining/metro_t5_tiny@_global_
  - _self_
hydra: {run: {dir: .}}
optimization: {max_update: 2}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what the Dockerfile copies and nothing else; the build must write nothing into the repository."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if re.match("COPY (?!--)", line) for name in line.split()[1:-1]]
    for name in copied:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unrelated folder with data and the user's own eval/; the environment is beside it."""
    place = tmp_path_factory.mktemp("user")
    venv.create(place / "env", with_pip=False, symlinks=True)
    python = place / "env" / "bin" / "python"
    # torch, fairseq and the others come from the test environment; this project comes from the wheel alone.
    own = next((place / "env" / "lib").glob("python*/site-packages"))
    (own / "others.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not read
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    work = place / "work"
    for name in ("eval", "finetune"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("raise ImportError('the folder of the user was imported')\n")
    (work / "data").mkdir()
    (work / "data" / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(96)))
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        with TokenFileWriter(work / "data" / split, dtype=np.uint16) as writer:
            for _ in range(12):
                writer.add([*random.integers(4, 100, 20).tolist(), 2])
                writer.add([2])
    return work


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(folder.parent / "env" / "bin" / program), *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )

    return run


def test_wheel_holds_what_the_commands_read(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    read = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".json", ".csv", ".html", ".jsonl", ".jinja")
    }
    assert read <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for field in ("License-Expression: MIT", "Author", "Project-URL: ", "Classifier: ", "Requires-Python: >=3.11"):
        assert field in metadata, field


@pytest.mark.parametrize("repository", [None, "https://github.com/someone/metro-t0"])
def test_readme_links_work_where_it_is_shown_alone(tmp_path: Path, repository: str | None) -> None:
    """A package index shows the README without the repository around it."""
    (tmp_path / "metro_t0").mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "metro_t0/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    if repository:
        text = (ROOT / "pyproject.toml").read_text()
        (tmp_path / "pyproject.toml").write_text(
            text.replace("[project.urls]\n", f'[project.urls]\nRepository = "{repository}"\n')
        )
    command = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    metadata = (tmp_path / done.stdout.splitlines()[-1] / "METADATA").read_text()
    targets = [part.split(")")[0] for part in metadata.split("](")[1:]]
    assert targets
    assert not [target for target in targets if not target.startswith(("https://", "#"))]
    assert (f"[pretraining]({repository}/blob/main/docs/pretraining.md)" in metadata) == (repository is not None)
    assert "Project-URL: Method: METRO-T0, https://aclanthology.org/2023.acl-long.724" in metadata


def test_shipped_configs_are_found_from_any_folder(run: Run) -> None:
    lines = run("metro-t0-train", "--list").stdout.splitlines()
    shipped = {
        f"{path.parent.name}/{path.stem}"
        for group in ("pretraining", "finetuning", "synthetic")
        for path in (ROOT / "fairseq_plugins" / "configs" / group).glob("[!_]*.yaml")
    }
    assert {line.split()[0] for line in lines} == shipped
    assert all(len(line.split()) > 3 for line in lines)  # each says what it is


def test_training_from_any_folder(run: Run, folder: Path) -> None:
    done = run("metro-t0-train", "pretraining/metro_t5_tiny", *SHRUNK)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "run" / "checkpoint_last.pt").is_file()


def test_own_config_builds_on_a_shipped_one(folder: Path) -> None:
    (folder / "mine.yaml").write_text(OWN_CONFIG)
    command = train_command(str(folder / "mine.yaml"), ["task.data=data"])
    overrides = [part for part in command if "=" in part]
    with initialize_config_dir(command[command.index("--config-dir") + 1], version_base="1.1"):
        config = compose(command[command.index("--config-name") + 1], overrides=overrides)
    assert (config.model._name, config.optimization.max_update) == ("metro_t5_tiny", 2)
    assert Path(config.common.user_dir).is_absolute()


def test_fairseq_train_with_the_printed_path(run: Run, folder: Path) -> None:
    user_dir = run("metro-t0-train", "--print-user-dir").stdout.strip()
    assert Path(user_dir).is_relative_to(folder.parent / "env")
    options = (
        f"data --user-dir {user_dir} --task metro_pretraining --criterion metro --arch metro_t5_demo --d-model 32 "
        "--ffn-dim 64 --num-heads 2 --head-dim 16 --tokens-per-sample 32 --batch-size 4 --optimizer fused_adamw "
        "--lr 0.001 --cpu --max-update 2 --disable-validation --no-save --log-format json"
    )
    # fairseq's own script is in the other environment; -P is how a script is started.
    done = run("python", "-P", "-m", "fairseq_cli.train", *options.split())
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"train_num_updates": "2"' in done.stderr + done.stdout


def test_commands_are_those_of_the_wheel(run: Run) -> None:
    done = run("metro-t0-eval", "--help")  # its package is named as the user's folder
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["metro_t5_tyni"], "did you mean metro_t5_tiny"),
        (["metro_t5_tiny"], "task.data must be given"),
        (["absent.yaml"], "absent.yaml: no such file"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], message: str) -> None:
    done = run("metro-t0-train", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_version_is_one(run: Run) -> None:
    script = "import importlib.metadata as m, metro_t0; print(m.version('metro-t0'), metro_t0.__file__)"
    version, place = run("python", "-P", "-c", script).stdout.split()
    assert version == metro_t0.__version__
    assert "site-packages" in place
