"""The run that is going on: its config, and how its user writes options (`--lr` or `optimization.lr`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

OWN_SECTIONS = ("task", "model", "criterion", "optimizer", "lr_scheduler")
FLAGS = {"model": "arch"}
"""Section -> its flag, where that is not its name: fairseq chooses a model by --arch."""


@dataclass
class Run:
    """What fairseq's `main` was given."""

    cfg: Any
    by_keys: bool
    """True where options are hydra keys, False where they are flags."""
    resumes: bool = False
    """Whether it goes on from a checkpoint of its own."""
    trainer: Any = None
    """fairseq's, once there is one."""
    shown: str = ""
    """The numbers beside the bar, which begins anew in every epoch."""

    def option(self, section: str, field: str = "_name") -> str:
        """An option as its user writes it."""
        if self.by_keys:
            return section if field == "_name" else f"{section}.{field}"
        if field == "data":
            return field  # an argument without dashes
        name = FLAGS.get(section, section) if field == "_name" else field
        return f"--{name.replace('_', '-')}"

    def fields(self) -> Iterator[tuple[str, str, Any]]:
        """Section, field and value of every option, those of this project's classes first."""
        for section in sorted(self.cfg, key=lambda name: name not in OWN_SECTIONS):
            options = self.cfg[section]
            if OmegaConf.is_config(options):
                for field in options:
                    yield section, str(field), None if OmegaConf.is_missing(options, field) else options[field]


current: Run | None = None
"""Set when training begins."""


def begin(cfg: DictConfig) -> Run:
    """Remember the config of the run that begins."""
    from hydra.core.hydra_config import HydraConfig

    global current
    # fairseq-hydra-train leaves its logging settings for the processes that it starts.
    current = Run(cfg, "job_logging_cfg" in cfg or HydraConfig.initialized())
    return current


FLAG = re.compile(r"(?<![\w/-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
KEY = re.compile(r"(?<![\w./-])(?:(?:model )?field )?([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?![\w/]|\.\w)")
MODEL_FIELD = re.compile(r"\bmodel field (\w+)")


def in_the_users_words(message: str) -> str:
    """The message with every option written as the user of the run writes it.

    The library's messages name fields (`mask_ratio`, `model field rtd`), the plugin's name flags (`--max-positions`).
    """
    if current is None:
        return message
    run = current
    sections: dict[str, str] = {}
    for section, field, _ in run.fields():
        sections.setdefault(field, section)

    def named(match: re.Match[str]) -> str:
        field = match[1].replace("-", "_")
        return run.option(sections[field], field) if field in sections else match[0]

    for pattern in (MODEL_FIELD, KEY) if not run.by_keys else (FLAG, MODEL_FIELD, KEY):
        message = pattern.sub(named, message)
    return message
