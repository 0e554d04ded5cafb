"""The same bits of the loss and the gradients, however they are computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exact import distributions, exact, labels
from support.gradient_battery import any_options, results
from support.layouts import LAYOUTS, as_layout
from support.oracle import assert_same_bits

import logitless as ll

pytestmark = pytest.mark.compiled_only

NAMES = ("x", "weight", "bias")
CLASSES = [
    *(1, 2, 3, 5, 8, 11, 15, 16, 17, 31, 33, 64, 129, 255, 256, 257, 511, 512, 513),
    *(1021, 2049, 4095, 4096, 4097, 8193),
]
FEATURES = [0, 1, 2, 3, 8, 15, 16, 17, 33, 64, 127, 255, 256, 257, 511, 513]
ROWS = [1, 2, 3, 11, 12, 13, 23, 24, 25, 47, 49, 97, 239, 240, 241, 479, 480, 481]
# The scalar kernels take some nanoseconds a product.
MOST_PRODUCTS = 400_000


@st.composite
def problems(draw, least_rows=1):
    n = draw(st.one_of(st.sampled_from(CLASSES), st.integers(1, 700)))
    k = draw(st.one_of(st.sampled_from(FEATURES), st.integers(1, 300)))
    room = max(least_rows, MOST_PRODUCTS // (n * max(k, 1)))
    m = draw(st.sampled_from([r for r in ROWS if least_rows <= r <= room]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    seed = draw(st.integers(0, 1000))
    x, w = exact((m, k), seed, dtype), exact((n, k), seed + 1, dtype)
    bias = draw(st.sampled_from([None, exact((n,), seed + 2, dtype, 4.0)]))
    of_head = draw(st.sampled_from([
        {}, {"softcap": 2.0}, {"temperature": 0.7}, {"softcap": 5.0, "temperature": 1.5},
    ]))
    target = labels(m, n, seed + 3)
    if draw(st.booleans()):
        target = distributions(m, n, seed + 4, dtype)
    options = any_options(m, n, seed + 5, dtype, draw(st.integers(0, 63)))
    if target.ndim == 1 and m > 1 and draw(st.booleans()):
        target[::5] = -100
    filter_eps = draw(st.sampled_from([0.0, 0.0, 2.0**-10, 2.0**-6, 0.5 / n, 0.9 / n, 1 / (n + 1)]))
    options["reduction"] = draw(st.sampled_from(["none", "sum", "batch_mean"]))
    if options["reduction"] == "none" and draw(st.booleans()):
        options["grad_output"] = exact((m,), seed + 9, np.float64, 2.0)
    return (x, w, bias), target, of_head, {**options, "filter_eps": filter_eps}


def assert_all_same(a, b, what=""):
    for name in a:
        assert_same_bits(a[name], b[name], f"{what} {name}")


@given(problems(), st.sampled_from([2, 3, 4, 7]), st.sampled_from([1, 100_000, 1 << 26]))
def test_threads(eager, problem, n_threads, workspace_bytes):
    (x, w, bias), target, of_head, options = problem
    one = ll.LinearHead(w, bias, n_threads=1, **of_head)
    more = ll.LinearHead(w, bias, n_threads=n_threads, **of_head)
    assert_all_same(
        results(one, x, target, **options),
        results(more, x, target, workspace_bytes=workspace_bytes, **options),
    )


@pytest.mark.parametrize("shape", [(500, 700, 40), (9000, 11, 30), (30, 20_000, 33), (3000, 50, 3),
                                   (20_000, 255, 0)])
@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_on_work_worth_splitting(shape, n_threads, dtype):
    m, n, k = shape
    x, w = exact((m, k), 31, dtype), exact((n, k), 32, dtype)
    bias, t = exact((n,), 33, dtype), labels(m, n, 34)
    one, more = (ll.LinearHead(w, bias, n_threads=threads) for threads in (1, n_threads))
    assert_all_same(results(one, x, t), results(more, x, t))


@pytest.fixture
def by_row(eager, monkeypatch):
    """Rows are shared out before classes are, however few; blocks are as small as may be."""
    plan = "logitless._engines.compiled.gradient_plan"
    for name in "APART_BYTES", "BLOCK_BYTES", "LEAST_ROWS":
        monkeypatch.setattr(f"{plan}.{name}", 0)


@given(problems(), st.sampled_from([1, 2, 3, 7]), st.sampled_from([1 << 16, 1 << 26]))
def test_rows_before_classes(by_row, problem, n_threads, workspace_bytes):
    (x, w, bias), target, of_head, options = problem
    head = ll.LinearHead(w, bias, n_threads=n_threads, **of_head)
    assert_all_same(  # a window of classes at a time goes another way
        results(head, x, target, workspace_bytes=1, **options),
        results(head, x, target, workspace_bytes=workspace_bytes, **options),
    )


def test_few_rows_share_out_classes(monkeypatch):
    """Each share of rows would pack all weights."""
    from logitless._engines.compiled import gradient

    monkeypatch.setattr(gradient, "_rows_side_by_side", pytest.fail)
    x, w, t = exact((120, 8), 1), exact((8000, 8), 2), labels(120, 8000, 3)
    ll.linear_cross_entropy_value_and_grad(x, w, t, n_threads=2)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_rows_before_classes_of_two_heads(by_row, n_threads, dtype):
    m, n = 500, 300
    x, w = exact((m, 20), 1, dtype), exact((n, 20), 2, dtype)
    teacher = exact((m, 7), 3, dtype), exact((n, 7), 4, dtype)
    for beta in 0.0, 0.5:
        small, large = (
            ll.linear_kl_div_value_and_grad(x, w, *teacher, beta=beta, n_threads=n_threads,
                                            workspace_bytes=workspace)
            for workspace in (1, 1 << 20))
        for ours, usual in ((small[0], large[0]), (small[1].x, large[1].x),
                            (small[1].weight, large[1].weight)):
            assert_same_bits(ours, usual)


@given(problems(), st.data())
def test_workspace(problem, data):
    """From less than a row of logits to more than all of them."""
    (x, w, bias), target, of_head, options = problem
    row = x.itemsize * len(w)
    head = ll.LinearHead(w, bias, **of_head)
    usual = results(head, x, target, **options)
    for workspace_bytes in (
        1, row - 1 or 1, row, 12 * row, 240 * row - 1, 240 * row, 480 * row, 1 << 40,
        data.draw(st.integers(1, 600 * row)),
    ):
        ours = results(head, x, target, workspace_bytes=workspace_bytes, **options)
        assert_all_same(usual, ours, f"{workspace_bytes} bytes")


@given(problems())
def test_the_loss_is_that_of_loss(problem):
    (x, w, bias), target, of_head, options = problem
    head = ll.LinearHead(w, bias, **of_head)
    ours = results(head, x, target, **options)["loss"]
    plain = {k: v for k, v in options.items() if k not in ("filter_eps", "grad_output")}
    assert_same_bits(ours, head.loss(x, target, **plain))


@given(problems(), st.sampled_from(LAYOUTS))
def test_layouts_and_packing(problem, layout):
    (x, w, bias), target, of_head, options = problem
    lay = partial(as_layout, layout=layout)
    usual = results(ll.LinearHead(w, bias, **of_head), x, target, **options)
    laid_bias = None if bias is None else lay(bias)
    laid = options | {name: lay(options[name])
                      for name in ("class_weight", "sample_weight", "temperature")
                      if name in options}
    for pack in True, False:
        head = ll.LinearHead(lay(w), laid_bias, pack=pack, **of_head)
        assert_all_same(usual, results(head, lay(x), lay(target), **laid), f"pack={pack}")
        head = ll.LinearHead(w, bias, pack=pack, **of_head)
        assert_all_same(usual, results(head, x, target, **options), f"pack={pack}, plain")


@given(problems(), st.sampled_from(["x", "weight", "bias"]))
def test_what_is_asked_for_beside_changes_nothing(problem, name):
    (x, w, bias), target, of_head, options = problem
    head = ll.LinearHead(w, bias, **of_head)
    usual = results(head, x, target, **options)
    loss, grad = head.value_and_grad(x, target, wrt=name, **options)
    assert_same_bits(loss, usual["loss"], "loss")
    assert_same_bits(getattr(grad, name), usual[name], name)


@given(problems())
def test_into_arrays_at_hand(problem):
    (x, w, bias), target, of_head, options = problem
    head = ll.LinearHead(w, bias, **of_head)
    usual = results(head, x, target, **options)
    out = ll.Gradients(*(np.full_like(usual[name], np.nan) for name in NAMES))
    assert_all_same(usual, results(head, x, target, out=out, **options), "out")
    out = ll.Gradients(*(np.zeros_like(usual[name]) for name in NAMES))
    into = results(head, x, target, out=out, accumulate=True, **options)
    for name in NAMES:  # 0 + -0 is 0
        assert_same_bits(into[name], usual[name] + 0, name)


@given(problems(2), st.data())
def test_batch_may_be_cut_anywhere(problem, data):
    """The gradient of a row of x depends on that row alone, where the reduction has no divisor."""
    (x, w, bias), target, of_head, options = problem
    m = len(x)
    cut = data.draw(st.integers(1, m - 1))
    options["reduction"] = "none" if options["reduction"] == "none" else "sum"
    head = ll.LinearHead(w, bias, **of_head)
    whole = results(head, x, target, **options)["x"]

    def part(rows):
        cut_options = options | {name: options[name][rows]
                                 for name in ("sample_weight", "temperature", "grad_output")
                                 if name in options}
        return results(head, x[rows], target[rows], **cut_options)["x"]

    assert_same_bits(np.concatenate([part(slice(cut)), part(slice(cut, None))]), whole, "cut")
    order = np.random.default_rng(cut).permutation(m)
    assert_same_bits(part(order), whole[order], "permuted")
    assert_same_bits(part(order[:1]), whole[order[:1]], "alone")


@given(problems())
def test_one_hot_rows_are_indices(problem):
    (x, w, bias), _, of_head, options = problem
    m, n = len(x), len(w)
    index = np.arange(m) * 5 % n
    head = ll.LinearHead(w, bias, **of_head)
    usual = results(head, x, index, **options)
    one_hot = np.eye(n, dtype=x.dtype)[index]
    assert_all_same(usual, results(head, x, one_hot, **options), "one-hot")
    # Beside a row that is not one-hot, the rows keep theirs.
    if n > 1:
        one_hot[m // 2] = 0.5
        mixed = results(head, x, one_hot, **options)
        others = np.arange(m) != m // 2
        assert_same_bits(mixed["x"][others], usual["x"][others], "mixed")


@given(problems())
def test_neutral_options_change_no_bit(problem):
    (x, w, bias), target, of_head, options = problem
    head = ll.LinearHead(w, bias, **of_head)
    usual = results(head, x, target, **options)
    neutral = dict(options)
    neutral.setdefault("class_weight", np.ones(len(w)))
    neutral.setdefault("sample_weight", np.ones(len(x)))
    neutral.setdefault("grad_output", np.ones(len(x)) if options["reduction"] == "none" else 1)
    assert_all_same(usual, results(head, x, target, **neutral))


def test_twice_the_same(dtype):
    m, n, k = 500, 700, 40
    head = ll.LinearHead(exact((n, k), 1, dtype), n_threads=2)
    x, t = exact((m, k), 2, dtype), labels(m, n, 3)
    first = results(head, x, t)
    for _ in range(3):
        assert_all_same(first, results(head, x, t))


def test_a_head_may_be_used_by_several_threads(dtype):
    m, n, k = 200, 300, 40
    head = ll.LinearHead(exact((n, k), 1, dtype), n_threads=2)
    batches = [(exact((m, k), seed, dtype), labels(m, n, seed + 50)) for seed in range(8)]
    expected = [results(head, *batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for ours, usual in zip(
                pool.map(lambda batch: results(head, *batch), batches), expected, strict=True
            ):
                assert_all_same(usual, ours)
