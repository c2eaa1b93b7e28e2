"""Which device a command works on."""

from __future__ import annotations

import os
import re

import torch

from metro_t0.errors import UserError, first_line

NAME = re.compile(r"cpu|mps|cuda(:\d{1,3})?")


def choose_device(name: str | None) -> str:
    """The device of that name, or the best present. Raises `UserError` for one that does not exist or work here."""
    if name is None:
        return best_device()
    if not NAME.fullmatch(name):
        raise UserError(f"--device {name}: choose cpu, cuda, cuda:N or mps")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not usable here ({first_line(error)})") from None
    return name


def best_device() -> str:
    """cuda (the one of this process under torchrun), mps or cpu."""
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "mps" if torch.backends.mps.is_available() else "cpu"
