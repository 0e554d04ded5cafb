"""What a loss is made of: targets, weights, smoothing, z-loss, and how rows become one number.

The loss of row i, with `z` its logits, `lse` their log-sum-exp, `w` the class weights, `s` the
sample weights and `e` the label smoothing, is

    class index y          s * [(1 - e) w[y] (lse - z[y]) + e / n * sum_c w[c] (lse - z[c])
                                + z_loss * lse^2 + entropy_weight * H]
    probabilities t        s * [sum_c w[c] ((1 - e) t[c] + e / n) (lse - z[c])
                                + z_loss * lse^2 + entropy_weight * H]

with H = -sum_c p[c] log p[c]. Where classes of a row are excluded, n is the number of those that
are left, and the sums with e / n go over them. The gradient with respect to z[c] is

    mass * p[c] - w[c] ((1 - e) t[c] + e / n) - entropy_weight * p[c] (log p[c] + H),
    mass = sum of what is subtracted first + 2 z_loss lse

times s, with t[c] = (c == y) for an index.
"""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from .._arrays.checks import (
    as_array,
    as_float,
    check_divisor,
    compute_dtype,
    plain,
    read_shift,
)
from .._arrays.exclusions import Exclusions
from .._arrays.rows import Rows
from .._arrays.sparse import SparseRows, checked_csr, is_sparse
from .._arrays.sparse_x import SparseX
from .._engines.interface import Request, State
from ..results import warn_of_no_rows
from .options import AMOUNTS, DEFAULTS, LossOptions
from .targets import check_target

F64 = np.dtype(np.float64)
ALL = slice(None)
REDUCTIONS = ("none", "sum", "mean", "batch_mean")


