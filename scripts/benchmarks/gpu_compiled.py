"""Compile our Triton kernels for GPUs that are not here: registers, spills, shared memory, blocks at a time.

    pip install triton==3.7.1 --no-deps      # where torch came without it
    python -m scripts.benchmarks.gpu_compiled
    python -m scripts.benchmarks.gpu_compiled --capabilities 80 90 --dtype fp32 --features 128

The operations are called on CPU tensors of a training step's shapes, and every kernel that they would launch is
compiled as it would be launched: same specialization, same options. Exit status 1 where a kernel spills registers or
asks for more shared memory than the GPU has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from metro_t0.command import Parser
from metro_t0.kernels.biased_attention import attention_backward, attention_forward
from metro_t0.tables import print_table

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227}
"""Shared memory that one block may have, and (with 1 KiB more) all blocks of a multiprocessor."""
REGISTERS, THREADS = 65_536, {80: 2048, 86: 1536, 89: 1536, 90: 2048}
"""Of a multiprocessor."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Absent:
    """Stands in for the driver of a GPU: says what to compile for."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        """What the compiler asks."""
        return self.target

    def get_current_device(self) -> int:
        """The key of the cache of compiled kernels."""
        return int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        """Nothing is launched."""
        return 0


@dataclass
class Compiled:
    """What the assembler says of one kernel."""

    name: str
    capability: int
    warps: int
    registers: int
    spilled: int
    """Bytes stored and loaded again for want of registers."""
    shared_kib: float

    @property
    def blocks(self) -> int:
        """Blocks that one multiprocessor holds at a time."""
        threads = 32 * self.warps
        by_registers = REGISTERS // (threads * 8 * -(-self.registers // 8))
        by_shared = int((SHARED_KIB[self.capability] + 1) / (self.shared_kib + 1))
        return min(by_registers, by_shared, THREADS[self.capability] // threads)


@contextmanager
def compiled_only(capability: int) -> Iterator[list[Any]]:
    """Inside, a launch compiles; the list fills with what was compiled."""
    found: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append(run(self, *args, grid=grid, warmup=True, **options))

    driver.set_active(Absent(capability))
    JITFunction.run = compile_only
    try:
        yield found
    finally:
        JITFunction.run = run


def assembled(kernel: Any, capability: int) -> Compiled:
    """Let ptxas, which Triton brings along, say what the kernel needs."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "kernel.ptx"
        source.write_text(kernel.asm["ptx"])
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={sm_arch_from_capability(capability)}", str(source)]
        said = subprocess.run([*command, "-o", f"{source}.o"], capture_output=True, text=True, check=True).stderr

    def number(pattern: str) -> int:
        return sum(int(text) for text in re.findall(pattern, said))

    return Compiled(
        name=kernel.metadata.name,
        capability=capability,
        warps=kernel.metadata.num_warps,
        registers=number(r"Used (\d+) registers"),
        spilled=number(r"(\d+) bytes spill"),
        shared_kib=kernel.metadata.shared / 1024,
    )


def attention(options: Any) -> None:
    """Forward and backward as a training step launches them."""
    dtype = DTYPES[options.dtype]
    shape = (2, 12, options.length, options.features)
    q, k, v = (torch.zeros(shape, dtype=dtype).transpose(1, 2).contiguous().transpose(1, 2) for _ in range(3))
    bias = torch.zeros(shape[1], options.length, options.length, dtype=dtype)
    inputs = (q, k, v, bias, torch.zeros(2, dtype=torch.int32), torch.zeros(1, dtype=torch.int64), 0.125)
    out, sums = attention_forward(*inputs, options.dropout)
    attention_backward(torch.empty_like(out), out, sums, *inputs, options.dropout)


OPERATIONS: tuple[Callable[[Any], None], ...] = (attention,)


def main() -> int:
    """Print one line per kernel and GPU; gives the exit status."""
    parser = Parser(description=__doc__)
    parser.add_argument("--capabilities", nargs="+", type=int, default=[80, 90], choices=list(SHARED_KIB))
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--features", type=int, default=64, help="per attention head")
    parser.add_argument("--dropout", type=float, default=0.1)
    options = parser.parse_args()
    header = ("kernel", "sm", "warps", "registers", "spilled bytes", "shared KiB", "blocks at a time")
    rows = []
    bad = False
    for capability in options.capabilities:
        with compiled_only(capability) as kernels:
            for operation in OPERATIONS:
                operation(options)
        for found in (assembled(kernel, capability) for kernel in kernels):
            bad |= found.spilled > 0 or found.shared_kib > SHARED_KIB[capability]
            values = (found.capability, found.warps, found.registers, found.spilled)
            rows.append([found.name.strip("_"), *map(str, values), f"{found.shared_kib:.0f}", str(found.blocks)])
    print_table(header, rows, f"triton {triton.__version__}, {options.dtype}, {options.features} features per head")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
