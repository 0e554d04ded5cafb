"""Drawing classes from the softmax."""

from __future__ import annotations

import numpy as np

from .batch import Batch

_VALUES = 1 << 20  # random numbers held at a time
_TICK = 2.0**-54  # below what steps the random numbers come in


def generator(rng: object) -> np.random.Generator:
    """Make the source of randomness that `rng` is or is the seed of."""
    try:
        if isinstance(rng, np.ndarray) and rng.dtype.kind in "mM":  # NumPy would warn of some
            raise TypeError
        return np.random.default_rng(rng)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise type(error)("`rng` must be a numpy.random.Generator, a seed that is not negative, or "
                          f"None, got {rng!r:.80}") from None


def draw(rows: Batch, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw classes (m, size): the winner of an exponential race (Gumbel-max).

    The random numbers are taken in the order row, draw, class, so that they do
    not depend on how many are held at a time. A row without a class left gets -1.
    """
    drawn = np.empty((rows.rows.m, size), np.intp)
    if size == 0:
        return drawn
    empty = None if rows.exclude is None else np.broadcast_to(rows.exclude.first_left() < 0,
                                                              (len(drawn),))
    for first, logits in rows.logit_blocks(max(1, _VALUES // (rows.n * size))):
        if empty is not None:
            logits[empty[first : first + len(logits)]] = 0
        _race(logits, rng, first, drawn[first : first + len(logits)])
    if empty is not None:
        drawn[empty] = -1
    return drawn


def _race(z: np.ndarray, rng: np.random.Generator, row: int, drawn: np.ndarray) -> None:
    """Draw classes (r, size) for logits (r, n), the first of which is row `row`."""
    peak = z.max(axis=1)
    if not np.isfinite(peak).all():
        bad = row + int(np.argmin(np.isfinite(peak)))
        raise ValueError(
            "`sample` needs logits that are not NaN or +inf, and not all -inf, "
            f"got such in row {bad}"
        )
    with np.errstate(over="ignore"):
        z -= peak[:, None]
    r, n = z.shape
    step = max(1, _VALUES // (r * n))  # less than all draws only where r is 1
    for lo in range(0, drawn.shape[1], step):
        part = drawn[:, lo : lo + step]
        # float32 draws come in steps of 1e-7: too coarse for the race of unlikely classes.
        race = rng.standard_exponential((r, part.shape[1], n))
        # A time of 0 would be an infinite advantage, even over the impossible.
        np.maximum(race, _TICK, out=race)
        np.log(race, out=race)
        np.subtract(z[:, None, :], race, out=race)
        part[...] = race.argmax(axis=2)
