"""Split blocks that are longer than a sample.

fairseq's `complete` and `complete_doc` keep lines whole, so a line longer than `tokens_per_sample` makes a block of its
own that no longer fits; fairseq then skips it (or stops). Paragraph-per-line text would lose a fifth of its tokens.
"""

from typing import Any

import numpy as np
import torch


class SplitLongBlocks(torch.utils.data.Dataset):
    """The blocks of `dataset`, those over `longest` tokens cut into equal parts that fit."""

    def __init__(self, dataset: Any, longest: int) -> None:
        self.dataset = dataset
        whole = np.asarray(dataset.sizes, dtype=np.int64)
        self._whole = whole
        self.parts = -(-whole // longest)
        self.ends = np.cumsum(self.parts)
        begins, ends = self._bounds(*self._locate(np.arange(len(self))), whole)
        self._sizes = ends - begins

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> torch.Tensor:
        block, part = self._locate(np.asarray(index))
        begin, end = self._bounds(block, part, self._whole)
        return self.dataset[int(block)][int(begin) : int(end)]

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of every part."""
        return self._sizes

    def _locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Part number -> (block, part within the block)."""
        block = np.searchsorted(self.ends, index, side="right")
        return block, index - (self.ends[block] - self.parts[block])

    def _bounds(self, block: np.ndarray, part: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size, parts = sizes[block], self.parts[block]
        return part * size // parts, (part + 1) * size // parts
