"""One token per row of logits, from softmax and a given uniform number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metro_t0.kernels.chunks import split_rows
from metro_t0.kernels.execution import fused

BLOCK = 128
"""Tokens whose probabilities are summed before one is sampled."""


@torch.no_grad()
def sample_tokens(logits: Tensor, uniforms: Tensor, compiled: bool = False) -> Tensor:
    """One token per row from softmax(logits) by inverting the cumulative distribution (equation 10's sampling).

    logits (M, V), uniforms (M,) in [0, 1) -> (M,) ids. One uniform number per position makes the sample a function of
    (seed, epoch, example, position), which torch's own generators would not be. compiled: by torch.compile over all
    rows at once; the same but for the rounding of sums.
    """
    if compiled:
        return fused(_sample_rows)(logits, uniforms)
    chunks = zip(split_rows(logits), split_rows(uniforms, like=logits), strict=True)
    return torch.cat([_sample_rows(rows, numbers) for rows, numbers in chunks])


def _sample_rows(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Find the block of tokens that the uniform number falls into, then the token: V / 128 + 128 sums instead of V."""
    probabilities = F.pad(logits.float().softmax(-1), (0, -logits.size(-1) % BLOCK)).unflatten(-1, (-1, BLOCK))
    of_blocks = probabilities.sum(-1)
    blocks = of_blocks.cumsum(-1)
    threshold = uniforms[:, None].to(blocks.dtype) * blocks[:, -1:]
    block = torch.searchsorted(blocks, threshold, right=True).clamp(max=blocks.size(-1) - 1)
    inside = probabilities.take_along_dim(block[..., None], 1).squeeze(1).cumsum(-1)
    rest = threshold - blocks.gather(-1, block) + of_blocks.gather(-1, block)
    # Rounding may leave a rest just past the block's sum: then its last token with any probability is meant.
    rest = rest.minimum(inside[:, -1:].nextafter(inside.new_zeros(())))
    # Logits that are not numbers must end as fairseq ends them, not as an id that no embedding has.
    return (block * BLOCK + torch.searchsorted(inside, rest, right=True)).squeeze(-1).clamp(max=logits.size(-1) - 1)
