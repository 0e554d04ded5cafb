"""A linear layer as the compiled engine holds it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays.checks import compute_dtype, plain
from ._core import SMALL_N
from .kernels import KERNELS, in_place
from .plan import copied_classes, round_up
from .scratch import aligned


class Layer:
    """A linear layer ready to be scored.

    Attributes
    ----------
    n_classes, n_features : int
    dtype : dtype
        float32 or float64: the weights' dtype of computation.
    given : tuple
        The caller's arrays, where they may be in use.
    weight, packed : ndarray or None
        The weights as they are, or in panels; one of them is None.
    screen : Screen or None
    """

    __slots__ = ("bias", "dtype", "given", "n_classes", "n_features", "packed",
                 "screen", "softcap", "temperature", "weight")

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None, softcap: float | None,
                 temperature: float, pack: bool):
        self.n_classes, self.n_features = weight.shape
        self.dtype = compute_dtype(weight.dtype, "weight")
        # In a precision of its own: it may be wider than the weights.
        self.bias: np.ndarray | None = None
        if bias is not None:
            own = compute_dtype(bias.dtype, "bias")
            self.bias = np.array(bias, own) if pack else plain(bias, own)
        self.softcap = softcap or 0.0
        self.temperature = temperature
        self.given: tuple[np.ndarray | None, ...] = () if pack else (weight, bias)
        self.weight: np.ndarray | None = weight
        self.packed: np.ndarray | None = None
        if self.n_classes <= SMALL_N:
            if pack:
                self.weight = np.array(weight, self.dtype, order="C")
            elif not in_place(weight, self.dtype):
                self.weight = plain(weight, self.dtype)
        elif pack:
            self.packed = self._pack()
            self.weight = None
        self.screen: Any = None  # screen.py imports this module

    @property
    def nbytes(self) -> int:
        """Bytes of arrays that are not the caller's."""
        held = self.packed, self.weight, self.bias, self.screen
        given = {id(a) for a in self.given}
        return sum(a.nbytes for a in held if a is not None and id(a) not in given)

    def unpack(self) -> tuple[np.ndarray, np.ndarray | None]:
        """A weight and a bias that make this layer again."""
        return self.classes(0, self.n_classes, self.dtype), self.bias

    def _pack(self) -> np.ndarray:
        kernels = KERNELS[self.dtype]
        lanes, k = kernels.lanes, self.n_features
        packed = aligned((round_up(self.n_classes, lanes) * k,), self.dtype)
        if k:
            step = copied_classes(kernels, k, lanes)
            for first in range(0, self.n_classes, step):
                part = self.classes(first, min(first + step, self.n_classes), self.dtype)
                kernels.pack_weight(part, packed[first * k :])
        return packed

    def panels(self) -> np.ndarray:
        """The packed weights: (panel, feature, class in it)."""
        assert self.packed is not None  # or who asks has not looked
        lanes = KERNELS[self.dtype].lanes
        return self.packed.reshape(-(-self.n_classes // lanes), self.n_features, lanes)

    def classes(self, first: int, last: int, dtype: np.dtype) -> np.ndarray:
        """Weights of some classes as an array of `dtype`, a copy where it must be one."""
        if self.weight is None:
            lanes = KERNELS[self.dtype].lanes
            panels = self.panels()[first // lanes : -(-last // lanes)].transpose(0, 2, 1)
            part = panels.reshape(lanes * len(panels), self.n_features)[: last - first]
        else:
            part = self.weight[first:last]
        return part if in_place(part, dtype) else plain(part, dtype)

    def targets(self, index: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Weights of some classes in any order, as an array of `dtype`."""
        if self.weight is not None:
            return plain(self.weight[index], dtype)
        lanes = KERNELS[self.dtype].lanes
        return plain(self.panels()[index // lanes, :, index % lanes], dtype)
