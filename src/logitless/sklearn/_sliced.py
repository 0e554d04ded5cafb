"""Rows that are read in slices, and looked through as scikit-learn does all rows beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite


class FiniteRows:
    """An array-like of two dimensions that slices; a block that is not finite is a ValueError."""

    def __init__(self, source: Any):
        self._source = source
        self.shape, self.dtype = source.shape, source.dtype
        self.chunks = getattr(source, "chunks", None)

    def __getitem__(self, where: tuple[slice, slice]) -> Any:
        block = self._source[where]
        assert_all_finite(np.asarray(block), input_name="X")
        return block
