"""exp, log, log1p and tanh of the kernels in units in the last place, against mpmath."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

pytestmark = pytest.mark.compiled_only

LIMITS = {"exp": 0.9, "log": 0.9, "log1p": 0.9, "tanh": 1.3}
COUNT = 1500


def mapped(name, x):
    from logitless._engines.compiled.kernels import KERNELS

    y = np.empty_like(x)
    KERNELS[x.dtype].map(name, x, y)
    return y


def arguments(name, dtype):
    """Magnitudes from the smallest to the largest, and where the methods are weakest."""
    rng = np.random.default_rng(17)
    info = np.finfo(dtype)
    largest = float(np.log(info.max)) if name == "exp" else float(info.max)
    least = float(info.smallest_subnormal)
    spread = np.exp(rng.uniform(np.log(least) + 1, np.log(largest), COUNT))
    near_one = 1 + rng.uniform(-0.5, 0.5, COUNT)
    moderate = rng.uniform(0, 20, COUNT)
    x = np.concatenate([spread, near_one, moderate])
    if name == "exp":
        # Near the ends of the interval that the argument is reduced to, and denormal results.
        halves = (rng.integers(-120, 120, COUNT) + 0.5) * np.log(2)
        low = rng.uniform(np.log(least), np.log(info.tiny), COUNT)
        x = np.concatenate([x, -x[x < -np.log(least)], halves, low])
    if name == "tanh":
        x = np.concatenate([x, -x])
    return np.ascontiguousarray(x.astype(dtype))


@pytest.mark.parametrize("name", LIMITS)
def test_ulps(name, dtype):
    x = arguments(name, dtype)
    y = mapped(name, x)
    function = getattr(mpmath, name)
    largest = float(np.finfo(dtype).max)
    worst = 0.0
    with mpmath.workdps(60):
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            exact = function(mpmath.mpf(a))
            if abs(exact) > largest:
                assert np.isinf(b)
                continue
            unit = float(np.spacing(np.abs(np.array(float(exact), dtype))))
            worst = max(worst, float(abs(exact - mpmath.mpf(b)) / mpmath.mpf(unit)))
    assert worst <= LIMITS[name], f"{name}: {worst:.3f} ULP"


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("exp", [-np.inf, 0.0, np.inf, np.nan, -1e4, 1e4], [0, 1, np.inf, np.nan, 0, np.inf]),
        ("log", [0.0, 1.0, np.inf, np.nan, -1.0], [-np.inf, 0, np.inf, np.nan, np.nan]),
        ("log1p", [0.0, np.inf, np.nan], [0, np.inf, np.nan]),
        ("tanh", [0.0, -0.0, np.inf, -np.inf, np.nan], [0.0, -0.0, 1, -1, np.nan]),
    ],
)
def test_special_values(name, x, y, dtype):
    got = mapped(name, np.array(x, dtype))
    np.testing.assert_array_equal(got, np.array(y, dtype))
    zero = got == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(np.array(y, dtype)[zero]))


def test_each_value_alone(dtype):
    """A value's result does not depend on its place in a vector or on its neighbours."""
    x = arguments("exp", dtype)[:77]
    together = mapped("exp", x)
    alone = np.concatenate([mapped("exp", x[i : i + 1].copy()) for i in range(len(x))])
    np.testing.assert_array_equal(together, alone)