class Objective:
    """Checked targets and options of a loss of m rows against n classes.

    Attributes
    ----------
    targets : Targets
    n : int
    dtype : dtype
        Of the computation.
    options : LossOptions
        Checked: `class_weight` (n,) in `dtype`, `sample_weight` and `temperature` (m,) in
        float64, or None.
    exclude : Exclusions or None
        Classes that do not count: smoothing goes over the others.
    plain : bool
        No option changes the loss of a row that counts.
    reduction : str
    """

    __slots__ = ("dtype", "exclude", "n", "options", "plain", "reduction", "targets")

    def __init__(self, target: object, lead: tuple[int, ...], n: int, dtype: np.dtype,
                 reduction: str, options: LossOptions, softcap: float = 0.0,
                 exclude: Exclusions | None = None):
        check_reduction(reduction)
        self.reduction, self.n, self.dtype, self.exclude = reduction, n, dtype, exclude
        self.options, self.plain = options, True
        if options is not DEFAULTS:
            self.options, self.plain = check_options(options, lead, n, dtype, softcap)
        self.targets = check_target(target, lead, n, dtype, options.ignore_index)

    def arrays(self) -> list[np.ndarray | None]:
        """All that is read while gradients are written."""
        targets = self.targets
        options = self.options
        arrays = [targets.index, options.class_weight, options.sample_weight, options.temperature]
        if isinstance(targets.probs, Rows):
            arrays.append(targets.probs.array)
        elif targets.probs is not None:
            arrays += [targets.probs.start, targets.probs.index, targets.probs.value]
        return arrays

    def request(self, **also: Any) -> Request:
        """Make the request that finds what the losses are made of."""
        probs: np.ndarray | SparseRows | Rows | None = self.targets.probs
        if isinstance(probs, Rows) and probs.whole is not None:
            probs = probs.whole
        smooth, weight = self.options.label_smoothing > 0, self.options.class_weight
        if weight is None and smooth:
            weight = np.ones(self.n, self.dtype)
        if not smooth and probs is None:
            weight = None
        also["entropy"] = self.options.entropy_weight != 0 or also.get("entropy", False)
        return Request(self.dtype, targets=self.targets.index, probs=probs, class_weight=weight,
                       smooth=smooth, temperature=self.options.temperature, **also)

    def losses(self, state: State, rows: slice = ALL) -> np.ndarray:
        """Find the loss of each row of those with this state."""
        if self.targets.probs is None:
            losses = state.target_loss[:, 0]
        else:
            losses = self._soft_losses(state, rows)
        if self.plain:
            return losses
        o = self.options
        with np.errstate(all="ignore"):
            loss = losses.astype(F64)
            weight = self.target_weight(rows)
            if weight is not None:
                loss = _product(weight, loss)
            if o.label_smoothing > 0:
                loss = _product(1 - o.label_smoothing, loss)
                n = self.n if self.exclude is None else self.exclude.left(rows)
                loss += o.label_smoothing / n * state.smooth_loss.astype(F64)
            if o.z_loss > 0:
                loss += o.z_loss * np.square(state.lse, dtype=F64)
            if o.entropy_weight != 0:
                loss += o.entropy_weight * state.entropy.astype(F64)
            if o.sample_weight is not None:
                loss *= o.sample_weight[rows]
            counts = self.counts(rows)
            if counts is not None:
                loss[~counts] = 0
            return loss.astype(self.dtype)

    def _soft_losses(self, state: State, rows: slice) -> np.ndarray:
        """Read off the losses against distributions: of one-hot rows by their class index."""
        index = self.targets.index
        if index is None:
            return state.prob_loss
        return np.where(index[rows, 0] >= 0, state.target_loss[:, 0], state.prob_loss)

    def target_weight(self, rows: slice) -> np.ndarray | None:
        """Class weight of each row's target, float64: 1 where that is not one class."""
        if self.options.class_weight is None or self.targets.index is None:
            return None
        index = self.targets.index[rows, 0]
        return np.where(index >= 0, self.options.class_weight[index], 1).astype(F64)

    def counts(self, rows: slice) -> np.ndarray | None:
        """Which rows are neither ignored nor of weight 0; None where all are neither."""
        counts, index = None, self.targets.index
        if index is not None and self.targets.probs is None and self.targets.counted < len(index):
            counts = index[rows, 0] >= 0
        if self.options.sample_weight is not None:
            weighty = self.options.sample_weight[rows] != 0
            counts = weighty if counts is None else counts & weighty
        return counts

    def divisor(self) -> float:
        """What the sum of the losses is divided by; 0 where no row counts in a mean."""
        m = self.targets.rows
        if self.reduction == "batch_mean":
            return m
        if self.reduction != "mean":
            return 1
        o = self.options
        if o.class_weight is None and o.sample_weight is None:
            return self.targets.counted
        weight = np.ones(m) if o.sample_weight is None else o.sample_weight.copy()
        of_class = None if self.targets.soft else self.target_weight(ALL)
        counts = self.counts(ALL)
        with np.errstate(over="ignore"):
            if of_class is not None:
                weight *= of_class
            return float(weight.sum() if counts is None else weight[counts].sum())

    def reduce(self, losses: np.ndarray) -> np.generic:
        """Losses (m,) to one: added up in float64, in an order that threads do not change."""
        return reduced(losses, self.divisor(), self.reduction, self.dtype)


def check_options(
    options: LossOptions, lead: tuple[int, ...], n: int, dtype: np.dtype, softcap: float
) -> tuple[LossOptions, bool]:
    """Options as an `Objective` has them, and whether they change no loss of a row that counts."""
    amounts: dict[str, Any] = {}
    for name, limits in AMOUNTS.items():
        amounts[name] = _check_amount(getattr(options, name), name, *limits)
    class_weight = _check_class_weight(options.class_weight, n, dtype)
    sample_weight = check_sample_weight(options.sample_weight, lead)
    temperature = check_temperature(options.temperature, lead, dtype, softcap)
    checked = LossOptions(options.ignore_index, class_weight, sample_weight,
                          temperature=temperature, **amounts)
    return checked, class_weight is sample_weight is None and not any(amounts.values())


