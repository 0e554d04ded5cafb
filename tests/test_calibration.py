"""Temperatures of least loss, and how far probabilities are true."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory import MIB, peak_again
from support.oracle import COMPILED, Truth, logits

import logitless as ll
from logitless._calls import temperature
from logitless._engines.choice import engine
from logitless._engines.interface import Request

CLASSES = [1, 2, 7, 16, 17, 33, 511, 513, 4097]


@pytest.fixture
def passes(monkeypatch):
    """How many passes there have been."""
    counted = []
    inner = temperature._derivatives

    def derivatives(*args):
        counted.append(args)
        return inner(*args)

    monkeypatch.setattr(temperature, "_derivatives", derivatives)
    return counted


def derivatives(z, target, t, weight=1.0):
    """Sums of those of the losses by the logarithm of the temperature, in float64."""
    truth = Truth(z / t)
    mean = (truth.proba * -truth.below).sum(axis=1)
    variance = (truth.proba * truth.below**2).sum(axis=1) - mean**2
    if target.ndim == 2:
        mass, gap = target.sum(axis=1), (target * truth.below).sum(axis=1)
    else:
        mass, gap = 1.0, truth.below[np.arange(len(z)), target]
    return (weight * (gap + mass * mean)).sum(), (weight * mass * variance).sum()


def step(z, target, t, weight=1.0):
    """How far Newton's method would go from a temperature, on a logarithmic scale."""
    slope, curvature = derivatives(z, target, t, weight)
    return slope / curvature


def mean_loss(z, target, t):
    return Truth(z / t).loss(target).mean()


def noisy(z, rng, noise):
    """Classes drawn from the softmax of logits at another temperature."""
    return (z / noise + rng.gumbel(size=z.shape)).argmax(axis=1)


@pytest.mark.slow
@settings(max_examples=30)
@given(n=st.sampled_from(CLASSES[1:]), m=st.sampled_from([40, 97]), seed=st.integers(0, 99),
       dtype=st.sampled_from([np.float32, np.float64]), noise=st.sampled_from([0.4, 1.0, 3.0]),
       own=st.sampled_from([1.0, 0.3, 4.0]), softcap=st.sampled_from([None, 4.0]),
       weighted=st.booleans(), soft=st.booleans())
def test_no_other_temperature_is_better(n, m, seed, dtype, noise, own, softcap, weighted, soft):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((m, 6)).astype(dtype), rng.standard_normal((n, 6)).astype(dtype)
    b = rng.standard_normal(n).astype(dtype)
    z = logits(x, w, b, softcap=softcap)
    target = noisy(z, rng, noise)
    head = ll.LinearHead(w, b, softcap=softcap, temperature=own)
    weight = rng.random(m) * rng.integers(0, 2, m) + 1e-3 if weighted else np.ones(m)
    if soft:
        target = (0.5 * np.eye(n)[target] + 0.5 * rng.dirichlet(np.ones(n), m)).astype(dtype)
        target *= rng.random((m, 1))
    exact = np.asarray(target, float) if soft else target
    try:
        t = ll.fit_temperature(head, x, target, sample_weight=weight if weighted else None)
    except ValueError as error:  # few data may have the best at an end
        end, sign = (own * 2**20, 1) if "infinity" in str(error) else (own / 2**20, -1)
        slope, _ = derivatives(z, exact, end, weight)
        assert sign * slope > -1e-6 * weight.sum()
        return
    assert abs(step(z, exact, t, weight)) < (2e-5 if dtype == np.float32 else 1e-11)
    assert head.with_temperature(t).loss(x, target).mean() == pytest.approx(
        mean_loss(z, exact, t), rel=1e-5)


@pytest.mark.parametrize(("noise", "own"), [(1.2, 1.0), (2.5, 1.0), (0.5, 1.0), (2.0, 2.0)])
def test_it_is_what_an_optimiser_finds(noise, own, passes):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((200, 8)), rng.standard_normal((30, 8))
    z = x @ w.T
    target = noisy(z, rng, noise)
    t = ll.fit_temperature(ll.LinearHead(w, temperature=own), x, target)
    best = optimize.minimize_scalar(lambda u: mean_loss(z, target, math.exp(u)), bounds=(-4, 4),
                                    method="bounded", options={"xatol": 1e-9})
    assert t == pytest.approx(math.exp(best.x), rel=1e-6)  # all that losses can tell
    assert mean_loss(z, target, t) <= best.fun * (1 + 1e-14)
    assert len(passes) <= 6


