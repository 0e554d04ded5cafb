"""Every dtype, layout and container that may come in; none is written to."""

from __future__ import annotations

import array

import numpy as np
import pytest
from support.layouts import unaligned
from support.oracle import assert_same, assert_same_bits

import logitless as ll
from logitless._arrays.bfloat16 import BFLOAT16

N, K, M = 37, 23, 29


def strided(a):
    wide = np.full([2 * s for s in a.shape[:-1]] + [3 * a.shape[-1]], 7, a.dtype)
    view = wide[(*tuple([slice(None, None, 2)] * (a.ndim - 1)), slice(1, None, 3))]
    view[...] = a
    return view


def padded_rows(a):
    wide = np.full((*a.shape[:-1], a.shape[-1] + 5), 7, a.dtype)
    wide[..., : a.shape[-1]] = a
    return wide[..., : a.shape[-1]]


def reverse(a, *axes):
    where = tuple(slice(None, None, -1 if i in axes else 1) for i in range(a.ndim))
    return np.ascontiguousarray(a[where])[where]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def overlapping_start(a):
    """The second half of a larger buffer: not aligned to any vector."""
    flat = np.zeros(a.size + 3, a.dtype)
    out = flat[3:].reshape(a.shape)
    out[...] = a
    return out


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": strided,
    "padded rows": padded_rows,
    "reversed rows": lambda a: reverse(a, 0),
    "reversed columns": lambda a: reverse(a, a.ndim - 1),
    "reversed": lambda a: reverse(a, *range(a.ndim)),
    "unaligned": unaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": read_only,
    "odd start": overlapping_start,
    "swapped and unaligned": lambda a: unaligned(a.astype(a.dtype.newbyteorder())),
    "swapped and strided": lambda a: strided(a.astype(a.dtype.newbyteorder())),
}


@pytest.fixture
def data(rng, dtype):
    x = rng.normal(size=(M, K)).astype(dtype)
    w, b = rng.normal(size=(N, K)).astype(dtype), rng.normal(size=N).astype(dtype)
    return x, w, b, rng.integers(0, N, M), rng.dirichlet(np.ones(N), M).astype(dtype)


def results(x, w, b, t, soft, **options):
    head = ll.LinearHead(w, b, **options)
    s = head.score(x, t, k=4, entropy=True)
    z = head.logits(x)
    return {
        "logits": z,
        "loss": head.loss(x, t),
        "soft": head.loss(x, soft),
        "predict": head.predict(x),
        "predict_proba": head.predict_proba(x),
        "entropy": s.entropy,
        "top": s.top.index,
        "rank": s.target_rank,
        "one-shot": ll.linear_cross_entropy(x, w, t, b),
        "cross_entropy": ll.cross_entropy(z, t),
    }


def assert_all_same(a, b):
    for name in a:
        assert_same(a[name], b[name], name)


def memory(a):
    """All bytes an array can see, its base's included."""
    while isinstance(getattr(a, "base", None), np.ndarray):
        a = a.base
    return a.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "unpacked"])
def test_layouts(data, layout, pack):
    lay = LAYOUTS[layout]
    plain = results(*data, pack=pack)
    laid = [lay(a) for a in data]
    before = [memory(a) for a in laid]
    for i in range(len(data)):  # one argument at a time, then all
        mixed = [*data[:i], laid[i], *data[i + 1 :]]
        assert_all_same(plain, results(*mixed, pack=pack))
    assert_all_same(plain, results(*laid, pack=pack))
    assert before == [memory(a) for a in laid]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_logits_and_probabilities(rng, dtype, layout):
    lay = LAYOUTS[layout]
    z = rng.normal(size=(M, N)).astype(dtype)
    p, t = ll.softmax(z), rng.integers(0, N, M)
    soft = rng.dirichlet(np.ones(N), M).astype(dtype)
    laid, before = lay(z), z.tobytes()
    for call in ll.softmax, ll.log_softmax, ll.logsumexp:
        for axis in (-1, 0, 1):
            assert_same(call(laid, axis=axis), call(z, axis=axis), f"{call.__name__}, axis {axis}")
    assert_same(ll.cross_entropy(laid, t), ll.cross_entropy(z, t))
    assert_same(ll.cross_entropy(laid, lay(soft)), ll.cross_entropy(z, soft))
    assert_same(ll.nll(lay(p), t), ll.nll(p, t))
    assert_same(ll.nll(lay(p), lay(soft)), ll.nll(p, soft))
    assert np.array_equal(laid, z)
    assert z.tobytes() == before