def reduced(losses: np.ndarray, divisor: float, reduction: str, dtype: np.dtype) -> np.generic:
    """Losses (m,) to one; NaN where no row counts in a mean."""
    if divisor == 0:
        warn_of_no_rows(reduction)
        return dtype.type(math.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        return dtype.type(np.sum(losses, dtype=F64) / divisor)


def check_reduction(reduction: str) -> None:
    """Refuse an unknown reduction."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {REDUCTIONS}, got {reduction!r}")


def _product(weight: np.ndarray | float, loss: np.ndarray) -> np.ndarray:
    """Weight 0 makes 0 even of an infinite loss."""
    return np.where(np.equal(weight, 0), 0.0, weight * loss)


def shifted(
    x: Any, target: Any, options: LossOptions, x_name: str = "x"
) -> tuple[Any, Any, LossOptions]:
    """Rows of x (..., t, k) paired with the targets `shift` places further along t."""
    shift = read_shift(options.shift)
    if shift == 0:
        return x, target, options
    lead = x.shape[:-1]
    if not lead or lead[-1] < shift:
        raise ValueError(
            f"`shift` must be at most the length of the last axis but one of `{x_name}`, "
            f"got {shift} for shape {x.shape}"
        )
    keep = lead[-1] - shift

    def later(value: Any, name: str) -> Any:
        if value is None:
            return None
        if is_sparse(value):
            if value.shape[0] != math.prod(lead):
                raise ValueError(f"`{name}` must have {math.prod(lead)} rows, "
                                 f"got shape {value.shape}")
            compute_dtype(value.dtype, name)
            rows = np.arange(value.shape[0]).reshape(lead)[..., shift:]
            return checked_csr(value, name)[rows.reshape(-1)]
        array = as_array(value, name)
        if array.shape[: len(lead)] != lead:
            raise ValueError(f"`{name}` must have shape {lead}, got {array.shape}")
        return array[(ALL,) * (len(lead) - 1) + (slice(shift, None),)]

    target = later(target, "target")
    weight = later(options.sample_weight, "sample_weight")
    temperature = later(options.temperature, "temperature")
    options = replace(options, sample_weight=weight, temperature=temperature)
    return x[:keep] if isinstance(x, SparseX) else x[..., :keep, :], target, options


def _check_class_weight(weight: object, n: int, dtype: np.dtype) -> np.ndarray | None:
    if weight is None:
        return None
    weight = as_array(weight, "class_weight")
    compute_dtype(weight.dtype, "class_weight")
    if weight.shape != (n,):
        raise ValueError(f"`class_weight` must have shape ({n},), got {weight.shape}")
    with np.errstate(over="ignore"):
        rounded = plain(weight, dtype)
    bad = ~((rounded >= 0) & (rounded < math.inf))
    if bad.any():
        c = int(bad.argmax())
        raise ValueError(f"`class_weight` must be finite and >= 0, got {weight[c]} for class {c}")
    return rounded


def check_sample_weight(weight: object, lead: tuple[int, ...]) -> np.ndarray | None:
    """Check weights of rows: float64 (m,), or None."""
    if weight is None:
        return None
    weight = as_array(weight, "sample_weight")
    compute_dtype(weight.dtype, "sample_weight")
    if weight.shape != lead:
        raise ValueError(f"`sample_weight` must have shape {lead}, got {weight.shape}")
    flat = plain(weight, F64).reshape(-1)
    bad = ~np.isfinite(flat)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"`sample_weight` must be finite, got {flat[row]} in row {row}")
    return flat


def check_temperature(
    temperature: object, lead: tuple[int, ...], dtype: np.dtype, softcap: float = 0.0
) -> np.ndarray | None:
    """Temperatures of the rows, float64 (m,), for logits in `dtype` that may be capped."""
    if temperature is None:
        return None
    temperature = as_array(temperature, "temperature")
    compute_dtype(temperature.dtype, "temperature")
    if temperature.shape != lead:
        raise ValueError(f"`temperature` must have shape {lead}, got {temperature.shape}")
    flat = plain(temperature, F64).reshape(-1)
    _check_divisors(flat, "`temperature`", dtype)
    if softcap:
        with np.errstate(over="ignore"):
            _check_divisors(softcap / flat, "`softcap / temperature`", dtype)
    return flat


def _check_divisors(values: np.ndarray, name: str, dtype: np.dtype) -> None:
    bad = ~((values >= np.finfo(dtype).tiny) & (values <= np.finfo(dtype).max))
    if bad.any():
        row = int(bad.argmax())
        check_divisor(float(values[row]), f"{name} of row {row}", dtype)


def _check_amount(value: object, name: str, least: float, most: float) -> float:
    if type(value) is float and value == 0:  # sparing most callers the rest
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
    number = as_float(value)
    if math.isfinite(number) and least <= number <= most:
        return number
    limits = (f"between {least} and {most}" if math.isfinite(most) else
              f"at least {least} and finite" if math.isfinite(least) else "finite")
    raise ValueError(f"`{name}` must be {limits}, got {value}")
