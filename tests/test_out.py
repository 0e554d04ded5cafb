"""`out`: losses, probabilities and logits into memory the caller gives."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import assert_same, assert_same_bits, says

import logitless as ll

M, N, K = 12, 5, 4


@pytest.fixture
def x(rng):
    return rng.normal(size=(M, K)).astype(np.float32)


@pytest.fixture
def w(rng):
    return rng.normal(size=(N, K)).astype(np.float32)


@pytest.fixture
def t(rng):
    return rng.integers(0, N, M)


@pytest.fixture
def head(w):
    return ll.LinearHead(w)


def test_loss_into_given_memory(x, w, t, dtype):
    x, w = x.astype(dtype), w.astype(dtype)
    head = ll.LinearHead(w)
    loss = head.loss(x, t)
    out = np.full(M, 9, dtype)
    assert head.loss(x, t, out=out) is out
    assert_same_bits(out, loss)
    wide = np.full(2 * M, 9, dtype)
    strided = wide[::2]
    assert head.loss(x, t, out=strided) is strided
    assert_same_bits(strided, loss)
    assert (wide[1::2] == 9).all()
    assert ll.cross_entropy(head.logits(x), t, out=out) is out
    assert_same(out, loss)
    assert ll.linear_cross_entropy(x, w, t, out=out) is out
    assert_same(out, ll.LinearHead(w).loss(x, t))
    out = np.full((M // 4, 4), 9, dtype)
    head.loss(x.reshape(M // 4, 4, K), t.reshape(M // 4, 4), out=out)
    assert_same_bits(out.reshape(-1), loss)


@pytest.mark.parametrize(
    ("error", "make", "words"),
    [
        (ValueError, lambda: np.full(M + 1, 9, np.float32), (M, M + 1)),
        (ValueError, lambda: np.full((M, 1), 9, np.float32), (M, 1)),
        (TypeError, lambda: np.full(M, 9, np.float64), ("float32", "float64")),
        (TypeError, lambda: np.full(M, 9, np.int32), ("float32", "int32")),
        (TypeError, lambda: np.full(M, 9, np.dtype(np.float32).newbyteorder()), ("float32",)),
        (TypeError, lambda: [9.0] * M, ("list",)),
    ],
    ids=["longer", "two axes", "float64", "int32", "byte-swapped", "a list"],
)
def test_out_that_does_not_fit(head, x, t, error, make, words):
    out = make()
    before = np.array(out)
    with says(error, "out", *words):
        head.loss(x, t, out=out)
    with says(error, "out", *words):
        ll.cross_entropy(head.logits(x), t, out=out)
    np.testing.assert_array_equal(out, before)


def test_out_is_read_only(head, x, t):
    out = np.full(M, 9, np.float32)
    out.flags.writeable = False
    with says(ValueError, "out", "read-only"):
        head.loss(x, t, out=out)
    assert (out == 9).all()


def test_out_is_untouched_by_any_error(head, x, w, t):
    out = np.full(M, 9, np.float32)
    labels, soft = t.copy(), np.full((M, N), 0.2)
    labels[-1], soft[-1, -1] = N, np.nan
    for error, call in [
        (IndexError, lambda: head.loss(x, labels, out=out)),
        (ValueError, lambda: head.loss(x, soft, out=out)),
        (ValueError, lambda: head.loss(x[:, :-1], t, out=out)),
        (ValueError, lambda: head.loss(x, t, reduction="average", out=out)),
        (TypeError, lambda: head.loss(x.astype(complex), t, out=out)),
        (IndexError, lambda: ll.linear_cross_entropy(x, w, labels, out=out)),
        (IndexError, lambda: ll.cross_entropy(head.logits(x), labels, out=out)),
        (ValueError, lambda: ll.linear_cross_entropy(x, w, t, temperature=0, out=out)),
    ]:
        with pytest.raises(error):
            call()
        assert (out == 9).all()


COLUMNS = ["predict_proba", "predict_log_proba", "logits"]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("n", [1, 5, 16, 700])
@pytest.mark.parametrize("lead", [(), (0,), (3,), (80,), (20, 5)], ids=str)
def test_columns_into_given_memory(name, n, lead, dtype, rng):
    head = ll.LinearHead(rng.normal(size=(n, K)).astype(dtype))
    x = rng.normal(size=(*lead, K)).astype(dtype)
    out = np.full((*lead, n), 9, dtype)
    assert getattr(head, name)(x, out=out) is out
    assert_same_bits(out, np.asarray(getattr(head, name)(x)))


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(
    ("error", "make", "words"),
    [
        (ValueError, lambda: np.full((M, N + 1), 9, np.float32), ((M, N), (M, N + 1))),
        (ValueError, lambda: np.full(M * N, 9, np.float32), ((M, N),)),
        (ValueError, lambda: np.full((N, M), 9, np.float32).T, ("C-contiguous",)),
        (ValueError, lambda: np.full((M, 2 * N), 9, np.float32)[:, :N], ("C-contiguous",)),
        (TypeError, lambda: np.full((M, N), 9, np.float64), ("float32", "float64")),
        (TypeError, lambda: [[9.0] * N] * M, ("list",)),
    ],
    ids=["wider", "flat", "columns", "part", "float64", "a list"],
)
def test_columns_that_do_not_fit(head, x, name, error, make, words):
    out = make()
    before = np.array(out)
    with says(error, "out", *words):
        getattr(head, name)(x, out=out)
    np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_over_what_is_read(name, rng):
    memory = rng.normal(size=3 * 16).astype(np.float32)
    x, weight, bias = memory[:16].reshape(4, 4), memory[16:32].reshape(4, 4), memory[32:36]
    head = ll.LinearHead(weight, bias, pack=False)
    for out in (x, weight, memory[12:28].reshape(4, 4), memory[32:].reshape(4, 4)):
        before = memory.copy()
        with says(ValueError, "out", "overlap"):
            getattr(head, name)(x, out=out)
        assert_same_bits(memory, before)
    x.flags.writeable = False
    with says(ValueError, "out", "read-only"):
        getattr(head, name)(rng.normal(size=(4, 4)).astype(np.float32), out=x)


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_untouched_by_an_error(head, x, name):
    out = np.full((M, N), 9, np.float32)
    with says(ValueError, "x"):
        getattr(head, name)(x[:, :-1], out=out)
    assert (out == 9).all()
