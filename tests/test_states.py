"""States of some of the classes: merged in whatever order, they give what one head does."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from support.layouts import unaligned
from support.oracle import COMPILED, Truth, says

import logitless as ll
from logitless._calls import pickled_parts
from logitless._engines.choice import engine

SPANS = {np.dtype("f4"): 4096, np.dtype("f8"): 2048}
FIELDS = ("loss", "lse", "target_logit", "target_rank", "predicted", "max_logit", "entropy")
OPTIONS = [
    {},
    {"temperature": 0.7, "softcap": 3.0},
    {"label_smoothing": 0.1, "z_loss": 0.01},
    {"entropy_weight": 0.1},
]


def assert_same(found, one, exact=COMPILED, ranks=True):
    """The same scores: in every bit, or as far as plain NumPy promises."""
    same = np.testing.assert_array_equal if exact else close
    for name in FIELDS:
        ours, theirs = getattr(found, name), getattr(one, name)
        if name == "target_rank" and not ranks:
            continue
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == theirs.dtype
            (same if ours.dtype.kind == "f" else np.testing.assert_array_equal)(ours, theirs, name)
    assert (found.top is None) == (one.top is None)
    if one.top is not None:
        np.testing.assert_array_equal(found.top.index, one.top.index)
        same(found.top.logit, one.top.logit)
        same(found.top.log_prob, one.top.log_prob)


def close(ours, theirs, name=""):
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5, err_msg=name)


def grid(rng, *shape):
    """Numbers whose products and their sums are exact, so that plain NumPy finds the same ties."""
    return rng.integers(-8, 9, shape) / 4


class Problem:
    """Rows, classes, targets and options, and what a part of the classes takes of them."""

    def __init__(self, seed, dtype, m, n, options, *, soft=False, special=False, weighted=False,
                 k=5):
        rng = np.random.default_rng(seed)
        self.x, self.weight = grid(rng, m, 3).astype(dtype), grid(rng, n, 3).astype(dtype)
        self.bias = grid(rng, n).astype(dtype)
        if special:
            self.bias[rng.integers(0, n, n // 2)] = -np.inf
            self.bias[: rng.integers(0, n)] = -np.inf
            # Large ones whose products are exact, so that what they cancel to is, too.
            self.x[:: 3] = rng.choice([np.nan, np.inf, -0.0, 2.0**100], (len(self.x[::3]), 3))
            self.weight[rng.integers(0, n)] = rng.choice([np.nan, np.inf, 0.0])
        self.target = rng.integers(0, n, m)
        self.target[::4] = -100
        if soft:
            self.target = rng.random((m, n)) * (rng.random((m, n)) < 0.1)
            self.target[::3] = np.eye(1, n, n // 2)
        self.options = dict(options)
        self.class_weight = rng.random(n).round(1) if weighted else None
        if weighted:
            self.options["sample_weight"] = rng.random(m).round(1)
        self.k = min(n, k)

    def arguments(self, lo=0, hi=None):
        target = self.target[:, lo:hi] if self.target.ndim == 2 else self.target
        weight = None if self.class_weight is None else self.class_weight[lo:hi]
        return {"target": target, "k": self.k, "entropy": True, "class_weight": weight,
                "bias": self.bias[lo:hi], **self.options}

    def state(self, lo, hi, **more):
        return ll.RowState.of(self.x, self.weight[lo:hi], first=lo,
                              **{**self.arguments(lo, hi), **more})

    def one(self):
        return ll.linear_score(self.x, self.weight, **self.arguments())


@st.composite
def problems(draw, soft=False, special=False):
    dtype = draw(st.sampled_from(["f4", "f8"]))
    span = SPANS[np.dtype(dtype)]
    n = draw(st.sampled_from([1, 5, 16, 17, 300, 600, span - 1, span, span + 1, span + 10,
                              2 * span + 17, 3 * span]))
    m = draw(st.sampled_from([0, 1, 2, 7, 16, 33]))
    return Problem(draw(st.integers(0, 1 << 16)), dtype, m, n, draw(st.sampled_from(OPTIONS)),
                   soft=soft, special=special, weighted=draw(st.booleans()),
                   k=draw(st.sampled_from([0, 1, 5, 40])))


def merged(states):
    states = list(states)
    for state in states[1:]:
        assert states[0].merge(state) is states[0]
    return states[0]


def cut(draw, n, step):
    """Bounds at multiples of a step, and the parts between them in some order."""
    inner = draw(st.sets(st.sampled_from(range(step, n, step)))) if n > step else ()
    bounds = [0, *sorted(inner), n]
    return draw(st.permutations(list(itertools.pairwise(bounds))))


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data(), st.sampled_from(["plain", "soft", "special"]), st.booleans())
def test_spans_in_any_order_have_the_bits_of_one_head(data, kind, pickled):
    problem = data.draw(problems(soft=kind == "soft", special=kind == "special"))
    parts = cut(data.draw, len(problem.weight), SPANS[problem.x.dtype])
    states = [problem.state(lo, hi) for lo, hi in parts]
    if pickled:
        states = [pickle.loads(pickle.dumps(state)) for state in states]
    found = merged(states).scores()
    assert_same(found, problem.one(), COMPILED and problem.x.dtype in SPANS, len(states) == 1)


@settings(max_examples=80)
@given(st.data(), st.integers(2, 5))
def test_cuts_anywhere_have_the_same_to_rounding_in_any_order(data, count):
    problem = data.draw(problems(soft=data.draw(st.booleans())))
    n = len(problem.weight)
    inner = data.draw(st.sets(st.integers(1, max(n - 1, 1)), max_size=count))
    parts = list(itertools.pairwise(sorted({0, *inner, n})))
    states = [problem.state(lo, hi) for lo, hi in parts]
    in_order = merged(map(copy.copy, states)).scores()
    assert_same(in_order, problem.one(), False, len(states) == 1)
    order = data.draw(st.permutations(states))
    assert_same(merged(map(copy.copy, order)).scores(), in_order, True)
    middle = len(order) // 2 or 1  # a tree
    halves = [merged(map(copy.copy, half)) for half in (order[:middle], order[middle:]) if half]
    assert_same(merged(halves).scores(), in_order, True)


@settings(max_examples=80)
@given(st.data(), st.booleans())
def test_ranks_of_targets_whose_logits_are_known(data, special):
    problem = data.draw(problems(special=special))
    parts = cut(data.draw, len(problem.weight), SPANS[problem.x.dtype])
    head = {name: problem.options[name] for name in ("softcap", "temperature")
            if name in problem.options}
    logit = np.full(len(problem.x), np.nan, problem.x.dtype)
    for lo, hi in parts:
        found = ll.RowState.target_logits(problem.x, problem.weight[lo:hi], problem.target,
                                          problem.bias[lo:hi], first=lo, **head)
        elsewhere = (problem.target < lo) | (problem.target >= hi)
        assert np.isnan(found[elsewhere]).all()
        logit = np.fmax(logit, found)
    one = problem.one()
    if len(problem.weight) > 16:
        (np.testing.assert_array_equal if COMPILED else close)(logit, one.target_logit)
    states = [problem.state(lo, hi, target_logit=logit) for lo, hi in parts]
    assert_same(merged(states).scores(), one)


def test_ranks_without_them_where_one_state_has_all_targets(dtype, rng):
    problem = Problem(1, dtype, 9, 9000, {})
    problem.target[:] = rng.integers(4096, 8192, 9)
    problem.target[2] = -100
    states = [problem.state(0, 4096), problem.state(4096, 9000)]
    assert merged(states).scores().target_rank is None
    logit = problem.one().target_logit
    states = [problem.state(0, 4096, target_logit=logit), problem.state(4096, 9000)]
    assert_same(merged(states).scores(), problem.one())


def test_logits_known_are_those_of_targets_elsewhere(dtype):
    """Nothing but ranks depends on them, and those alone that are asked for."""
    problem = Problem(1, dtype, 20, 9000, {})
    one = problem.one()
    for wrong, same_rank in (0.0, False), (np.nan, True):
        states = []
        for lo, hi in (0, 4096), (4096, 9000):
            here = (problem.target >= lo) & (problem.target < hi)
            logit = np.where(here if same_rank else True, wrong, one.target_logit)
            states.append(problem.state(lo, hi, target_logit=logit))
        if same_rank:
            with says(ValueError, "same `target_logit`"):
                copy.copy(states[0]).merge(states[1])
            ranks = sum(state._held.part.rank for state in states)
            np.testing.assert_array_equal(ranks[one.target_rank >= 0],
                                          one.target_rank[one.target_rank >= 0])
        else:
            assert_same(merged(states).scores(), one, ranks=False)


@pytest.mark.parametrize("n", [5, 10, 16])
def test_few_classes_that_are_not_all(n, dtype, rng):
    """They have a way of their own where they are all there are."""
    x, w = grid(rng, 40, 3).astype(dtype), grid(rng, 400, 3).astype(dtype)
    w[:n] *= 2  # so that some are among the best
    t = rng.integers(0, 400, 40)
    for target in None, t, t % n:
        one = ll.linear_score(x, w, target, k=3)
        states = [ll.RowState.of(x, w[:n], target=target, k=3, target_logit=one.target_logit),
                  ll.RowState.of(x, w[n:], first=n, target=target, k=3,
                                 target_logit=one.target_logit)]
        assert_same(merged(states).scores(), one, False)


def test_scores_without_ranks_count_rows(rng):
    problem = Problem(3, "f4", 9, 9000, {})
    found, one = merged([problem.state(0, 4096), problem.state(4096, 9000)]).scores(), problem.one()
    assert found.target_rank is None
    assert found.perplexity == pytest.approx(one.perplexity, rel=1e-5)
    with pytest.raises(ValueError, match="accuracy"):
        _ = found.accuracy


def test_against_the_truth(dtype):
    problem = Problem(5, dtype, 20, 9000, {})
    problem.target[:] = np.arange(20) * 400
    found = merged(problem.state(lo, hi) for lo, hi in [(5000, 9000), (17, 5000), (0, 17)]).scores()
    truth = Truth((problem.x @ problem.weight.T + problem.bias).astype("f8"))
    rtol = 60 * np.finfo(dtype).eps
    np.testing.assert_allclose(found.loss, truth.loss(problem.target), rtol=rtol)
    np.testing.assert_allclose(found.entropy, truth.entropy, rtol=rtol)
    np.testing.assert_array_equal(found.predicted, truth.argmax)
    np.testing.assert_array_equal(found.top.index, truth.order(5))


@pytest.mark.parametrize("soft", ["dense", "one-hot", "sparse", "views"])
def test_class_probabilities(soft, rng):
    """Rows that are one-hot over all classes are class indices, as in one head."""
    m, n = 8, 9000
    x, w = grid(rng, m, 3).astype("f4"), grid(rng, n, 3).astype("f4")
    t = np.zeros((m, n), "f4")
    t[np.arange(m), rng.integers(0, n, m)] = 1
    if soft != "one-hot":
        t[1, 5] += 0.5  # in another shard than the 1, or beside it
        t[2], t[3, ::7], t[4], t[5:8] = 0, 0.25, 1e-50, 0
        t[5, [5, 5000]], t[6, [5, 5000]], t[7, [5, 5000]] = (0.5, 1), (1, 0.5), 1
    cut_out = {"dense": lambda lo, hi: t[:, lo:hi], "one-hot": lambda lo, hi: t[:, lo:hi],
               "views": lambda lo, hi: np.repeat(t[:, lo:hi], 2, axis=1)[:, ::2],
               "sparse": lambda lo, hi: pytest.importorskip("scipy.sparse").csr_array(t[:, lo:hi])}
    for bounds in [0, n], [0, 4096, 8192, n], [0, 8192, n]:
        states = [ll.RowState.of(x, w[lo:hi], first=lo, target=cut_out[soft](lo, hi))
                  for lo, hi in itertools.pairwise(bounds)]
        found, one = merged(states).scores(), ll.linear_score(x, w, t)
        assert_same(found, one, ranks=len(states) == 1)
        assert (found.target_logit is None) == (soft != "one-hot")


@pytest.mark.parametrize("kind", ["f2", "bfloat16", "i1", "i4", ">f4", "unaligned", "fortran"])
@pytest.mark.parametrize("pack", [True, False])
def test_weights_and_rows_of_any_kind(kind, pack, rng):
    x, w = grid(rng, 40, 24), 4 * grid(rng, 4500, 24)
    if kind == "bfloat16":
        kind = pytest.importorskip("ml_dtypes").bfloat16
    form = {"unaligned": unaligned, "fortran": np.asfortranarray}.get(kind, np.asarray)
    w = form(w.astype("f4" if form is not np.asarray else kind))
    t = rng.integers(0, 4500, 40)
    for rows in x.astype("f4"), form(x.astype(w.dtype if w.dtype.kind != "i" else "f4")):
        one = ll.linear_score(rows, w, t, k=3)
        states = [ll.RowState.of(rows, ll.LinearHead(w[lo:hi], pack=pack), first=lo, target=t, k=3)
                  for lo, hi in ((4096, 4500), (0, 4096))]
        assert_same(merged(states).scores(), one, ranks=False)


@pytest.mark.compiled_only
@pytest.mark.parametrize("m", [3, 50, 1200])
def test_threads(m, eager, rng, monkeypatch):
    """They share out rows, or spans, a few at a time: the bits are the same."""
    for name in "STATE_BYTES", "SPANS_PER_THREAD":
        monkeypatch.setattr(f"logitless._engines.compiled.sharing.{name}", 1)
    n = 40_000
    x, w = rng.standard_normal((m, 5), np.float32), rng.standard_normal((n, 5), np.float32)
    t = rng.integers(0, n, m)
    one = ll.linear_score(x, w, t, k=20, entropy=True)
    for n_threads in 1, 4:
        for w_own in w, w.astype("f8").astype(">f4"):
            states = [ll.RowState.of(x, w_own[lo:hi], first=lo, target=t, k=20, entropy=True,
                                     target_logit=one.target_logit, n_threads=n_threads)
                      for lo, hi in ((20480, n), (0, 20480))]
            assert_same(merged(states).scores(), one)


def test_leading_shapes_and_shifts(rng):
    x, w = grid(rng, 4, 3, 5, 2).astype("f4"), grid(rng, 5000, 2).astype("f4")
    t, temperature = rng.integers(0, 5000, (4, 3, 5)), rng.random((4, 3, 5)) + 0.5
    for rows in x, x.transpose(1, 0, 2, 3), x[:, ::2]:
        lead = rows.shape[:-1]
        own = {"target": t.reshape(-1)[: np.prod(lead)].reshape(lead), "k": 2,
               "temperature": temperature.reshape(-1)[: np.prod(lead)].reshape(lead)}
        for shift in 0, 1:
            one = ll.linear_score(rows, w, shift=shift, **own)
            states = [ll.RowState.of(rows, w[lo:hi], first=lo, shift=shift, **own)
                      for lo, hi in ((0, 4096), (4096, 5000))]
            assert_same(merged(states).scores(), one, ranks=False)
    state = ll.RowState.of(x[0, 0, 0], w, target=7, k=2)
    assert_same(state.scores(), ll.linear_score(x[0, 0, 0], w, 7, k=2))
    assert state.scores().loss.shape == ()


def test_rows_by_the_block(rng, monkeypatch):
    """What has no view of all rows is copied some at a time."""
    monkeypatch.setattr("logitless._calls.parts.ROWS_AT_ONCE", 7)
    problem = Problem(2, "f4", 33, 5000, OPTIONS[2], weighted=True)
    states = [problem.state(0, 4096), problem.state(4096, 5000)]
    assert_same(merged(states).scores(), problem.one(), ranks=False)
    logit = problem.one().target_logit
    found = ll.RowState.target_logits(problem.x, problem.weight, problem.target, problem.bias)
    (np.testing.assert_array_equal if COMPILED else close)(found, logit)


def test_nothing_asked(dtype):
    problem = Problem(4, dtype, 6, 5000, {})
    x, w = problem.x, problem.weight
    states = [ll.RowState.of(x, w[4096:], first=4096), ll.RowState.of(x, w[:4096])]
    assert_same(merged(states).scores(), ll.linear_score(x, w))


def test_a_state_is_its_own():
    """Merging changes the one state alone, and a copy is another."""
    problem = Problem(6, "f4", 6, 9000, {})
    a, b, c = (problem.state(*part) for part in ((0, 4096), (4096, 8192), (8192, 9000)))
    kept = [pickle.dumps(state) for state in (a, b, c)]
    whole = copy.copy(b).merge(c).merge(a)
    assert [pickle.dumps(state) for state in (a, b, c)] == kept
    assert whole.classes == [(0, 9000)]
    assert_same(whole.scores(), whole.scores(), True)
    assert whole.merge(ll.RowState.of(problem.x, problem.weight[:3], first=9000,
                                      **{**problem.arguments(0, 3)})).classes == [(0, 9003)]


def test_memory_of_a_state_does_not_grow_with_classes_that_are_merged():
    problem = Problem(6, "f4", 50, 5 * 4096, {})
    whole = problem.state(0, 4096)
    size, pickled = whole.nbytes, len(pickle.dumps(whole))
    for lo in range(4096, 5 * 4096, 4096):
        whole.merge(problem.state(lo, lo + 4096))
    assert whole.nbytes == size
    assert len(pickle.dumps(whole)) == pickled
    later = [problem.state(4096, hi).nbytes for hi in (8192, 3 * 4096)]
    if COMPILED:
        assert later[1] - later[0] == 50 * 3 * 4  # max, rest and moment of a span


@pytest.mark.parametrize(("other", "message"), [
    ({"lo": 2000}, "must be of different classes to be merged, both have [2000, 2500)"),
    ({"lo": 0, "hi": 5000}, "both have [0, 2500)"),
    ({"x": "rows"}, "same `shape` to be merged, got (6,) and (5,)"),
    ({"x": "f8"}, "same `dtype` to be merged, got float32 and float64"),
    ({"k": 2}, "same `k` to be merged, got 5 and 2"),
    ({"entropy": False}, "same `entropy`"),
    ({"target": None}, "same `targets` to be merged, got classes and none"),
    ({"target": np.arange(6)}, "same `target` to be merged, got -1 and 0 in row 0"),
    ({"softcap": 2.0}, "same `softcap` to be merged, got 0.0 and 2.0"),
    ({"temperature": 2.0}, "same `temperature` to be merged, got 1.0 and 2.0"),
    ({"temperature": np.ones(6)}, "same `temperature` to be merged, got one of them with it"),
    ({"label_smoothing": 0.5}, "same `label_smoothing`"),
    ({"z_loss": 0.5}, "same `z_loss`"),
    ({"entropy_weight": 0.5}, "same `entropy_weight`"),
    ({"sample_weight": np.ones(6)}, "same `sample_weight`"),
    ({"class_weight": np.ones(500)}, "same `class_weight` to be merged, got False and True"),
])
def test_states_that_do_not_belong_together(other, message):
    problem = Problem(7, "f4", 6, 5000, {})
    state = problem.state(0, 2500, target_logit=np.zeros(6))
    before = pickle.dumps(state)
    lo, hi = other.pop("lo", 2500), other.pop("hi", 3000)
    if "x" in other:
        problem.x = problem.x[:5] if other.pop("x") == "rows" else problem.x.astype("f8")
        problem.target = problem.target[: len(problem.x)]
    bad = problem.state(lo, hi, **other)
    with says(ValueError, message):
        state.merge(bad)
    assert pickle.dumps(state) == before


def test_other_errors():
    problem = Problem(8, "f4", 6, 5000, {})
    x, w = problem.x, problem.weight
    state = problem.state(0, 2500, target_logit=np.zeros(6))
    with says(ValueError, "same `target_logit` to be merged, got 0.0 and 1.0 in row 0"):
        state.merge(problem.state(2500, 5000, target_logit=np.ones(6)))
    untold = problem.state(2500, 3000)
    untold.merge(state)
    with says(ValueError, "same `target_logit`"):
        untold.merge(problem.state(3000, 5000, target_logit=np.ones(6)))
    with says(ValueError, "`k` must be between 0 and", 2**62):
        problem.state(0, 2500, k=2**62)
    with says(TypeError, "`other` must be a RowState, got Scores"):
        state.merge(problem.one())
    with says(TypeError, "RowState.of"):
        ll.RowState()
    with says(ValueError, "classes [2500, 3000) are missing"):
        state.merge(problem.state(3000, 5000, target_logit=np.zeros(6))).scores()
    with says(ValueError, "classes [0, 4) are missing"):
        ll.RowState.of(x, w, first=4).scores()
    with says(ValueError, "`k` must be at most the number of classes (7), got 8"):
        ll.RowState.of(x, w[:7], k=8).scores()
    with says(IndexError, "`target` must hold classes in [0, 7)", "got 9 in row 1"):
        ll.RowState.of(x, w[:7], target=[0, 9, 0, 0, 0, 0]).scores()
    with says(IndexError, "`target` must hold classes in"):
        ll.RowState.of(x, w, target=[0, -1, 0, 0, 0, 0])
    with says(ValueError, "`first` must be between 0 and"):
        ll.RowState.of(x, w, first=-1)
    with says(ValueError, "`target_logit` needs a `target` of class indices, got none"):
        ll.RowState.of(x, w, target_logit=np.zeros(6))
    with says(ValueError, "`target_logit` must have shape (6,), got (5,)"):
        ll.RowState.of(x, w, target=np.zeros(6, int), target_logit=np.zeros(5))
    with says(TypeError, "takes the head as it is, got it with bias, softcap"):
        ll.RowState.of(x, ll.LinearHead(w), problem.bias, softcap=1.0)
    with says(TypeError, "RowState.of() got an unexpected keyword argument 'reduction'"):
        ll.RowState.of(x, w, reduction="mean")
    with says(TypeError, "`target` must be class indices, got class probabilities"):
        ll.RowState.target_logits(x, w[:2], np.full((6, 2), 0.5))


class TestPickles:
    """They are read whole, or refused in one line."""

    @pytest.fixture
    def contents(self):
        problem = Problem(9, "f4", 6, 13_000, OPTIONS[2], weighted=True)
        state = problem.state(0, 4096, target_logit=np.zeros(6))
        state.merge(problem.state(8192, 13_000, target_logit=np.zeros(6)))
        return state.__reduce__()[1][1]

    def restored(self, contents, maker=None):
        restore = ll.RowState.of(np.zeros((1, 1)), np.zeros((1, 1))).__reduce__()[0]
        return restore(maker or pickled_parts.made_by(), contents)

    def test_of_another_version(self, contents):
        assert repr(self.restored(contents)).startswith("RowState(rows=(6,)")
        with says(ValueError, "made by logitless 9.9, arithmetic 2.1 and cannot be used by "
                              f"logitless {ll.__version__}"):
            self.restored(contents, "logitless 9.9, arithmetic 2.1")

    def test_what_is_damaged(self, contents):
        good = pickle.dumps(contents)
        for path, value in self.damages(contents):
            bad = pickle.loads(good)
            *keys, last = path
            inner = bad
            for key in keys:
                inner = inner[key]
            if value is KeyError:
                del inner[last]
            else:
                inner[last] = value
            with says(ValueError, "this RowState is damaged: "):
                self.restored(bad)
                pytest.fail(f"{path}: {value}")
        for bad in None, [], {}, 5:
            with says(ValueError, "this RowState is damaged"):
                self.restored(bad)

    @staticmethod
    def damages(contents):
        for inner in (), ("agreed",), ("part",):
            of = contents
            for key in inner:
                of = of[key]
            for name, value in of.items():
                if inner != ("part",) or value is not None:
                    yield (*inner, name), KeyError
                if isinstance(value, np.ndarray) and name != "sums":
                    for bad in value[..., :-1], value.astype("f2"), "no array", list(value):
                        yield (*inner, name), bad
        first, last, sums = contents["apart"][0]
        for bad in (first, first, sums), (last, first, sums), (0, last, sums), \
                (first, 1 << 70, sums), (first, last, sums[:, :1]), (first, last), 5:
            yield ("apart", 0), bad
        for name, bad in (("end", -1), ("end", 1 << 80), ("end", 0.5), ("folded", None)):
            yield (name,), bad
        for name, bad in (("dtype", np.dtype("f2")), ("shape", (7,)), ("k", 6), ("targets", "x"),
                          ("targets", "none"), ("entropy", False), ("label_smoothing", 0.0),
                          ("z_loss", "0"), ("softcap", np.nan)):
            yield ("agreed", name), bad


@settings(max_examples=100)
@given(st.integers(1, 1 << 34), st.integers(1, 100))
def test_shard_bounds(n, parts):
    spans = -(-n // 4096)
    if parts > spans:
        with says(ValueError, f"`parts` must be at most {spans} for {n} classes"):
            ll.shard_bounds(n, parts)
        return
    bounds = ll.shard_bounds(n, parts)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, n, parts + 1)
    assert all(bound % 4096 == 0 for bound in bounds[:-1])
    sizes = np.diff(bounds)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= 4096 + 4095


def test_the_arithmetic_is_that_of_the_page():
    page = (Path(__file__).parents[1] / "docs/arithmetic.md").read_text()
    version = re.search(r"version \*\*([\d.]+)\*\* of the arithmetic", page).group(1)
    assert engine.contract() == (version if COMPILED else "of NumPy")
    assert {dtype: engine.span(dtype) for dtype in SPANS} == SPANS


def test_a_head_larger_than_memory_in_a_job_that_is_interrupted(tmp_path, rng):
    """Pieces are read from the file one after the other; what is done lies in another."""
    n, k, m = 20_000, 8, 30
    np.save(tmp_path / "weight.npy", rng.standard_normal((n, k), np.float32))
    x, t = rng.standard_normal((m, k), np.float32), rng.integers(0, n, m)
    bounds, done = ll.shard_bounds(n, 5), tmp_path / "state.pickle"

    def job(pieces):
        weight = np.load(tmp_path / "weight.npy", mmap_mode="r")
        for _ in range(pieces):
            state = pickle.loads(done.read_bytes()) if done.exists() else None
            first = state.classes[0][1] if state else 0
            last = bounds[bounds.index(first) + 1]
            more = ll.RowState.of(x, np.array(weight[first:last]), first=first, target=t, k=3)
            done.write_bytes(pickle.dumps(more if state is None else state.merge(more)))

    job(2)
    assert pickle.loads(done.read_bytes()).classes == [(0, bounds[2])]
    job(3)
    weight = np.load(tmp_path / "weight.npy")
    found = pickle.loads(done.read_bytes()).scores()
    assert_same(found, ll.linear_score(x, weight, t, k=3), ranks=False)


def test_sparse_rows():
    rng = np.random.default_rng(1)
    dense = rng.standard_normal((40, 30)) * (rng.random((40, 30)) < 0.2)
    weight, target = rng.standard_normal((9000, 30)), rng.integers(0, 9000, 40)
    for x in (dense, sparse.csr_array(dense)):
        cuts = list(itertools.pairwise(ll.shard_bounds(9000, 2)))
        known = np.fmax(*(ll.RowState.target_logits(x, weight[lo:hi], target, first=lo)
                          for lo, hi in cuts))
        first, second = (ll.RowState.of(x, weight[lo:hi], first=lo, target=target, k=3,
                                        target_logit=known) for lo, hi in cuts)
        got, expected = second.merge(first).scores(), ll.LinearHead(weight).score(x, target, k=3)
        np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-13)
        np.testing.assert_array_equal(got.target_rank, expected.target_rank)
        np.testing.assert_array_equal(got.top.index, expected.top.index)


@pytest.mark.parametrize("options", [
    {"label_smoothing": 0.1}, {"entropy_weight": -0.5}, {"z_loss": 0.1},
    {"class_weight": np.arange(20) + 1.0}, {"sample_weight": np.ones(4)},
], ids=lambda options: next(iter(options)))
@pytest.mark.parametrize("entropy", [False, True])
def test_options_of_a_loss_that_is_not_asked_for(options, entropy, dtype):
    """Without a target they are not looked at, as in `score`."""
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((4, 3)).astype(dtype), rng.standard_normal((20, 3)).astype(dtype)
    expected = ll.linear_score(x, w, k=3, entropy=entropy, **options)
    parts = []
    for lo, hi in ((10, 20), (0, 10)):
        own = {name: value[lo:hi] if name == "class_weight" else value
               for name, value in options.items()}
        state = ll.RowState.of(x, w[lo:hi], first=lo, k=3, entropy=entropy, **own)
        parts.append(pickle.loads(pickle.dumps(state)))
    found = parts[0].merge(parts[1]).scores()
    assert found.loss is None
    np.testing.assert_array_equal(found.predicted, expected.predicted)
    np.testing.assert_allclose(found.lse, expected.lse, rtol=4 * np.finfo(dtype).eps)
    if entropy:
        np.testing.assert_allclose(found.entropy, expected.entropy, rtol=40 * np.finfo(dtype).eps)
