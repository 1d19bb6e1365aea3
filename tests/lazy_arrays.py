"""Arrays that are no arrays, for tests of what is read of them."""

from __future__ import annotations

from typing import Any

import numpy as np


class Counted:
    """An array that only knows how to be indexed, and how many voxels the largest part had that was asked for, and all together."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype, self.most, self.read = data, data.shape, data.dtype, 0, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        part = self.data[key]
        self.most = max(self.most, part.size)
        self.read += part.size
        return part
