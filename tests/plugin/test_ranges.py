"""Numbers out of range end in one line, before anything is read: every numeric field of the plugin's classes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf

import fairseq_plugins  # noqa: F401  registers the classes
from fairseq_plugins.ranges import FAIRSEQ, check_numbers
from fairseq_plugins.run import Run
from metro_t0.errors import UserError

Train = Callable[..., list[dict[str, Any]]]
OWN = {
    "task": ["metro_pretraining", "t5_pretraining", "prompt_finetuning", "synthetic_pretraining"],
    "model": ["metro_t5", "t5_small"],
    "criterion": ["metro", "prompt_cross_entropy"],
    "optimizer": ["fused_adamw", "muon", "t5_adafactor"],
}
BOUNDS = ("at_least", "above", "at_most", "below")


def numeric_fields() -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Section, name of the class, field and bounds."""
    registries = {
        "task": TASK_DATACLASS_REGISTRY,
        "model": MODEL_DATACLASS_REGISTRY,
        "criterion": REGISTRIES["criterion"]["dataclass_registry"],
        "optimizer": REGISTRIES["optimizer"]["dataclass_registry"],
    }
    for section, names in OWN.items():
        for name in names:
            for field in dataclasses.fields(registries[section][name]):
                if field.type in (int, float) and not str(field.default).startswith("$"):
                    declared = {**FAIRSEQ.get(section, {}).get(field.name, {}), **field.metadata}
                    yield section, name, field, {key: declared[key] for key in BOUNDS if key in declared}


FIELDS = list(numeric_fields())


def outside(kind: type, bounds: dict[str, Any]) -> Iterator[float]:
    """Numbers just out of range, far out of it, and none."""
    step = 1 if kind is int else 1e-3
    for key, value in bounds.items():
        yield {"at_least": value - step, "above": value, "at_most": value + max(step, 1), "below": value}[key]
    yield -(10**12) if kind is int else -1e30
    if kind is float:
        yield from (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("section", "name", "field", "bounds"), FIELDS, ids=[f"{name}.{field.name}" for _, name, field, _ in FIELDS]
)
def test_every_numeric_field_has_a_range(section: str, name: str, field: Any, bounds: dict[str, Any]) -> None:
    assert bounds, f"{name}.{field.name} says nothing about what it may be"
    cfg: dict[str, Any] = {
        "common": {"fp16": False, "bf16": False, "cpu": True},
        "dataset": {"max_tokens": None, "batch_size": 4},
        section: {"_name": name, field.name: field.default},
    }
    check_numbers(Run(OmegaConf.create(cfg), by_keys=False))
    for number in outside(field.type, bounds):
        cfg[section][field.name] = number
        with pytest.raises(UserError) as error:
            check_numbers(Run(OmegaConf.create(cfg), by_keys=True))
        assert str(error.value).startswith(f"{section}.{field.name} is {number}; it must be ")


def lowest(kind: type, bounds: dict[str, Any]) -> float:
    """The smallest number in range."""
    return kind(bounds["at_least"]) if "at_least" in bounds else bounds["above"] + (1 if kind is int else 1e-6)


TRAINED = [
    (name, field, lowest(field.type, bounds))
    for _, name, field, bounds in FIELDS
    if name in ("metro_pretraining", "metro_t5", "metro", "fused_adamw", "muon", "t5_adafactor")
]


@pytest.mark.parametrize(
    ("name", "field", "number"), TRAINED, ids=[f"{name}.{field.name}" for name, field, _ in TRAINED]
)
def test_the_least_of_a_range_trains_or_is_refused(
    name: str, field: Any, number: float, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    optimizer = f"--optimizer {name}" if name in OWN["optimizer"] else ""
    flag = field.name.replace("_", "-")
    records: list[dict[str, Any]] = []
    with contextlib.suppress(SystemExit):
        records = train(f"--no-save --save-dir {tmp_path} --max-update 1 {optimizer} --{flag} {number}")
    if records:
        assert math.isfinite(float(records[-1]["loss"]))
    else:
        assert "metro-t0: error: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--tokens-per-sample 0", "--tokens-per-sample is 0; it must be at least 4"),
        ("--batch-size 0", "--batch-size is 0; it must be at least 1"),
        ("--max-tokens -1", "--max-tokens is -1; it must be at least 1"),
        ("--random-ratio nan", "--random-ratio is nan; it must be a finite number"),
        ("--mask-ratio 1e-30", "--mask-ratio is 1e-30; it must be at least 0.001"),
        ("--rtd-weight inf", "--rtd-weight is inf; it must be a finite number"),
        ("--clip-norm nan", "--clip-norm is nan; it must be a finite number"),
        ("--clip-norm -1", "--clip-norm is -1"),
        ("--log-interval 0", "--log-interval is 0; it must be at least 1"),
        ("--seed -1", "--seed is -1"),
        ("--update-freq 0", "--update-freq is 0; it must be at least 1"),
        ("--adam-betas (0.9,1.5)", "--adam-betas is 1.5"),
        ("--fp16", "--fp16 needs a GPU; on a CPU train in 32 bits, or with --bf16"),
        ("--fp16 --update-freq 1,2", "--fp16 with a schedule of --update-freq needs --fp16-scale-window"),
        ("--dropout 1", "--dropout is 1.0; it must be below 1"),
        ("--criterion prompt_cross_entropy --label-smoothing -1", "--label-smoothing is -1.0"),
    ],
)
def test_numbers_that_cannot_be_meant(
    options: str, message: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        train(f"--no-save --save-dir {tmp_path} --max-update 1 {options}", data="nowhere")
    assert exit_.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("metro-t0: error:")]
    assert len(errors) == 1
    assert message in errors[0]
