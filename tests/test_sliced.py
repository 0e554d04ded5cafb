"""Array-likes that are read by slicing: a block at a time, and to the bits of arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory import MIB, peak_again
from support.oracle import COMPILED

import logitless as ll
from logitless._arrays.rows import Rows, row_blocks
from logitless._arrays.sliced import Sliced

N, K = 30, 5


class Source:
    """An array that is only read in slices, and remembers how much was read at once."""

    def __init__(self, array, chunks=None):
        self._array, self.chunks = np.asarray(array), chunks
        self.shape, self.dtype = self._array.shape, self._array.dtype
        self.reads = []

    def __getitem__(self, where):
        where = where if isinstance(where, tuple) else (where,)
        for side, size in zip(where, self.shape, strict=False):
            stop = side.stop if isinstance(side, slice) else side + 1
            assert ((side.start or 0) if isinstance(side, slice) else side) >= 0
            assert stop <= size
        self.reads.append(where)
        return self._array[where].copy()

    def __array__(self, *args, **kwargs):
        assert not self._array.size or self._array.ndim != 2, "read as a whole"
        return self._array


def same(ours, expected):
    """Bits, where the engine promises them whatever the batch."""
    if COMPILED:
        np.testing.assert_array_equal(ours, expected)
    else:
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("logitless._arrays.rows._BLOCK_BYTES", 7 * K * 8)


def make(shape, dtype=np.float32, **options):
    rng = np.random.default_rng(0)
    head = ll.LinearHead(rng.standard_normal((N, K)).astype(np.float32), **options)
    x = rng.standard_normal((*shape, K)).astype(dtype)
    return head, x, rng.integers(0, N, shape)


CALLS = {
    "loss": lambda head, x, y: head.loss(x, y, reduction="none"),
    "mean loss": lambda head, x, y: head.loss(x, y, reduction="mean", sample_weight=0.5 + (y > 3)),
    "soft": lambda head, x, y: head.loss(x, np.eye(N)[y] / 2 + 0.5 / N),
    "score": lambda head, x, y: head.score(x, y, entropy=True).entropy,
    "rank": lambda head, x, y: head.score(x, y, k=3).target_rank,
    "topk": lambda head, x, y: head.topk(x, 4).log_prob,
    "predict": lambda head, x, y: head.predict(x),
    "logsumexp": lambda head, x, y: head.logsumexp(x),
    "target_log_prob": lambda head, x, y: head.target_log_prob(x, y),
    "predict_proba": lambda head, x, y: head.predict_proba(x),
    "logits": lambda head, x, y: head.logits(x),
    "sample": lambda head, x, y: head.sample(x, 0, 2),
    "gradient": lambda head, x, y: head.value_and_grad(x, y, reduction="sum")[1].weight,
    "gradient of x": lambda head, x, y: head.value_and_grad(x, y, reduction="sum")[1].x,
    "kl_div": lambda head, x, y: head.kl_div(x, head.with_temperature(2.0), x),
    "function": lambda head, x, y: ll.linear_cross_entropy(x, np.eye(N, K, dtype="f4"), y),
}


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("shape", [(50,), (3, 20), (2, 3, 5), (4, 1, 9), (0,), (3, 0)], ids=str)
def test_calls_are_those_of_arrays(call, shape):
    head, x, y = make(shape)
    if call == "mean loss" and not y.size:
        pytest.skip("a mean of nothing")
    source = Source(x)
    same(CALLS[call](head, source, y), CALLS[call](head, x, y))
    assert x.size == 0 or len(source.reads) > 1 or "gradient" in call or call == "kl_div"


@settings(max_examples=60)
@given(lead=st.lists(st.integers(0, 6), min_size=1, max_size=4), k=st.integers(0, 2),
       data=st.data())
def test_rows_of_any_shape(lead, k, data):
    m = math.prod(lead)
    x = np.arange(m * k).reshape(*lead, k)
    first = data.draw(st.integers(0, m))
    last = data.draw(st.integers(first, m))
    source = Source(x)
    rows = Rows(Sliced(source, "x"))
    assert (rows.m, rows.n, rows.lead) == (m, k, tuple(lead))
    np.testing.assert_array_equal(rows[first:last], x.reshape(m, k)[first:last])
    read = sum(source._array[where].size for where in source.reads)
    assert read == k * (last - first)
    assert len(source.reads) <= 2 * len(lead)


@settings(max_examples=60)
@given(m=st.integers(0, 300), chunk=st.integers(1, 400), most=st.integers(1, 500))
def test_blocks_are_whole_chunks(m, chunk, most):
    rows = Rows(Sliced(Source(np.zeros((m, K)), chunks=(chunk, 2)), "x"))
    blocks = list(row_blocks(m, rows, most=most))
    assert [b.start for b in blocks] == [0, *(b.stop for b in blocks)][: len(blocks)]
    assert m == 0 or blocks[-1].stop == m
    step = min(most, 7)
    if chunk <= most:
        step = max(step // chunk, 1) * chunk
    assert all(b.stop - b.start == step for b in blocks[:-1])


def test_chunks_larger_than_a_block_may_be_are_read_in_parts(monkeypatch):
    monkeypatch.setattr("logitless._arrays.rows._CHUNK_BYTES", 20 * K * 8)
    rows = Rows(Sliced(Source(np.zeros((100, K)), chunks=(50, K)), "x"))
    assert max(b.stop - b.start for b in row_blocks(100, rows)) == 7


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", "i2", "?"])
def test_any_type(dtype):
    head, x, y = make((40,), dtype)
    same(head.loss(Source(x), y), head.loss(x, y))


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    _, x, y = make((40,), ml_dtypes.bfloat16)
    head = ll.LinearHead(np.ones((N, K), ml_dtypes.bfloat16))
    same(head.loss(Source(x), y), head.loss(x, y))


@pytest.mark.parametrize("call", ["loss", "value_and_grad"])
def test_shift(call):
    head, x, y = make((3, 20))
    ours, expected = (getattr(head, call)(rows, y, shift=2) for rows in (Source(x), x))
    for a, b in zip(np.atleast_1d(ours), np.atleast_1d(expected), strict=True):
        for name in ("x", "weight", "bias") if isinstance(a, ll.Gradients) else ():
            same(getattr(a, name), getattr(b, name))
        if not isinstance(a, ll.Gradients):
            same(a, b)


def test_fit_temperature():
    head, x, y = make((200,))
    y[::2] = head.predict(x[::2])
    np.testing.assert_allclose(ll.fit_temperature(head, Source(x), y),
                               ll.fit_temperature(head, x, y), rtol=1e-6)


def test_two_heads():
    head, x, _ = make((50,))
    other = head.with_temperature(3.0)
    same(head.kl_div(x, other, Source(x)), head.kl_div(x, other, x))


def test_out_is_filled():
    head, x, _ = make((50,))
    out = np.empty((50, N), np.float32)
    assert head.predict_proba(Source(x), out=out) is out
    same(out, head.predict_proba(x))


@pytest.mark.parametrize(("source", "error", "message"), [
    (Source(np.zeros((5, K + 1))), ValueError, "`x.shape"),
    (Source(np.zeros((5, K), complex)), TypeError, "`x` must be float16"),
    (Source(np.full((5, K), "a", object)), TypeError, "`x` must be float16"),
])
def test_what_does_not_fit_is_refused_before_it_is_read(source, error, message):
    with pytest.raises(error, match=message):
        make((5,))[0].predict(source)
    assert not source.reads


def test_errors_of_reading_come_out_as_they_are():
    class Broken(Source):
        def __getitem__(self, where):
            if where[0].start > 20:
                raise OSError("truncated")
            return super().__getitem__(where)

    head, x, y = make((50,))
    loss = np.full(50, 7, np.float32)
    with pytest.raises(OSError, match="truncated"):
        head.loss(Broken(x), y, out=loss)
    assert (loss == 7).all()  # it is written last


def test_what_shrinks_while_it_is_read():
    class Shrinking(Source):
        def __getitem__(self, where):
            self._array = self._array[: len(self._array) - 3]
            return self._array[where]

    with pytest.raises(ValueError, match=r"`x` must stay as it is .* expected float32 of shape"):
        make((50,))[0].predict(Shrinking(np.zeros((50, K), np.float32)))


def test_masked_blocks():
    class Masked(Source):
        def __getitem__(self, where):
            found = super().__getitem__(where)
            return np.ma.masked_array(found, found == 99)

    head, x, _ = make((50,))
    same(head.predict(Masked(x)), head.predict(x))
    x[31] = 99
    with pytest.raises(TypeError, match="`x` must be a plain array, got a masked one"):
        head.predict(Masked(x))


def test_dask_arrays_are_for_another_module():
    da = pytest.importorskip("dask.array")
    head, x, y = make((50,))
    with pytest.raises(TypeError, match=r"`x` must .*logitless\.dask.*`x.compute\(\)`"):
        head.predict(da.from_array(x))
    with pytest.raises(TypeError, match=r"`target` must .*`target.compute\(\)`"):
        head.loss(x, da.from_array(y))


@pytest.mark.parametrize("chunks", [None, (13, 2), (13, K), (90, K)], ids=str)
@pytest.mark.parametrize("library", ["h5py", "zarr"])
def test_libraries(tmp_path, library, chunks):
    """What is the same of all of them, in two."""
    module = pytest.importorskip(library)
    head, x, y = make((100,))
    if library == "h5py":
        with module.File(tmp_path / "x.h5", "w") as file:
            data = file.create_dataset("x", data=x, chunks=chunks)
            assert isinstance(Rows(Sliced(data, "x"))[3:9], np.ndarray)
            same(head.loss(data, y), head.loss(x, y))
            cube = file.create_dataset("cube", data=x.reshape(5, 20, K))
            same(head.predict(cube), head.predict(x).reshape(5, 20))
    else:
        data = module.array(x, **({"chunks": chunks} if chunks else {}))
        same(head.loss(data, y), head.loss(x, y))


@pytest.mark.parametrize("call", ["predict", "predict_proba", "predict_log_proba",
                                  "decision_function"])
def test_softmax_regression(call):
    sklearn = pytest.importorskip("logitless.sklearn")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, K)).astype(np.float32)
    model = sklearn.SoftmaxRegression().fit(x, np.array(list("abcd"))[rng.integers(0, 4, 100)])
    source = Source(x)
    ours, expected = getattr(model, call)(source), getattr(model, call)(x)
    if call == "predict":
        np.testing.assert_array_equal(ours, expected)
    else:
        same(ours, expected)
    assert len(source.reads) > 5
    for bad, message in [(x[:, :3], "3 features"), (x[:0], "0 sample"), (x[:, :, None], "dim 3")]:
        with pytest.raises(ValueError, match=message):
            getattr(model, call)(Source(bad))
    x[70, 2] = np.inf
    with pytest.raises(ValueError, match="X contains infinity"):
        getattr(model, call)(Source(x))


def test_memory_maps_are_arrays(tmp_path):
    head, x, _ = make((100,))
    np.save(tmp_path / "x.npy", x)
    same(head.predict(np.load(tmp_path / "x.npy", mmap_mode="r")), head.predict(x))


@pytest.mark.slow
def test_no_more_than_a_block_is_here(monkeypatch):
    """50 MB of rows that nobody holds."""
    monkeypatch.setattr("logitless._arrays.rows._BLOCK_BYTES", 4 << 20)

    class Made(Source):
        def __init__(self):
            self.shape, self.dtype, self.chunks = (200_000, 64), np.dtype("f4"), (1000, 64)

        def __getitem__(self, where):
            return np.ones([s.stop - s.start for s in where], "f4")

    head = ll.LinearHead(np.ones((40, 64), "f4"))
    target = np.zeros(200_000, np.int64)
    assert peak_again(lambda: head.loss(Made(), target)) < 20 * MIB
    assert peak_again(lambda: head.predict(Made())) < 20 * MIB
