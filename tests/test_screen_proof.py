"""The steps of docs/screening.md, one by one, in exact arithmetic where it matters."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import logitless as ll

pytestmark = pytest.mark.compiled_only

if ll.active_isa() != "numpy":
    from logitless._engines.compiled import screen, screening
    from logitless._engines.compiled._core import KC
    from logitless._engines.interface import Request

U = 2.0**-24
K = (1, 3, 8, 37, 256, 300)
KINDS = ("even", "normal", "outliers", "few", "tiny", "large", "one", "aligned", "zero")


def numbers(kind, rows, k, dtype, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rows, k))
    if kind == "even":
        a = rng.uniform(-1, 1, (rows, k))
    elif kind == "outliers":
        a[:, :1] *= 100
    elif kind == "few":
        a *= rng.random((rows, k)) < 0.1
    elif kind == "tiny":
        a *= 2.0 ** -rng.integers(90, 150, (rows, 1))
    elif kind == "large":
        a *= 2.0 ** rng.integers(0, 58, (rows, 1))
    elif kind == "one":
        a[:] = rng.standard_normal((rows, 1))
    elif kind == "aligned":  # the largest is a whole number of scales, the others are halfway
        a[:] = np.sign(a) * 0.49
        a[:, 0] = 127
    elif kind == "zero":
        a[:] = 0
    return a.astype(dtype)


class Case:
    """A screened head and what it holds of some rows, nothing scanned yet."""

    def __init__(self, weight, bias, x, k=3, levels=1, **options):
        self.weight, self.bias, self.x = weight, bias, x
        self.head = ll.LinearHead(weight, bias, screen="int8", n_threads=1, **options)
        self.plain = ll.LinearHead(weight, bias, n_threads=1, **options)
        self.screen = self.head._layer.screen
        request = Request(self.head.dtype, sums=False, k=k)
        self.scan = screening.ScreenedScoring(self.head._layer, x, request, 1)
        self.block = screening._Block(self.scan, len(x))
        self.rows, self.found = self.block.open(0, len(x)), self.block.memory
        with np.errstate(over="ignore", under="ignore"):
            self.block.quantise(self.rows, np.ascontiguousarray(x, np.float32), levels)
        n, features = weight.shape
        steps = -(-features // 4)
        panels = self.screen.weight.reshape(-1, steps, 16, 4).transpose(0, 2, 1, 3)
        self.p = panels.reshape(-1, 4 * steps)[:n, :features].astype(np.int64) - 128
        bounds = self.screen.bounds.transpose(1, 0, 2).reshape(4, -1)[:, :n]
        fine = self.screen.fine.reshape(-1, -(-features // 32), 1, 16)
        fine = np.concatenate([fine & 15, fine >> 4], 2).reshape(len(fine), -1)
        self.r = fine[:n, :features].astype(np.int64) - 8
        self.norm, self.error, self.scale, self.fine_error = bounds.astype(np.float64)
        self.row_scale, self.reach, self.size = self.block.bounds.astype(np.float64).T


def case(kind, k, dtype, m=4, n=520, **options):
    weight = numbers(kind, n, k, dtype, 1)
    with np.errstate(over="ignore", under="ignore"):
        return Case(weight, None, numbers(kind, m, k, dtype, 2), **options)


def narrow(a):
    """What bytes are made of, as float64."""
    with np.errstate(over="ignore", under="ignore"):
        return a.astype(np.float32).astype(np.float64)


def bytes_of(x, scale, levels):
    """The whole numbers of a row, and 256ths of them, follow from its scale."""
    if not scale:
        return np.zeros(len(x))
    by_scale = np.float32(1) / np.float32(scale)
    near = np.rint(x.astype(np.float32) * by_scale).astype(np.float64)
    assert np.abs(near).max() <= 127
    rest = (x - scale * near).astype(np.float32)
    return near + (levels == 2) * np.clip(np.rint(rest * (by_scale * 256)), -127, 127) / 256


def length(a):
    return math.sqrt(math.fsum(float(v) ** 2 for v in a))


def dot(a, b):
    """Exact."""
    return sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(a, b, strict=True)),
               Fraction(0))


@pytest.mark.slow
@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", KINDS)
def test_1_bytes_and_residuals_of_classes(kind, k, dtype):
    c = case(kind, k, dtype)
    assert np.abs(c.p).max() <= 127
    for i in range(0, 520, 37):
        w = narrow(c.weight[i])
        if np.isinf(c.norm[i]):
            assert length(w) > 2.0**59
            continue
        rest = [float(Fraction(v) - Fraction(c.scale[i]) * int(q))
                for v, q in zip(w.tolist(), c.p[i].tolist(), strict=True)]
        finer = [float(Fraction(a) - Fraction(c.scale[i]) * int(r) / 16)
                 for a, r in zip(rest, c.r[i].tolist(), strict=True)]
        assert c.norm[i] >= length(w) * (1 - 2**-52)
        assert c.error[i] >= length(rest) * (1 - 2**-52)
        assert c.fine_error[i] >= length(finer) * (1 - 2**-52)
        if kind in ("even", "normal") and k > 1:  # and not much more
            assert c.norm[i] <= length(w) * (1 + 1e-3)
            assert c.error[i] <= length(rest) * (1 + 1e-3)
            assert c.error[i] <= 0.51 * math.sqrt(k) * c.scale[i]
            assert c.fine_error[i] <= length(finer) * (1 + 1e-3)
            assert c.fine_error[i] <= 0.07 * math.sqrt(k) * c.scale[i]


@pytest.mark.slow
@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [1, 2])
def test_1_bytes_and_residuals_of_rows(kind, k, levels, dtype):
    """Reach and size hold the norms of residual and bytes."""
    c = case(kind, k, dtype, levels=levels)
    slack = c.screen.slack
    for i, x in enumerate(narrow(c.x)):
        s = c.row_scale[i]
        q = bytes_of(x, s, levels)
        residual, whole = length(x - s * q), s * length(q)
        assert c.reach[i] >= residual + slack * length(x)
        assert c.size[i] >= whole * (1 + slack)
        if kind in ("even", "normal") and k > 1:
            assert c.reach[i] <= (residual + slack * (whole + residual)) * (1 + 1e-4)
            assert c.size[i] <= whole * (1 + slack) * (1 + 1e-4)


def test_2_sums_of_bytes_are_exact():
    """Rows and classes of whole numbers have no residual: what is left is the sum of bytes."""
    rng = np.random.default_rng(0)
    for k in (5, 1000, 4096):
        x, weight = (rng.integers(-127, 128, (rows, k)).astype(np.float32) for rows in (3, 600))
        x[:, 0], weight[:, 0] = 127, -127
        x[0], weight[7] = 127, 127  # the largest sum there is, and its opposite
        weight[8] = -127
        c = Case(weight, None, x, k=1)
        np.testing.assert_array_equal(c.p, weight)
        assert np.all(c.error < 1e-3)
        c.rows.screening.scan(0, 3)
        exact = x.astype(np.int64) @ weight.T.astype(np.int64)
        for i in range(3):
            found = c.found.index[i, : c.found.count[i]]
            upper = c.found.upper[i, : c.found.count[i]].astype(np.float64)
            width = c.reach[i] * c.norm[found] + c.size[i] * c.error[found]
            assert exact[i].argmax() in found
            np.testing.assert_allclose(upper - width, exact[i, found], rtol=3e-7, atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [1, 2])
def test_3_cauchy_and_schwarz(kind, k, levels, dtype):
    c = case(kind, k, dtype, levels=levels)
    for i, x in enumerate(narrow(c.x)):
        s = c.row_scale[i]
        q = bytes_of(x, s, levels)
        residual, whole = length(x - s * q), s * length(q)
        for j in range(0, 520, 41):
            about = Fraction(s) * Fraction(c.scale[j]) * Fraction(float(q @ c.p[j]))  # exact
            off = abs(float(dot(x, narrow(c.weight[j])) - about))
            assert off <= (residual * c.norm[j] + whole * c.error[j]) * (1 + 1e-12) + 1e-300


@pytest.mark.slow
@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "tiny"])
@pytest.mark.parametrize("biased", [False, True])
def test_4_rounding_of_the_logit(kind, k, biased, dtype):
    weight, x = numbers(kind, 20, k, dtype, 1), numbers(kind, 4, k, dtype, 2)
    bias = numbers("normal", 1, 20, dtype, 3)[0] if biased else np.zeros(20, dtype)
    z = ll.LinearHead(weight, bias).logits(x)
    h = min(k, KC) + -(-k // KC) + 1
    gamma = h * U / (1 - h * U)
    for i in range(4):
        for j in range(20):
            exact = dot(x[i], weight[j]) + Fraction(float(bias[j]))
            off = abs(float(Fraction(float(z[i, j])) - exact))
            most = gamma * (length(x[i]) * length(weight[j]) + abs(float(bias[j])))
            assert off <= most + (k + 16) * 2.0**-124


@pytest.mark.slow
@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "tiny"])
def test_4_float64_in_float32(kind, k):
    weight, x = numbers(kind, 20, k, np.float64, 1), numbers(kind, 4, k, np.float64, 2)
    for a in x:
        for w in weight:
            off = abs(float(dot(a, w) - dot(narrow(a), narrow(w))))
            assert off <= 3 * U * length(a) * length(w)


def test_4_slack_is_more_than_that():
    for k in (1, 255, 256, 257, 512, 513, 4096, 65536):
        h = min(k, KC) + -(-k // KC) + 1
        assert screen.slack_of(k) >= h * U / (1 - h * U) + 128 * U * 0.999


@pytest.mark.slow
@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("levels", [1, 2])
def test_5_bounds(kind, k, biased, levels, dtype):
    """No logit is outside its bounds, as far as they can be seen from outside."""
    weight, x = numbers(kind, 1200, k, dtype, 1), numbers(kind, 9, k, dtype, 2)
    bias = numbers("normal", 1, 1200, dtype, 3)[0] if biased else None
    with np.errstate(over="ignore", under="ignore"):
        c = Case(weight, bias, x, k=2, levels=levels)
        c.rows.screening.scan(0, 5)
        z = c.plain.logits(x).astype(np.float64)
    for i in range(9):
        if c.found.count[i] < 0:
            continue
        found = c.found.index[i, : c.found.count[i]]
        assert len(set(found.tolist())) == len(found)
        assert np.all(c.found.upper[i, : len(found)] >= z[i, found])
        best = np.sort(c.found.best[i])
        assert np.all(best <= np.sort(z[i])[-2:])
        assert c.found.least[i] <= np.sort(z[i])[-2]
        assert set(np.flatnonzero(z[i] >= c.found.least[i])) <= set(found)


@pytest.mark.slow
@pytest.mark.parametrize("k", K)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("levels", [1, 2])
def test_5_bounds_by_16ths(kind, k, biased, levels, dtype):
    """No logit is outside the bounds that candidates get by 16ths and by a level of their rows."""
    weight, x = numbers(kind, 1200, k, dtype, 1), numbers(kind, 9, k, dtype, 2)
    bias = numbers("normal", 1, 1200, dtype, 3)[0] if biased else None
    with np.errstate(over="ignore", under="ignore"):
        c = Case(weight, bias, x, k=2, levels=levels)
        c.rows.screening.scan(0, 5)
        z = c.plain.logits(x).astype(np.float64)
    before, count = c.found.upper.copy(), c.found.count.copy()
    c.found.least[count >= 0] = -np.inf
    kept = [c.found.index[i, : count[i]].tolist() for i in range(9)]
    c.rows.screening.refine()
    np.testing.assert_array_equal(c.found.count, count)
    for i in np.flatnonzero(count >= 0):
        found = c.found.index[i, : count[i]]
        assert found.tolist() == kept[i]
        upper = c.found.upper[i, : count[i]]
        assert np.all(upper >= z[i, found])
        np.testing.assert_array_equal(upper[:2], before[i, :2])
        assert np.all(upper[2:] <= before[i, 2 : count[i]])
        if kind in ("even", "normal") and k > 8:  # and much of what they lacked is gone
            width = c.reach[i] * c.norm + c.size[i] * c.error
            fine = c.size[i] * c.fine_error * (1.5 if levels == 1 else 2.5)
            assert np.all(upper[2:] - z[i, found[2:]] <= (2 * fine + 0.1 * width)[found[2:]])
    c.rows.screening.lift(2)
    for i in np.flatnonzero(count > 2):
        assert c.found.least[i] <= np.sort(z[i])[-2]


@pytest.mark.parametrize(("softcap", "temperature"), [(30.0, 1.0), (0.5, 1.0), (None, 0.3),
                                                      (None, 1e20), (None, 1e38), (3.0, 7.0),
                                                      (1e-3, 1e-3)])
def test_6_through_softcap_and_temperature(softcap, temperature, dtype):
    """Exact results of the first round rule out no class that they are not larger than."""
    rng = np.random.default_rng(5)
    z = np.sort(rng.standard_normal(1500) * rng.choice([1e-3, 1, 20], 1500)).astype(dtype)
    z = np.concatenate([z, np.nextafter(z, dtype.type(np.inf)), np.zeros(12, dtype)])
    options = {"softcap": softcap, "temperature": temperature}
    c = Case(z[:, None], None, np.ones((1, 1), dtype), k=1, **options)
    y = c.plain.logits(np.ones((1, 1), dtype))[0]
    for _ in range(3):
        c.rows.screening.scan(0, 2)
        before = int(c.found.count[0])
        c.rows.screening.tighten(c.rows.job, 0)
        if before < 0:
            break
        worst = y[c.found.index[0, 0]]
        assert np.all(y[z < c.found.least[0]] < worst)


def test_2_and_those_of_second_levels():
    """What a second level adds is what the first one lacks."""
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (600, 40)).astype(np.float32)
    x = rng.integers(-126, 127, (7, 40)) + rng.integers(-127, 128, (7, 40)) / 256
    x = x.astype(np.float32)
    x[:, 0], weight[:, 0] = 127, -127
    c = Case(weight, None, x, k=1, levels=2)
    c.rows.screening.scan(0, 3)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    for i in range(7):
        found = c.found.index[i, : c.found.count[i]]
        assert exact[i].argmax() in found
        assert len(found) < 20
        width = c.reach[i] * c.norm[found] + c.size[i] * c.error[found]
        assert np.all(width < 30)
        np.testing.assert_allclose(
            c.found.upper[i, : len(found)] - width, exact[i, found], rtol=3e-7, atol=0.1)


def twins(k, by):
    """A class whose logit is all residual, by the row's or its own, and one just below it."""
    x, weight = np.zeros((1, k), np.float32), np.zeros((600, k), np.float32)
    exact, halfway = np.ones(k, np.float32), np.full(k, 0.49, np.float32)
    exact[0], halfway[0] = 0, 127
    x[0], weight[300] = (halfway, exact) if by == "row" else (exact, halfway)
    best = float(x[0].astype(np.float64) @ weight[300].astype(np.float64))
    if by == "row":  # bytes tell this one well
        weight[100, 0] = 0.97 * best / 127
    else:
        weight[100, 1:] = np.float32(0.97 * best / (k - 1))
    return weight, x


