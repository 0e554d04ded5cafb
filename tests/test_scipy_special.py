"""softmax, log_softmax and logsumexp beside SciPy's, where these have something to decide."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from support.oracle import says

import logitless as ll

special = pytest.importorskip("scipy.special")

INF, NAN = np.inf, np.nan
NAMES = ["softmax", "log_softmax", "logsumexp"]


def theirs(name, z, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(special, name)(z, **options)


def assert_as_theirs(name, z, **options):
    ours, expected = getattr(ll, name)(z, **options), theirs(name, z, **options)
    assert np.shape(ours) == np.shape(expected)
    assert isinstance(ours, np.ndarray) == isinstance(expected, np.ndarray)
    np.testing.assert_allclose(ours, expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_infinities(name, n):
    for z in itertools.product([-INF, 0.0, 1.0, INF, NAN], repeat=n):
        assert_as_theirs(name, list(z), axis=-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 16, 17, 600, 5000])
def test_infinities_among_many(name, n, dtype):
    rows = np.array(list(itertools.product([-INF, 0.0, INF, NAN], repeat=2)), dtype)
    for at in (0, n // 2, n - 1):
        z = np.repeat(rows[:, :1], n, axis=1)
        z[:, at] = rows[:, 1]
        ours, expected = getattr(ll, name)(z), theirs(name, z.astype(np.float64), axis=-1)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        assert ours.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [-1, 0, None])
@pytest.mark.parametrize("z", [3.0, INF, -INF, NAN, np.float32(2), np.array(1.5)])
def test_scalars(name, axis, z):
    assert_as_theirs(name, z, axis=axis)


@pytest.mark.parametrize("name", NAMES)
def test_axes_of_a_scalar(name):
    for axis in (1, -2, (0, 1)):
        with says(ValueError, "axis", "[-1, 1)", axis):
            getattr(ll, name)(3.0, axis=axis)


@pytest.mark.parametrize("name", NAMES)
def test_an_axis_is_named_once(name):
    for axis in ((0, 0), (1, -1)):
        with says(ValueError, "`axis` must not name an axis twice", axis):
            getattr(ll, name)(np.ones((2, 3)), axis=axis)


@pytest.mark.parametrize(("shape", "axis"), [
    ((0,), -1), ((0,), None), ((3, 0), 1), ((0, 3), 0), ((3, 0), None), ((2, 0, 3), (0, 1)),
    ((2, 0, 3), 1),
])
def test_nothing_along_the_axis(shape, axis, dtype):
    z = np.ones(shape, dtype)
    ours = ll.logsumexp(z, axis=axis)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, np.log(np.sum(np.exp(z), axis=axis, dtype=dtype),
                                               where=False, out=np.full(ours.shape, -INF, dtype)))
    for call in ll.softmax, ll.log_softmax:
        with says(ValueError, "at least one class", "none"):
            call(z, axis=axis)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "axis"), [((3, 0), 0), ((0, 3), 1), ((0, 3), -1), ((2,), ())])
def test_nothing_beside_the_axis(name, shape, axis):
    assert_as_theirs(name, np.ones(shape), axis=axis)
