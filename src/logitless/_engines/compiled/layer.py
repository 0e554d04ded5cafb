"""A linear layer as the compiled engine holds it."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from ..._arrays.bfloat16 import is_narrow
from ..._arrays.checks import compute_dtype, copied, plain
from ..._arrays.files import Windows
from ._core import SMALL_N
from .kernels import KERNELS, in_place
from .plan import copied_classes, round_up
from .scratch import aligned

WORD = np.dtype(np.uint32)


class Layer:
    """A linear layer ready to be scored.

    Attributes
    ----------
    n_classes, n_features : int
    dtype : dtype
        float32 or float64: the weights' dtype of computation.
    held : dtype
        As the weights are held: `dtype`, or float16 or BFLOAT16.
    given : tuple
        The caller's arrays, where they may be in use.
    weight, packed, windows : ndarray, ndarray, Windows, or None
        The weights as they are, in panels, or in a file; two of them are None.
    screen : Screen or None
    """

    __slots__ = ("bias", "dtype", "given", "held", "n_classes", "n_features", "packed", "screen",
                 "softcap", "temperature", "weight", "windows")

    def __init__(self, weight: np.ndarray | Windows, bias: np.ndarray | None, softcap: float | None,
                 temperature: float, pack: bool):
        self.n_classes, self.n_features = weight.shape
        self.dtype = compute_dtype(weight.dtype, "weight")
        self.held = weight.dtype.newbyteorder("=")
        if not is_narrow(self.held):
            self.held = self.dtype
        # In a precision of its own: it may be wider than the weights.
        self.bias: np.ndarray | None = None
        if bias is not None:
            own = compute_dtype(bias.dtype, "bias")
            self.bias = np.array(bias, own) if pack else plain(bias, own)
        self.softcap = softcap or 0.0
        self.temperature = temperature
        if isinstance(weight, Windows) and self.n_classes <= SMALL_N:
            weight = weight[:]  # as little as it is
        self.windows = weight if isinstance(weight, Windows) else None
        self.weight = None if isinstance(weight, Windows) else weight
        self.given: tuple[np.ndarray | None, ...] = () if pack else (self.weight, bias)
        self.packed: np.ndarray | None = None
        if self.weight is not None and self.n_classes <= SMALL_N:
            if pack:
                self.weight = copied(self.weight, self.held)
            elif not in_place(self.weight, self.held):
                self.weight = plain(self.weight, self.held)
        elif pack:
            self.packed = self._pack()
            self.weight = self.windows = None
        self.screen: Any = None  # screen.py imports this module

    @property
    def nbytes(self) -> int:
        """Bytes of arrays that are not the caller's."""
        held = self.packed, self.weight, self.bias, self.screen
        given = {id(a) for a in self.given}
        return sum(a.nbytes for a in held if a is not None and id(a) not in given)

    def unpack(self) -> tuple[np.ndarray, np.ndarray | None]:
        """A weight and a bias that make this layer again."""
        return self.classes(0, self.n_classes, self.held), self.bias

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """A weight and a bias that make a layer of some of its classes."""
        return self.targets(index, self.held), None if self.bias is None else self.bias[index]

    def tempered(self, temperature: float) -> Layer:
        """Make a layer of the same arrays with another temperature."""
        layer = copy(self)
        layer.temperature = temperature
        return layer

    def _pack(self) -> np.ndarray:
        kernels, k = KERNELS[self.dtype], self.n_features
        size = round_up(self.n_classes, kernels.lanes) * self._panel_row
        packed = aligned((size,), self.dtype if self.held == self.dtype else WORD)
        if k:
            step = copied_classes(kernels, k, kernels.lanes)
            for first in range(0, self.n_classes, step):
                part = self.classes(first, min(first + step, self.n_classes), self.held)
                if packed.dtype == WORD:
                    kernels.pack_words(part, packed[first * self._panel_row :])
                else:
                    kernels.pack_weight(part, packed[first * k :])
        return packed

    @property
    def _panel_row(self) -> int:
        """Vectors to a panel: features, or words of two of them."""
        return self.n_features if self.held == self.dtype else -(-self.n_features // 2)

    def panels(self) -> np.ndarray:
        """The packed weights: (panel, feature, class in it), or words of two features each."""
        assert self.packed is not None  # or who asks has not looked
        lanes = KERNELS[self.dtype].lanes
        return self.packed.reshape(-(-self.n_classes // lanes), self._panel_row, lanes)

    def bias_in(self, dtype: np.dtype) -> np.ndarray | None:
        """The bias in a precision; what that has no room for is infinite."""
        if self.bias is None or self.bias.dtype == dtype:
            return self.bias
        with np.errstate(over="ignore"):
            return self.bias.astype(dtype)

    def classes(self, first: int, last: int, dtype: np.dtype) -> np.ndarray:
        """Weights of some classes as an array of `dtype`, a copy where it must be one."""
        if self.windows is not None:
            part = self.windows[first:last]
        elif self.weight is None:
            lanes = KERNELS[self.dtype].lanes
            panels = self.panels()[first // lanes : -(-last // lanes)].transpose(0, 2, 1)
            part = self._unpacked(panels).reshape(lanes * len(panels), self.n_features)
            part = part[: last - first]
        else:
            part = self.weight[first:last]
        return part if in_place(part, dtype) else plain(part, dtype)

    def targets(self, index: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Weights of some classes in any order, as an array of `dtype`."""
        if self.windows is not None:
            return plain(self.windows[index], dtype)
        if self.weight is not None:
            return plain(self.weight[index], dtype)
        lanes = KERNELS[self.dtype].lanes
        return plain(self._unpacked(self.panels()[index // lanes, :, index % lanes]), dtype)

    def _unpacked(self, panels: np.ndarray) -> np.ndarray:
        """Features out of packed ones, along the last axis."""
        if panels.dtype != WORD:
            return panels
        halves = np.empty((*panels.shape, 2), np.uint16)
        halves[..., 0] = panels & 0xFFFF
        halves[..., 1] = panels >> 16
        whole = halves.reshape(*panels.shape[:-1], 2 * panels.shape[-1])
        return np.ascontiguousarray(whole[..., : self.n_features]).view(self.held)
