"""A linear layer as plain NumPy holds it."""

from __future__ import annotations

import math
from copy import copy

import numpy as np

from ..._arrays.bfloat16 import is_narrow
from ..._arrays.checks import compute_dtype, copied, plain
from ..._arrays.files import Windows
from ..._arrays.sparse_x import SparseX
from .sparse import product


class Layer:
    """A linear layer: weight (n, k), bias (n,), and what happens to its logits."""

    def __init__(
        self,
        weight: np.ndarray | Windows,
        bias: np.ndarray | None,
        *,
        softcap: float | None,
        temperature: float,
        pack: bool,
    ):
        self.dtype = compute_dtype(weight.dtype, "weight")
        self.held = weight.dtype.newbyteorder("=")
        if pack and not is_narrow(self.held):
            self.held = self.dtype
        self.n_classes, self.n_features = weight.shape
        self.nbytes = 0
        if pack:
            weight = copied(weight[:], self.held)
            bias = None if bias is None else bias.copy()
            self.nbytes = weight.nbytes + (0 if bias is None else bias.nbytes)
        self._weight, self._bias = weight, bias
        self.softcap, self.temperature = softcap or 0.0, temperature
        self.given: tuple[np.ndarray | None, ...] = ()
        if not pack:
            self.given = (None if isinstance(weight, Windows) else weight, bias)

    def unpack(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Give a weight and a bias that make this layer again."""
        return self._weight[: self.n_classes], self._bias

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Give a weight and a bias that make a layer of some of its classes."""
        return self._weight[index], None if self._bias is None else self._bias[index]

    def tempered(self, temperature: float) -> Layer:
        """Make a layer of the same arrays with another temperature."""
        layer = copy(self)
        layer.temperature = temperature
        return layer

    def is_plain(self, dtype: np.dtype) -> bool:
        """Whether weights are used where they are in computations of `dtype`."""
        return is_plain(self._weight, dtype)

    def logits(
        self, x: np.ndarray | SparseX, lo: int, hi: int, temperature: np.ndarray | None
    ) -> np.ndarray:
        """Logits (r, hi - lo) of classes lo to hi, in the dtype of x.

        Rows have the `temperature` (r,) that the layer has else.
        """
        if isinstance(x, SparseX):
            z = product(x, plain(self._weight[lo:hi], x.dtype))
        else:
            z = x @ plain(self._weight[lo:hi], x.dtype).T
        if self._bias is not None:
            z += plain(self._bias[lo:hi], x.dtype)
        return self._transformed(z, temperature)

    def logits_of(
        self, x: np.ndarray, index: np.ndarray, temperature: np.ndarray | None
    ) -> np.ndarray:
        """Logits (r, 1) of one class for each row."""
        z = np.einsum("ij,ij->i", x, plain(self._weight[index], x.dtype))[:, None]
        if self._bias is not None:
            z += plain(self._bias[index], x.dtype)[:, None]
        return self._transformed(z, temperature)

    def _transformed(self, z: np.ndarray, temperature: np.ndarray | None) -> np.ndarray:
        """Put sums through the cap and divide them by the temperature, where they are."""
        if self.softcap:
            impossible = np.isneginf(z)
            z /= self.softcap
            np.tanh(z, out=z)
            z *= self.softcap
            z[impossible] = -math.inf  # and stays so
        if temperature is not None:
            z /= as_column(temperature, z.dtype)
        elif self.temperature != 1:
            z /= self.temperature
        return z

    def classes(self, lo: int, hi: int, dtype: np.dtype) -> np.ndarray:
        """Weights of classes lo to hi."""
        return plain(self._weight[lo:hi], dtype)


def as_column(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A number for each row."""
    return values.astype(dtype)[:, None]


def is_plain(array: np.ndarray | Windows, dtype: np.dtype) -> bool:
    return (isinstance(array, np.ndarray) and array.dtype == dtype
            and array.flags.c_contiguous and array.flags.aligned)