@pytest.mark.parametrize("factor", [2.0**-19, 1e-4, 1e4, 2.0**19])
def test_far_from_that_of_the_head(factor, passes):
    """The first steps lead beyond it, to as far as it is sought."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((200, 8)), rng.standard_normal((30, 8))
    target = noisy(x @ w.T, rng, 1.0)
    best = ll.fit_temperature(ll.LinearHead(w), x, target)
    t = ll.fit_temperature(ll.LinearHead(factor * w), x, target)
    assert t == pytest.approx(factor * best, rel=1e-6)
    assert len(passes) <= 16


def test_rows_are_taken_some_at_a_time(monkeypatch):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((300, 5)), rng.standard_normal((40, 5))
    target = noisy(x @ w.T, rng, 2.0)
    head = ll.LinearHead(w)
    whole = ll.fit_temperature(head, x, target)
    monkeypatch.setattr("logitless._calls.batch.ROWS_AT_ONCE", 7)
    assert ll.fit_temperature(head, x, target) == pytest.approx(whole, rel=1e-13)
    with ll.threads(2):
        assert ll.fit_temperature(head, x, target) == pytest.approx(whole, rel=1e-13)


def test_shift_and_leading_shapes():
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((4, 30, 5)), rng.standard_normal((20, 5))
    target = rng.integers(0, 20, (4, 30))
    target[:, 2:] = noisy((x[:, :-2] @ w.T).reshape(-1, 20), rng, 2.0).reshape(4, 28)
    head = ll.LinearHead(w)
    expected = ll.fit_temperature(head, x[:, :-2].reshape(-1, 5), target[:, 2:].reshape(-1))
    assert ll.fit_temperature(head, x, target, shift=2) == pytest.approx(expected, rel=1e-12)


def test_rows_that_do_not_count_may_hold_anything():
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((90, 5)), rng.standard_normal((20, 5))
    target = noisy(x @ w.T, rng, 2.0)
    head = ll.LinearHead(w)
    expected = ll.fit_temperature(head, x[10:], target[10:])
    x[:10], weight = np.nan, np.arange(90) >= 5
    x[5:8] = np.inf
    target[3:10] = -100
    found = ll.fit_temperature(head, x, target, sample_weight=weight)
    assert found == pytest.approx(expected, rel=1e-12)


def test_impossible_classes_take_no_part():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((90, 5)), rng.standard_normal((20, 5))
    bias = np.zeros(20)
    bias[[0, 7, 19]] = -np.inf
    kept = np.isfinite(bias)
    target = noisy((x @ w.T)[:, kept], rng, 2.0)
    expected = ll.fit_temperature(ll.LinearHead(w[kept]), x, target)
    found = ll.fit_temperature(ll.LinearHead(w, bias), x, np.flatnonzero(kept)[target])
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("head", [ll.LinearHead(np.ones((1, 2)), temperature=0.7),
                                  ll.LinearHead(np.ones((3, 2)), temperature=0.7)])
def test_where_every_temperature_is_as_good_it_is_the_heads_own(head, passes):
    assert ll.fit_temperature(head, [[1.0, 2.0], [3.0, -1.0]], [0, 0]) == 0.7
    assert len(passes) == 1


def test_the_target_is_always_the_best_class(passes):
    with pytest.raises(ValueError, match=r"`target` must be other than the best .* goes to 0"):
        ll.fit_temperature(ll.LinearHead(np.eye(3)), np.eye(3), [0, 1, 2])
    assert len(passes) == 1


@pytest.mark.parametrize("behind", [0.5, 1e-2, 1e-4])
def test_hardly_ever_another_than_the_best_class(behind):
    """Where a single target is behind, and by next to nothing, the temperature is next to 0."""
    x = np.eye(3)[[0] * 50 + [1]]
    x[-1] = [1, 1 - behind, 0]
    target = np.array([0] * 50 + [1])
    t = ll.fit_temperature(ll.LinearHead(np.eye(3)), x, target)
    assert abs(step(x, target, t)) < 1e-9


@pytest.mark.parametrize("scale", [1.0, 1e-3, 30.0])
def test_targets_that_go_against_the_logits(scale, passes):
    with pytest.raises(ValueError, match="goes to infinity"):
        ll.fit_temperature(ll.LinearHead(-scale * np.eye(3)), np.eye(3), [0, 1, 2])
    assert len(passes) <= 6


def test_nearly_equal_to_chance():
    """The temperature is large, not infinite, where the target is a little more likely."""
    rng = np.random.default_rng(6)
    z = rng.standard_normal((4000, 5))
    target = noisy(z, rng, 30.0)
    t = ll.fit_temperature(ll.LinearHead(np.eye(5)), z, target)
    assert t > 10
    assert abs(step(z, target, t)) < 1e-10


@pytest.mark.parametrize(("x", "target", "options", "error", "message"), [
    ([[1, np.nan, 0]], [0], {}, ValueError, "finite loss .* nan in row 0"),
    ([[1, 0, 0], [np.inf, 0, 0]], [1, 0], {}, ValueError, "finite loss .* nan in row 1"),
    ([[1, 0, 0]], [2], {}, ValueError, "finite loss .* inf in row 0"),
    ([[1, 0, 0]], [-100], {}, ValueError, "row that counts, got none"),
    (np.empty((0, 3)), [], {}, ValueError, "row that counts, got none"),
    ([[1, 0, 0]], [0], {"sample_weight": [0.0]}, ValueError, "row that counts, got none"),
    ([[1, 0, 0]] * 2, [0, 0], {"sample_weight": [1, -2.0]}, ValueError, "negative, got -2.0"),
    ([[1, 0, 0]], [3], {}, IndexError, "in row 0"),
    ([[1, 0]], [0], {}, ValueError, "weight.shape"),
    ([[1, 0, 0]], [0], {"sample_weight": [1, 2]}, ValueError, "sample_weight"),
    ([[1, 0, 0], [1e10, 0, 0]], [0, 1], {"sample_weight": [1, 1e305]}, ValueError,
     "derivatives of the loss with a finite sum, got inf"),
])
def test_what_is_refused(x, target, options, error, message):
    head = ll.LinearHead(np.eye(3), [0, 0, -np.inf])
    with pytest.raises(error, match=message):
        ll.fit_temperature(head, np.asarray(x, float), target, **options)


def test_what_is_no_head():
    with pytest.raises(TypeError, match="`head` must be a LinearHead, got ndarray"):
        ll.fit_temperature(np.eye(3), np.eye(3), [0, 1, 2])


@pytest.mark.slow
def test_memory_is_that_of_a_loss():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((100_000, 4), dtype=np.float32)
    head = ll.LinearHead(rng.standard_normal((30, 4), dtype=np.float32), n_threads=1)
    target = head.sample(x[:1], 0, 100_000).reshape(-1)
    x[:] = x[0] * rng.choice([1, 3], (100_000, 1)).astype("f4")
    assert peak_again(lambda: ll.fit_temperature(head, x, target)) < 16 * MIB


@settings(max_examples=40)
@given(n=st.sampled_from(CLASSES), m=st.sampled_from([1, 3, 17, 40]), seed=st.integers(0, 99),
       dtype=st.sampled_from([np.float32, np.float64]), scale=st.sampled_from([0.01, 1.0, 20.0]))
def test_second_moment(n, m, seed, dtype, scale):
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal((m, 5)) * scale).astype(dtype), rng.standard_normal((n, 5))
    layer = engine.make_layer(w.astype(dtype), None, softcap=None, temperature=1.0,
                              pack=bool(seed % 2), screen=False)
    state = engine.score(layer, x, Request(np.dtype(dtype), entropy=True, square=True), None)
    alone = engine.score(layer, x, Request(np.dtype(dtype), entropy=True), None)
    np.testing.assert_array_equal(state.entropy, alone.entropy)
    truth = Truth(logits(x, w.astype(dtype)))
    rest = np.exp(-truth.below)
    rest[np.arange(m), truth.argmax] = 0
    tolerance = 100 * np.finfo(dtype).eps * (1 + 20 * scale)
    np.testing.assert_allclose(state.square, (rest * truth.below**2).sum(axis=1), rtol=tolerance,
                               atol=1e-30)


@pytest.mark.parametrize("options", [{}, {"pack": False}, {"softcap": 3.0}, {"screen": "int8"}],
                         ids=str)
@pytest.mark.parametrize("n", [5, 1000])
def test_the_same_head_with_another_temperature(n, options):
    rng = np.random.default_rng(8)
    w, x = rng.standard_normal((n, 9), dtype="f4"), rng.standard_normal((150, 9), dtype="f4")
    target = rng.integers(0, n, 150)
    given = ll.LinearHead(w, np.ones(n, "f4"), temperature=0.5, **options)
    expected = ll.LinearHead(w, np.ones(n, "f4"), temperature=3.0, **options)
    before = given.loss(x, target)
    head = given.with_temperature(3.0)
    again = copy.deepcopy(head), pickle.loads(pickle.dumps(head)), head.take(np.arange(n))
    for other in head, *again:
        np.testing.assert_array_equal(other.loss(x, target), expected.loss(x, target))
        few = x[:1], target[:1]
        np.testing.assert_array_equal(other.loss(*few), expected.loss(*few))
        np.testing.assert_array_equal(other.topk(x, 3, normalize=False).logit,
                                      expected.topk(x, 3, normalize=False).logit)
        assert repr(other) == repr(expected)
    assert head.screen_stats == expected.screen_stats
    np.testing.assert_array_equal(given.loss(x, target), before)


def test_it_shares_the_weights():
    head = ll.LinearHead(np.ones((1000, 500)))
    assert peak_again(lambda: head.with_temperature(2.0)) < MIB / 10
    unpacked = ll.LinearHead(weight := np.ones((3, 2)), pack=False)
    other = unpacked.with_temperature(2.0)
    weight[0] = 5
    assert other.logits([[1.0, 1.0]]).tolist() == [[5, 1, 1]]


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (np.nan, ValueError),
                                              ("hot", TypeError), (1e-39, ValueError)])
def test_bad_temperatures(value, error):
    with pytest.raises(error, match="`temperature` must"):
        ll.LinearHead(np.eye(3, dtype="f4")).with_temperature(value)


@settings(max_examples=60)
@given(m=st.integers(0, 60), bins=st.integers(1, 20), seed=st.integers(0, 99),
       dtype=st.sampled_from(["f4", "f8", "f2"]))
def test_calibration_error_by_hand(m, bins, seed, dtype):
    rng = np.random.default_rng(seed)
    confidence = rng.choice([*rng.random(20), 0, 1, *np.arange(bins + 1) / bins], m).astype(dtype)
    hit = rng.random(m) < 0.5
    found = ll.calibration_error(confidence, hit, bins=bins)
    assert found.edges.tolist() == np.linspace(0, 1, bins + 1).tolist()
    gaps, total = [], 0.0
    for b, (low, high) in enumerate(zip(found.edges[:-1], found.edges[1:], strict=True)):
        inside = (confidence > low) & (confidence <= high)
        if b == 0:
            inside |= confidence == 0
        assert found.count[b] == inside.sum()
        if not inside.any():
            assert np.isnan([found.confidence[b], found.accuracy[b]]).all()
            continue
        assert found.confidence[b] == pytest.approx(confidence[inside].astype(float).mean())
        assert found.accuracy[b] == pytest.approx(hit[inside].mean())
        gaps.append(abs(confidence[inside].astype(float).mean() - hit[inside].mean()))
        total += inside.sum() * gaps[-1]
    if m == 0:
        assert math.isnan(found.ece)
        assert math.isnan(found.mce)
    else:
        assert found.ece == pytest.approx(total / m)
        assert found.mce == pytest.approx(max(gaps))


@pytest.mark.parametrize(("confidence", "hit", "options", "error", "message"), [
    ([0.5, 1.1], [1, 0], {}, ValueError, r"`confidence` must be in \[0, 1\], got 1.1 in row 1"),
    ([0.5, np.nan], [1, 0], {}, ValueError, "`confidence` .* got nan in row 1"),
    ([-0.1], [1], {}, ValueError, "`confidence` .* got -0.1 in row 0"),
    ([0.5], [2], {}, ValueError, "`hit` must be bool, or 0 or 1, got 2 in row 0"),
    ([0.5], [1, 0], {}, ValueError, r"shape \(m,\), got \(1,\) and \(2,\)"),
    ([[0.5]], [[1]], {}, ValueError, r"shape \(m,\)"),
    (["a"], [1], {}, TypeError, "confidence"),
    ([0.5], [1], {"bins": 0}, ValueError, "`bins` must be between 1 and .*, got 0"),
    ([0.5], [1], {"bins": 2**63}, ValueError, "`bins` must be between 1 and .*, got 9223372036"),
    ([0.5], [1], {"bins": 2.5}, TypeError, "`bins` must be an integer"),
])
def test_what_no_error_is_found_of(confidence, hit, options, error, message):
    with pytest.raises(error, match=message):
        ll.calibration_error(confidence, hit, **options)


def test_probabilities_a_rounding_above_1_are_1():
    assert ll.calibration_error(np.nextafter(np.ones(3, "f4"), 2), [1, 1, 1]).ece == 0


def test_scores_to_calibration():
    rng = np.random.default_rng(9)
    x, w = rng.standard_normal((2000, 5)), 3 * rng.standard_normal((20, 5))
    target = noisy(x @ w.T, rng, 3.0)
    head = ll.LinearHead(w)
    sure, best = (
        ll.calibration_error(s.confidence, s.target_rank == 0)
        for s in (h.score(x, target) for h in (
            head, head.with_temperature(ll.fit_temperature(head, x, target)))))
    assert sure.ece > 0.2
    assert best.ece < 0.05
    np.testing.assert_allclose(head.score(x).confidence, head.predict_proba(x).max(axis=1),
                               rtol=1e-12)


def test_reliability_diagram():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from logitless.plot import reliability

    found = ll.calibration_error([0.9, 0.8, 0.3, 0.95], [1, 0, 0, 1], bins=10)
    ax = reliability(found)
    assert [bar.get_height() for bar in ax.patches] == [0, 0, 1, 1]
    assert [bar.get_x() for bar in ax.patches] == pytest.approx([0.2, 0.7, 0.8, 0.9])
    assert list(ax.lines[1].get_xdata()) == [0.3, 0.8, 0.9, 0.95]
    assert ax.lines[1].get_marker() == "o"  # there is no line between them
    assert f"{found.ece:.3f}" in ax.get_title()
    own = Figure().subplots()
    assert reliability(found, own) is own
    assert len(ll.calibration_error([0.5], [1]).count) == 15
    with pytest.raises(TypeError, match="`calibration` must be"):
        reliability([0.5])


@pytest.mark.slow
def test_plots_leave_pyplot_alone(run_python):
    pytest.importorskip("matplotlib")
    assert run_python("""
import sys, logitless as ll, logitless.plot
print("matplotlib" in sys.modules)
ax = logitless.plot.reliability(ll.calibration_error([0.5], [1]))
ax.figure.savefig("/dev/null", format="svg")
print("matplotlib.pyplot" in sys.modules)
""") == "False\nFalse\n"


def test_without_matplotlib(monkeypatch):
    import sys

    from logitless.plot import reliability

    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "logitless\[plot\]"'):
        reliability(ll.calibration_error([0.5], [1]))


@pytest.mark.skipif(not COMPILED, reason="bits are those of NumPy there")
def test_the_variance_changes_no_other_bit():
    rng = np.random.default_rng(10)
    x, w = rng.standard_normal((40, 5)), rng.standard_normal((4097, 5))
    layer = engine.make_layer(w, None, softcap=None, temperature=1.0, pack=True, screen=False)
    f8 = np.dtype(float)
    a = engine.score(layer, x, Request(f8, entropy=True, square=True, k=3), None)
    b = engine.score(layer, x, Request(f8, entropy=True, k=3), 2)
    for name in ("max", "rest", "log_norm", "entropy", "top_logit"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
