"""The temperature of the least loss, by Newton's method: one pass over the weights a step.

With `s` the logits of a row at some temperature, `p` their softmax and `t` its target, the loss and
its derivatives by ``u = -log(temperature)`` are

    sum(t) lse(s) - sum(t s),    sum(t) E_p[s] - sum(t s),    sum(t) Var_p[s] + the first derivative

The loss is convex in ``1 / temperature``, so that its first derivative by `u` has one zero at most.
That of the first derivative itself, times the temperature, is sought: the step is its quotient by
the sum of the variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .._engines.interface import State
from .objective import F64, Objective

# How far a temperature is sought, on a logarithmic scale, and how far one step may lead at first.
LIMIT = 20 * math.log(2)
FIRST_STEP = 2.0

# States of rows with the logits of the head times exp(u).
Pass = Callable[[float], Iterator[tuple[slice, State]]]


def fitted(objective: Objective, scored: Pass) -> float:
    """Find the `u` where the sum of the losses is least; 0 where all are as good."""

    def derivatives(u: float) -> tuple[float, float]:
        found = _derivatives(objective, scored(u))
        if not all(map(math.isfinite, found)):
            raise ValueError("`x` and `sample_weight` must have derivatives of the loss with a "
                             f"finite sum, got {found[0]} and {found[1]}")
        return found

    slope, curvature = derivatives(0.0)
    if slope == 0:
        return 0.0
    return _zero(derivatives, slope, curvature, math.sqrt(np.finfo(objective.dtype).eps))


def _zero(derivatives: Callable[[float], tuple[float, float]], slope: float, curvature: float,
          tolerance: float) -> float:
    """Find where a slope that grows with `u`, and is not 0 at 0, is 0.

    By Newton's steps, which end when the next one would be lost in rounding. They are cut short as
    long as all points lie on one side; from then on what lies between is halved where a step leaves
    it or is hardly shorter than the last.
    """
    u, low, high = 0.0, -math.inf, math.inf
    most, last = FIRST_STEP, math.inf
    while slope != 0:
        low, high = (u, high) if slope < 0 else (low, u)
        if abs(u) >= LIMIT and slope * u < 0:  # it lies further out
            raise ValueError(_beyond(slope))
        step = -slope / curvature if curvature > 0 else math.copysign(math.inf, -slope)
        if abs(step) <= tolerance or high - low <= tolerance:
            return min(max(u + step, low), high)
        if math.isinf(high - low):
            step = math.copysign(min(abs(step), most), step)
            most *= 2
            target = min(max(u + step, -LIMIT), LIMIT)
        else:
            target = u + step
            if not low < target < high or abs(step) > abs(last) / 2:
                target = (low + high) / 2
        last, u = target - u, target
        slope, curvature = derivatives(u)
    return u


def _beyond(slope: float) -> str:
    if slope < 0:
        return ("`target` must be other than the best class in some rows, got losses that fall as "
                "the temperature goes to 0")
    return ("`target` must go with the logits, got losses that fall as the temperature goes to "
            "infinity: classes are as good as drawn at random")


def _derivatives(
    objective: Objective, parts: Iterable[tuple[slice, State]]
) -> tuple[float, float]:
    """Sums over the rows that count of both derivatives: by `u`, and without the first of them."""
    slope = curvature = gap = 0.0
    for rows, state in parts:
        counts = _counted(objective, state, rows)
        with np.errstate(over="ignore", invalid="ignore"):  # rows that do not count
            mass, gaps = _targets(objective, state)
            mean = np.subtract(state.log_norm, state.entropy, dtype=F64)
            square = np.divide(state.square, 1 + state.rest.astype(F64))
            variance = np.maximum(square - mean**2, 0)
            weight = objective.options.sample_weight
            if weight is not None:
                mass = mass * weight[rows]
                gaps = gaps * weight[rows]
            gap += _total(gaps, counts)
            slope += _total(gaps + mass * mean, counts)
            curvature += _total(mass * variance, counts)
    if gap == 0 and slope < 0:
        raise ValueError(_beyond(slope))
    return slope, curvature


def _targets(objective: Objective, state: State) -> tuple[np.ndarray | float, np.ndarray]:
    """Sum of the target distribution, and of the distribution times ``max - z``."""
    if objective.targets.probs is None:
        return 1.0, np.subtract(state.max, state.target_logit[:, 0], dtype=F64)
    mass = state.prob_sum.astype(F64)
    return mass, np.maximum(state.prob_loss - mass * state.log_norm, 0)


def _counted(objective: Objective, state: State, rows: slice) -> np.ndarray | None:
    """Which rows count, all of which must have a finite loss."""
    counts = objective.counts(rows)
    soft = objective.targets.probs is not None
    losses = state.prob_loss if soft else state.target_loss[:, 0]
    bad = ~np.isfinite(losses)
    if counts is not None:
        bad &= counts
    if bad.any():
        row = int(bad.argmax())
        raise ValueError("`x` and `target` must have a finite loss in every row that counts, got "
                         f"{losses[row]} in row {rows.start + row}")
    return counts


def _total(values: np.ndarray, counts: np.ndarray | None) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sum(values if counts is None else values[counts]))
