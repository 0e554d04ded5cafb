"""The weights of a layer as bytes, with bounds of what these lack: see docs/screening.md."""

from __future__ import annotations

import numpy as np

from ..._arrays.bfloat16 import BFLOAT16
from ..._arrays.checks import plain
from ..interface import Request
from ._core import KC, Screener, screener_for
from .kernels import KERNELS, active_isa
from .layer import Layer
from .plan import copied_classes, round_up
from .scratch import aligned

MIN_CLASSES = 512, 128  # fewer are not worth it: in all, and for each of the best
# Of more than FEW_BEST, so many products of a row for each of them; fewer of fewer than ROWS_READ
# rows, as it then is the time to read the weights that a screen spares. Both were measured.
FEW_BEST, MACS_PER_BEST, ROWS_READ = 64, 1 << 18, 8
UNIT = 2.0**-24  # half the distance of float32 numbers from 1


def slack_of(k: int) -> float:
    """What rounding may change in a logit of k features, in units of the sum of its magnitudes.

    The longest chain of roundings of the exact logit, of reals or of bfloat16, and 128 more for the
    screen's own arithmetic.
    """
    chain = max(min(k, KC) + -(-k // KC), min(k, 16) + 1 + -(-k // 32)) + 1
    return chain * UNIT / (1 - chain * UNIT) + 128 * UNIT


class Screen:
    """The classes of a layer as bytes, with bounds of what they lack.

    Attributes
    ----------
    weight : ndarray of uint8
        Panels of 16 classes, four features of each side by side, 128 more than they are.
    fine : ndarray of uint8
        What bytes lack in 16ths of their scale, class by class, two features to a byte.
    bounds : ndarray of float32, shape (panels, 4, 16)
        Of each class: its norm, that of its residual, the scale of its bytes, and the norm of what
        16ths lack, too.
    bias : ndarray of float32, or None
        Upper bounds of the bias.
    loose : float
        The norm of the residual over that of the weights, of the median class.
    """

    __slots__ = ("bias", "bounds", "fine", "loose", "no_bias", "screener", "slack", "weight")

    def __init__(self, layer: Layer):
        n, k = layer.n_classes, layer.n_features
        self.screener = screener_for(active_isa())
        lanes = self.screener.lanes
        panels = -(-n // lanes)
        self.weight = aligned((panels * lanes * round_up(k, 4),), np.dtype(np.uint8))
        fine_bytes = self.screener.fine_bytes(k)
        self.fine = aligned((panels * lanes * fine_bytes,), np.dtype(np.uint8))
        self.bounds = aligned((panels, self.screener.class_bounds, lanes), np.dtype(np.float32))
        self.slack = slack_of(k)
        self.no_bias = (k + 16) * 2.0**-124  # what underflow may change
        self.bias = None if layer.bias is None else self._raised(layer.bias, panels * lanes)
        step = copied_classes(KERNELS[layer.dtype], k, lanes) // lanes
        for first in range(0, panels, step):
            last = min(first + step, panels)
            self.screener.quantise_weight(
                _float32_panels(layer, first * lanes, min(last * lanes, n)), k,
                self.weight[first * lanes * round_up(k, 4):],
                self.fine[first * lanes * fine_bytes:], self.bounds[first:last])
        norm, error, _, fine_error = self.bounds.transpose(1, 0, 2)
        if layer.held == BFLOAT16:  # rows of bfloat16 do not see subnormal weights
            error += np.float32(2.0**-125 * k**0.5)
            fine_error += np.float32(2.0**-125 * k**0.5)
        with np.errstate(invalid="ignore"):
            self.loose = float(np.median(error / norm))

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        held = self.weight, self.fine, self.bounds, self.bias
        return sum(a.nbytes for a in held if a is not None)

    def _raised(self, bias: np.ndarray, size: int) -> np.ndarray:
        """Upper bounds of a bias; NaN, which nothing keeps out, where it is too large for any."""
        with np.errstate(over="ignore", invalid="ignore"):
            wide = bias.astype(np.float64)
            wide += self.slack * np.abs(wide) + self.no_bias
        wide[np.isneginf(bias)] = -np.inf  # a class that cannot happen
        wide[~(np.abs(bias) < 2.0**60) & ~np.isneginf(bias)] = np.nan
        raised = np.full(size, np.nan, np.float32)
        raised[: len(bias)] = wide
        return raised


def _float32_panels(layer: Layer, first: int, last: int) -> np.ndarray:
    """Packed weights of some classes, whole panels, in float32."""
    k = layer.n_features
    if layer.held == np.float32:
        return layer.panels().reshape(-1)[first * k :]
    kernels = KERNELS[np.dtype(np.float32)]
    with np.errstate(over="ignore", under="ignore"):
        weight = plain(layer.classes(first, last, layer.held), np.dtype(np.float32))
    packed = np.empty(round_up(last - first, kernels.lanes) * k, np.float32)
    kernels.pack_weight(weight, packed)
    return packed


def can_screen(layer: Layer, x: np.ndarray, request: Request) -> bool:
    """Whether the screen of a layer can answer a request."""
    screener: Screener = layer.screen.screener
    n, k = layer.n_classes, layer.n_features
    if request.exclude is not None:
        n -= request.exclude.usual
    return (
        request.only_best
        and request.dtype == layer.dtype
        and n >= max(MIN_CLASSES[0], MIN_CLASSES[1] * request.k)
        and request.k <= screener.top
        and (request.k <= FEW_BEST or _spares_enough(len(x), layer, request.k))
        and 0 < k <= screener.features
        and len(x) > 0
    )


def _spares_enough(m: int, layer: Layer, top: int) -> bool:
    """Whether a screen spares more than it takes to find so many of the best of m rows."""
    reading = max(ROWS_READ / max(m, 1), 1) ** 2
    return reading * layer.n_classes * layer.n_features >= MACS_PER_BEST * top
