"""Few rows take ways of their own: micro-panels of other heights, several panels at once, one call
into the core. None of them changes a bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.oracle import assert_same_bits

import logitless as ll

pytestmark = pytest.mark.compiled_only

MOST = 48  # rows that weights are streamed for, and rows of a small call


def problem(m, n, k, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x, weight = (rng.standard_normal(size).astype(dtype) for size in ((m, k), (n, k)))
    return x, weight, rng.standard_normal(n).astype(dtype), rng.integers(n, size=m)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("n", "k"), [(200, 300), (4100, 7), (33, 513), (40, 1024)])
def test_any_number_of_rows(n, k, pack, dtype):
    x, weight, bias, target = problem(MOST + 60, n, k, dtype)
    head = ll.LinearHead(weight, bias, pack=pack)
    whole = head.score(x, target)
    for m in [*range(1, MOST + 3), MOST + 12, MOST + 13]:
        part = head.score(x[:m], target[:m])
        for name in ("loss", "lse", "target_logit", "max_logit", "predicted"):
            np.testing.assert_array_equal(
                getattr(part, name), getattr(whole, name)[:m], err_msg=f"{name} of {m} rows")


SIZES = st.sampled_from([1, 2, 3, 7, 10, 15, 16, 17, 33, 131, 512, 513, 600])


@given(m=st.integers(1, MOST + 2), n=SIZES, k=st.sampled_from([0, 1, 5, 16, 40, 257]),
       dtype=st.sampled_from([np.float32, np.float64]), pack=st.booleans(),
       with_bias=st.booleans(), softcap=st.sampled_from([None, 3.0]),
       temperature=st.sampled_from([1.0, 0.5]),
       spoil=st.sampled_from([None, np.nan, np.inf, -np.inf]))
@example(m=MOST, n=10, k=64, dtype=np.float32, pack=True, with_bias=False, softcap=None,
         temperature=1.0, spoil=None)
def test_small_calls(m, n, k, dtype, pack, with_bias, softcap, temperature, spoil):
    x, weight, bias, target = problem(m, n, k, dtype)
    if spoil is not None and k:
        x[m // 2, k // 2] = spoil
    head = ll.LinearHead(weight, bias if with_bias else None, softcap=softcap,
                         temperature=temperature, pack=pack)
    general = ll.LinearHead(weight, bias if with_bias else None, softcap=softcap,
                            temperature=temperature, pack=pack)
    general._few_rows = None
    with np.errstate(all="ignore"):
        ours, theirs = answers(head, x, target, k=min(n, 3)), answers(general, x, target, min(n, 3))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert_same_bits(values, theirs[name], name)


def answers(head, x, target, k):
    """What every method with a short way says, by name; None where it says nothing."""
    found = {name: getattr(head, name)(x)
             for name in ("predict", "predict_proba", "predict_log_proba", "logits")}
    found["loss"] = head.loss(x, target)
    for name, result in (("top", head.topk(x, k)), ("ranked", head.topk(x, k, normalize=False)),
                         ("plain", head.score(x, target)),
                         ("score", head.score(x, target, k=k, entropy=True))):
        for field in result.__slots__:
            found[f"{name}.{field}"] = getattr(result, field)
    for name in ("plain", "score"):
        top = found.pop(f"{name}.top")
        if top is not None:
            found |= {f"{name}.{field}": getattr(top, field) for field in top.__slots__}
    return {name: values for name, values in found.items() if values is not None}


def test_what_a_small_call_takes(dtype):
    """Plain arguments, and no others: those are converted, checked and refused elsewhere."""
    x, weight, bias, target = problem(4, 10, 6, dtype)
    small = ll.LinearHead(weight, bias)._few_rows
    other = np.float64 if dtype == np.float32 else np.float32
    assert small.loss(x, target) is not None
    assert small.loss(np.tile(x, (1, 2))[:, :6], target) is not None
    assert small.loss(x[::-1], target) is not None
    readonly = x.copy()
    readonly.flags.writeable = False
    assert small.predict(readonly) is not None
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    for rows in (x.astype(other), x[:, ::-1], np.asfortranarray(x), x[:, :5], x[0], x[None], x[:0],
                 x.tolist(), x.astype(x.dtype.newbyteorder()), unaligned, np.ma.array(x),
                 np.tile(x, (13, 1)), None):
        assert small.predict(rows) is None
        assert small.loss(rows, target) is None
        assert small.columns(rows, "proba") is None
        assert small.topk(rows, 2, True) is None
        assert small.score(rows, target, 2, True) is None
    for labels in (target[:3], target.astype(np.int32), target[None], target.tolist(), target + 10,
                   target - 10, np.repeat(target, 2)[::2], target.astype(">i8"), target * 1.0, 3):
        assert small.loss(x, labels) is None
        assert small.score(x, labels, 0, False) is None


def test_options_go_the_general_way(rng):
    x, weight, _, target = problem(4, 5, 6, np.float32)
    head = ll.LinearHead(weight)
    target[0] = 0
    out = np.empty(4, np.float32)
    plain = head.loss(x, target)
    assert head.loss(x, target, ignore_index=0)[0] == 0
    assert head.loss(x, target, out=out) is out
    np.testing.assert_array_equal(out, plain)
    assert head.loss(x, target, reduction="sum").shape == ()
    assert (head.loss(x, target, z_loss=1.0) > plain).all()
    assert (head.loss(x, target, label_smoothing=0.5) != plain).all()
    np.testing.assert_array_equal(head.loss(x, target, sample_weight=np.zeros(4)), np.zeros(4))
    np.testing.assert_array_equal(head.loss(x, target, class_weight=np.zeros(5)), np.zeros(4))
    assert head.loss(x, target, shift=1).shape == (3,)
    assert head.score(x, target, shift=1).lse.shape == (3,)
    assert (head.score(x, target, z_loss=1.0).loss > plain).all()
    assert head.score(x, target, ignore_index=0).target_rank[0] == -1
    assert head.score(x).loss is None
    for wrong in ({"z_loss": False}, {"label_smoothing": "0"}, {"shift": None},
                  {"ignore_index": 0.5}):
        with pytest.raises(TypeError):
            head.loss(x, target, **wrong)
    with pytest.raises(ValueError, match="reduction"):
        head.loss(x, target, reduction="None")


@pytest.mark.parametrize("streams", [1, 3, 4, 8])
def test_reading_reads_everything(streams, dtype):
    from logitless._engines.compiled._core import Kernels

    kernels = Kernels(ll.active_isa(), dtype.itemsize * 8)
    assert kernels.spin_read(np.ones(streams * kernels.lanes * 5, dtype), streams) \
        == streams * kernels.lanes * 5