def test_inputs_are_never_written(data):
    before = [a.tobytes() for a in data]
    results(*data)
    results(*data, softcap=2.0, temperature=0.5, pack=False)
    assert before == [a.tobytes() for a in data]


def test_memory_mapped(tmp_path, data):
    x, w, b, t, soft = data
    for name, a in {"x": x, "w": w, "b": b}.items():
        np.save(tmp_path / f"{name}.npy", a)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xwb"]
    assert all(isinstance(a, np.memmap) for a in mapped)
    laid = results(*mapped, t, soft)
    assert_all_same(results(*data), laid)
    assert all(type(a) is np.ndarray for a in laid.values())


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=["rows", "columns", "both"])
def test_zero_strides(rng, dtype, axes):
    def broadcast(shape):
        small = [1 if i in axes else s for i, s in enumerate(shape)]
        return np.broadcast_to(rng.normal(size=small).astype(dtype), shape)

    x, w, soft = broadcast((M, K)), broadcast((N, K)), abs(broadcast((M, N)))
    b = np.broadcast_to(dtype.type(0.5), N)
    t = np.broadcast_to(np.int64(3), M)
    assert_all_same(
        results(x.copy(), w.copy(), b.copy(), t.copy(), soft.copy()), results(x, w, b, t, soft)
    )


WHOLE = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


@pytest.mark.parametrize("kind", [*WHOLE, ">i2", ">i4", ">i8", ">u8", "f2", ">f2"])
def test_narrow_and_whole_numbers(kind, rng):
    """Widened: to float32 if 8 or 16 bits, to float64 if 32 or 64 bits."""
    kind = np.dtype(kind)
    wide = np.float64 if kind.kind in "iu" and kind.itemsize >= 4 else np.float32
    low, high = (0, 2) if kind.kind == "b" else (0 if kind.kind == "u" else -90, 90)
    x = rng.integers(low, high, (M, K)).astype(kind)
    w = rng.integers(low, high, (N, K)).astype(kind)
    t = rng.integers(0, N, M)
    w32 = (rng.normal(size=(N, K)) / 50).astype(np.float32)
    for a, b in [(x, w), (x, w32), (w32[:20], w)]:
        head, same = ll.LinearHead(b), ll.LinearHead(b.astype(np.promote_types(b.dtype, wide)))
        rows = t[: len(a)]
        loss = head.loss(a, rows)
        assert loss.dtype == wide
        as_wide = a.astype(wide) if a.dtype == kind else a
        assert_same(loss, same.loss(as_wide, rows))
        assert_same(head.logits(a), same.logits(as_wide))
    assert ll.LinearHead(w).dtype == wide
    assert_same(ll.softmax(x), ll.softmax(x.astype(wide)))
    assert_same(ll.cross_entropy(x, t % K), ll.cross_entropy(x.astype(wide), t % K))


@pytest.mark.parametrize("n", [3, N])
@pytest.mark.parametrize("pack", [True, False])
def test_bfloat16_weights_and_bias_are_the_numbers_they_stand_for(rng, n, pack):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = rng.normal(size=(M, K)).astype(np.float32)
    w, b = rng.normal(size=(n, K)).astype(bfloat16), rng.normal(size=n).astype(bfloat16)
    z = x.astype(np.float64) @ w.astype(np.float64).T + b.astype(np.float64)
    for bias in b, b.view(BFLOAT16):
        head = ll.LinearHead(w, bias, pack=pack)
        np.testing.assert_allclose(head.logits(x), z, rtol=1e-5, atol=1e-5)


def test_bfloat16(rng):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, w = rng.normal(size=(M, K)).astype(bfloat16), rng.normal(size=(N, K)).astype(np.float32)
    t = rng.integers(0, N, M)
    head = ll.LinearHead(w)
    assert head.dtype == np.float32
    wide = ll.LinearHead(w.astype(np.float32))
    assert_same(head.logits(x), wide.logits(x.astype(np.float32)))
    assert_same(head.loss(x, t), wide.loss(x.astype(np.float32), t))
    assert_same(head.loss(strided(x), t), wide.loss(x.astype(np.float32), t))
    z = rng.normal(size=(M, N)).astype(bfloat16)
    assert_same(ll.log_softmax(z), ll.log_softmax(z.astype(np.float32)))