@pytest.mark.parametrize("by", ["row", "class"])
def test_7_nothing_can_be_taken_off_the_bounds(by):
    """As they are they keep the best class; a tenth off what they rest on, and it is lost."""
    weight, x = twins(65, by)
    x = np.repeat(x, 5, axis=0)  # fewer rows have two levels
    head = ll.LinearHead(weight, screen="int8")
    assert ll.LinearHead(weight).predict(x).tolist() == [300] * 5
    assert head.predict(x).tolist() == [300] * 5
    assert head.screen_stats.fell_back == 0
    head._layer.screen.bounds[:, 0 if by == "row" else 1] *= np.float32(0.9)
    assert head.predict(x).tolist() == [100] * 5
    assert head.screen_stats.fell_back == 0


def test_7_nor_off_those_by_16ths():
    """The same of a class whose logit is what 16ths lack."""
    weight, x = np.zeros((600, 65), np.float32), np.ones((5, 65), np.float32)
    x[:, 0] = 0
    weight[[200, 300], 0] = 127
    weight[300, 1:] = 0.031
    weight[100, 1:] = 0.97 * 0.031
    weight[200, 1:33], weight[200, 33:] = 0.49, -0.49  # the most promising, made exact first
    head = ll.LinearHead(weight, screen="int8")
    assert ll.LinearHead(weight).predict(x).tolist() == [300] * 5
    assert head.predict(x).tolist() == [300] * 5
    assert head.screen_stats.rescored == 3
    head._layer.screen.bounds[:, 3] *= np.float32(0.9)
    assert head.predict(x).tolist() == [100] * 5
    assert head.screen_stats.fell_back == 0


def test_7_equals_are_not_ruled_out():
    """The k-th best keeps those that are as large as it is, whose index may be lower."""
    weight = np.zeros((2000, 8), np.float32)
    weight[[20, 30, 1500], 0] = 1
    head = ll.LinearHead(weight, screen="int8")
    x = np.eye(8, dtype=np.float32)[:1]
    assert head.topk(x, 2, normalize=False).index.tolist() == [[20, 30]]
    assert head.screen_stats.rescored == 3


@pytest.mark.parametrize("k", K)
def test_8_what_is_left_is_exact(k, dtype):
    rng = np.random.default_rng(k)
    weight, x = (rng.standard_normal((rows, k)).astype(dtype) for rows in (3000, 17))
    bias = rng.standard_normal(3000).astype(dtype)
    a = ll.LinearHead(weight, bias, screen="int8", softcap=9.0).topk(x, 5, normalize=False)
    z = ll.LinearHead(weight, bias, softcap=9.0).logits(x)
    assert a.logit.tobytes() == np.take_along_axis(z, a.index, 1).tobytes()
    order = np.lexsort((np.broadcast_to(np.arange(3000), z.shape), -z), axis=1)
    np.testing.assert_array_equal(a.index, order[:, :5])
