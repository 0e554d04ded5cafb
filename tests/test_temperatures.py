"""Temperatures of rows: each row has the bits that a head of its temperature gives it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exact import Sparse, distributions, exact, labels
from support.gradients import NAMES
from support.narrow import kind
from support.oracle import COMPILED, assert_same, assert_same_bits

import logitless as ll

# Few classes and few features, in lanes and in tiles; many classes, by rows and by class; spans.
SHAPES = [(40, 7, 5), (40, 16, 33), (1, 16, 300), (30, 17, 9), (3, 600, 20), (150, 513, 12),
          (2, 9000, 40), (300, 40, 3)]
OF_HEAD = [{}, {"softcap": 2.0}, {"temperature": 5.0}, {"pack": False}, {"n_threads": 3}]


def problem(m, n, k, dtype):
    """Arrays of a head and rows, targets, and temperatures of which some are 1."""
    x, w, bias = exact((m, k), 1, dtype), exact((n, k), 2, dtype), exact((n,), 3, dtype)
    t = exact((m,), 4, np.float64) / 2 + 1
    t[::5] = 1
    target = labels(m, n, 5)
    return x, w, bias, target, t


def scored(head, x, target, **options):
    score = head.score(x, target, k=min(3, head.n_classes), entropy=True, **options)
    found = {name: getattr(score, name) for name in (
        "loss", "lse", "target_logit", "target_rank", "predicted", "max_logit", "entropy")}
    return found | {name: getattr(score.top, name) for name in ("index", "logit", "log_prob")}


def rows_of(t):
    """Some rows, and what makes a head of their temperature."""
    return [(slice(i, i + 1), t[i]) for i in range(0, len(t), max(1, len(t) // 7))]


def same(ours, others, what):
    """Bits, but of the plain-NumPy engine, whose products depend on the rows beside a row."""
    if COMPILED:
        assert_same_bits(ours, others, what)
    else:
        few = 1e-4 if np.asarray(ours).dtype == np.float32 else 1e-12
        np.testing.assert_allclose(ours, others, rtol=few, atol=few, err_msg=what)


@pytest.mark.parametrize("of_head", OF_HEAD, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores(shape, of_head, dtype):
    x, w, bias, target, t = problem(*shape, dtype)
    head = ll.LinearHead(w, bias, **of_head)
    ours = scored(head, x, target, temperature=t)
    ours["loss alone"] = head.loss(x, target, temperature=t)
    ours["without target"] = head.score(x, temperature=t).lse
    ours["target_log_prob"] = head.target_log_prob(x, target, temperature=t)
    candidates = np.stack([target, target[::-1], target], axis=1)
    ours["candidates"] = head.target_log_prob(x, candidates, temperature=t)
    for row, temperature in rows_of(t):
        own = ll.LinearHead(w, bias, **{**of_head, "temperature": temperature})
        expected = scored(own, x[row], target[row])
        expected["loss alone"] = own.loss(x[row], target[row])
        expected["without target"] = own.logsumexp(x[row])
        expected["target_log_prob"] = own.target_log_prob(x[row], target[row])
        expected["candidates"] = own.target_log_prob(x[row], candidates[row])
        for name, value in ours.items():
            same(value[row], expected[name], f"{name}, row {row.start}")


@pytest.mark.parametrize("of_head", OF_HEAD, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(shape, of_head, dtype):
    x, w, bias, target, t = problem(*shape, dtype)
    soft = distributions(shape[0], shape[1], 6, dtype)
    options = {"reduction": "sum", "entropy_weight": -0.25, "z_loss": 0.0625}
    for workspace_bytes in 1, 1 << 26:
        options["workspace_bytes"] = workspace_bytes
        for targets in target, soft, Sparse(soft):
            of_rows = dict(options, temperature=t)
            _, grad = ll.LinearHead(w, bias, **of_head).value_and_grad(x, targets, **of_rows)
            for row, temperature in rows_of(t)[:3]:
                own = ll.LinearHead(w, bias, **{**of_head, "temperature": temperature})
                part = targets[row] if isinstance(targets, np.ndarray) else soft[row]
                _, alone = own.value_and_grad(x[row], part, **options)
                same(grad.x[row], alone.x, f"row {row.start}")


@pytest.mark.compiled_only
def test_one_temperature_for_all_rows(dtype):
    """Then it is the head's, for what is a sum over rows, too."""
    for shape in SHAPES:
        x, w, bias, target, _ = problem(*shape, dtype)
        t = np.full(len(x), 1.75)
        one = ll.LinearHead(w, bias, temperature=1.75, softcap=3.0)
        other = ll.LinearHead(w, bias, softcap=3.0)
        options = {"label_smoothing": 0.125, "grad_output": 2.5}
        loss, grad = one.value_and_grad(x, target, **options)
        same_loss, same_grad = other.value_and_grad(x, target, temperature=t, **options)
        assert_same_bits(loss, same_loss)
        for name in NAMES:
            assert_same_bits(getattr(grad, name), getattr(same_grad, name), name)


@given(st.integers(1, 60), st.sampled_from([1, 7, 16, 17, 300]), st.integers(0, 9))
def test_gradients_of_the_weights_are_sums_over_rows(m, n, seed):
    rng = np.random.default_rng(seed)
    x, w, t = rng.standard_normal((m, 4)), rng.standard_normal((n, 4)), rng.uniform(0.3, 3, m)
    target = rng.integers(0, n, m)
    loss, grad = ll.linear_cross_entropy_value_and_grad(
        x, w, target, temperature=t, softcap=4.0, reduction="mean")
    parts = [ll.linear_cross_entropy_value_and_grad(
        x[i], w, target[i], temperature=float(t[i]), softcap=4.0, reduction="sum")
        for i in range(m)]
    np.testing.assert_allclose(loss, np.mean([part for part, _ in parts]), rtol=1e-12, atol=1e-14)
    for name in "weight", "bias":
        total = sum(getattr(part, name) for _, part in parts) / m
        np.testing.assert_allclose(getattr(grad, name), total, rtol=1e-11, atol=1e-13)


@pytest.mark.compiled_only
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_weights_of_16_bits(name):
    for shape in SHAPES[:5]:
        x, w, _, target, t = problem(*shape, np.float32)
        w = w.astype(kind(name))
        for rows in x, x.astype(kind(name)):
            ours = scored(ll.LinearHead(w), rows, target, temperature=t)
            _, grad = ll.LinearHead(w).value_and_grad(
                rows, target, reduction="sum", temperature=t)
            for row, temperature in rows_of(t):
                own = ll.LinearHead(w, temperature=temperature)
                for what, value in scored(own, rows[row], target[row]).items():
                    assert_same_bits(ours[what][row], value, what)
                _, alone = own.value_and_grad(rows[row], target[row], reduction="sum")
                assert_same_bits(grad.x[row], alone.x)


def test_logits_at_hand(dtype):
    x, w, bias, target, t = problem(30, 600, 9, dtype)
    head = ll.LinearHead(w, bias)
    ours = ll.cross_entropy(head.logits(x), target, temperature=t)
    same(ours, head.loss(x, target, temperature=t), "row by row")
    by_column = ll.cross_entropy(np.asfortranarray(head.logits(x)), target, temperature=t)
    assert_same(by_column, ours)


def test_a_single_row_has_a_single_temperature(dtype):
    x, w, _, target, _ = problem(1, 20, 5, dtype)
    head = ll.LinearHead(w)
    ours = head.loss(x[0], target[0], temperature=np.float32(0.5))
    same(ours, ll.LinearHead(w, temperature=0.5).loss(x[0], target[0]), "")