@pytest.mark.parametrize(
    ("x_type", "w_type"), [("f4", "f8"), ("f8", "f4"), ("f2", "f8"), ("i8", "f4")]
)
def test_the_wider_precision_wins(x_type, w_type, rng):
    x = (rng.normal(size=(M, K)) * 3).astype(x_type)
    w, t = rng.normal(size=(N, K)).astype(w_type), rng.integers(0, N, M)
    head = ll.LinearHead(w)
    assert head.dtype == w_type
    wide = results(x.astype("f8"), w.astype("f8"), None, t, np.eye(N)[t])
    assert_all_same(wide, results(x, w, None, t, np.eye(N)[t]))
    assert head.loss(x, t).dtype == np.float64
    assert head.topk(x, 2).log_prob.dtype == np.float64


@pytest.mark.parametrize(
    "kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">u8", "p"]
)
def test_labels_of_any_integer_type(kind, data):
    x, w, b, t, _ = data
    head = ll.LinearHead(w, b)
    labels = t.astype(kind)
    assert_same_bits(head.loss(x, labels), head.loss(x, t))
    assert_same_bits(head.loss(x, strided(labels)), head.loss(x, t))
    assert_same_bits(head.target_log_prob(x, labels), -head.loss(x, t))
    assert_same_bits(head.score(x, labels).target_rank, head.score(x, t).target_rank)
    z = head.logits(x)
    assert_same_bits(ll.cross_entropy(z, labels), ll.cross_entropy(z, t))
    assert_same_bits(ll.nll(abs(z), labels), ll.nll(abs(z), t))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_target_distributions_of_any_float_type(kind, data):
    x, w, b, _t, soft = data
    soft = (soft > 1 / N).astype(np.float64) / 8
    head = ll.LinearHead(w, b)
    assert_same_bits(head.loss(x, soft.astype(kind)), head.loss(x, soft))
    assert head.loss(x, soft).dtype == w.dtype


def test_lists_and_other_containers(rng):
    x, w = rng.normal(size=(2, 3)), rng.normal(size=(4, 3))
    head = ll.LinearHead(w)
    plain = head.loss(x, np.array([1, 3]))
    assert_same(ll.LinearHead(w.tolist()).loss(x.tolist(), [1, 3]), plain)
    assert_same(ll.linear_cross_entropy(x.tolist(), w.tolist(), [1, 3]), plain)
    assert_same(head.loss(memoryview(x), array.array("l", [1, 3])), plain)

    class ByArray:
        def __array__(self, dtype=None, copy=None):
            return x if dtype is None else x.astype(dtype)

    class ByDLPack:
        def __dlpack__(self, **kw):
            return x.__dlpack__(**kw)

        def __dlpack_device__(self):
            return x.__dlpack_device__()

    assert_same(head.loss(ByArray(), [1, 3]), plain)
    assert_same(head.loss(ByDLPack(), [1, 3]), plain)
    assert head.predict([[1, 2, 3]]).shape == (1,)
    assert ll.softmax([1, 2, 3]).dtype == np.float64


def test_torch_tensors(rng):
    torch = pytest.importorskip("torch")
    x, w = rng.normal(size=(2, 3)).astype("f4"), rng.normal(size=(4, 3)).astype("f4")
    plain = ll.LinearHead(w).loss(x, [1, 3])
    head = ll.LinearHead(torch.from_numpy(w))
    assert_same(head.loss(torch.from_numpy(x), torch.tensor([1, 3])), plain)
    pytest.importorskip("ml_dtypes")
    half = torch.from_numpy(x).to(torch.bfloat16)
    assert_same(head.logsumexp(half), head.logsumexp(half.float().numpy()))


def test_array_subclasses_come_out_as_plain_arrays(rng):
    x = rng.normal(size=(3, K)).view(type("Sub", (np.ndarray,), {}))
    head = ll.LinearHead(rng.normal(size=(N, K)))
    assert type(head.logits(x)) is np.ndarray
    assert type(ll.softmax(x)) is np.ndarray


def test_results_are_fresh_contiguous_arrays(data):
    x, w, b, t, soft = data
    for name, a in results(x, w, b, t, soft).items():
        assert a.flags.carray, name  # contiguous, aligned and writeable
        assert a.dtype.isnative, name
        assert not any(np.shares_memory(a, given) for given in data), name
