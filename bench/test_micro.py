"""The kernels alone, on data that stays in the caches.

The table has the time of a call; `extra_info` has `ns_each`: ns for each element or logit, and for
products of bytes `gop_s`, 1e9 multiplications and additions a second.
"""

import time

import numpy as np
import pytest

import logitless as ll

if ll.active_isa() == "numpy":
    pytest.skip("plain NumPy has no kernels", allow_module_level=True)

from logitless._engines.compiled import _core

COUNT = 1 << 14


@pytest.fixture(params=[32, 64], ids=["f32", "f64"])
def kernels(request):
    return _core.Kernels(ll.active_isa(), request.param)


@pytest.fixture
def time_each(benchmark):
    """Time a call that does `count` things, and tell the time of one."""

    def run(group, count, call, **facts):
        benchmark.group = f"{group}, {count} at a time"
        benchmark(call)
        if benchmark.stats is None:  # --benchmark-disable
            return
        each = benchmark.stats.stats.min / count
        benchmark.extra_info.update(isa=ll.active_isa(), count=count, ns_each=each * 1e9)
        if "flops_each" in facts:
            benchmark.extra_info["gflop_s"] = facts["flops_each"] / each / 1e9

    return run


def dtype_of(kernels):
    return np.dtype(f"f{kernels.itemsize}")


def aligned_bytes(count):
    memory = np.empty(count + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :]


@pytest.mark.parametrize("name", _core.FUNCTIONS)
def test_map(kernels, name, time_each):
    x = np.linspace(0.1, 10, COUNT, dtype=dtype_of(kernels))
    y = np.empty_like(x)
    time_each("map", COUNT, lambda: kernels.map(name, x, y))


@pytest.mark.parametrize("order", ["C", "F"])
def test_pack_weight(kernels, order, time_each):
    n, k = 256, 256
    weight = np.ones((n, k), dtype_of(kernels), order=order)
    out = np.empty(n * k, weight.dtype)
    time_each("pack weight", n * k, lambda: kernels.pack_weight(weight, out))


def job_of(kernels, rows, n, k):
    """A job that wants nothing yet, its state, and its rows."""
    dtype = dtype_of(kernels)
    job = _core.Job(kernels, rows, n, k, 0.0, 1.0)
    values = np.empty((len(_core.FIELDS), rows), dtype)
    ints = np.empty((len(_core.INT_FIELDS), rows), np.int64)
    job.remember(values, None, ints, None)
    x = np.random.default_rng(0).random((rows, k)).astype(dtype)
    job.rows(x)
    return job, x


def test_pack_x(kernels, time_each):
    rows, k = 192, 256
    job, x = job_of(kernels, rows, 512, k)
    packed = np.empty(rows * k + kernels.lanes, x.dtype)

    def call():
        job.rows(x)
        job.pack_rows(packed)

    time_each("pack x", rows * k, call)


# k = 256 is the micro-kernel with a little epilogue; k = 1 is the epilogue with a little
# micro-kernel. The difference between the cases of one k is that of their epilogues.
@pytest.mark.parametrize("asked", ["predict", "loss", "entropy"])
@pytest.mark.parametrize("k", [256, 1])
def test_tiles(kernels, k, asked, time_each):
    rows, n = 192, kernels.block
    job, x = job_of(kernels, rows, n, k)
    fields = {"predict": (), "entropy": ("rest", "others", "moment")}.get(asked, ("rest", "others"))
    job.ask(_core.field_bits(*fields), False, None, 0, None, None)
    packed_x = np.empty(rows * k + kernels.lanes, x.dtype)
    job.pack_rows(packed_x)
    weight = np.random.default_rng(1).random((n, k)).astype(x.dtype)
    packed = np.empty(n * k, x.dtype)
    kernels.pack_weight(weight, packed)
    job.weights(packed.reshape(1, -1), None, True, 0, _core.TYPES["real"])
    job.scratch(aligned_bytes(job.scratch_bytes()))
    job.init()
    time_each(f"logits of tiles with k = {k}", rows * n, lambda: job.score(0, n),
              flops_each=2 * k)


def fma_gflop_s(kernels):
    """Peak of multiply-adds, in trials as short as what is held against it."""
    seconds, flops = [], 0.0
    for _ in range(2000):
        start = time.perf_counter()
        flops = kernels.spin_fma(2000)
        seconds.append(time.perf_counter() - start)
    return flops / min(seconds) / 1e9


# Nothing is kept: no logit reaches what each row is said to know already. So this is the product
# of bytes and a comparison of every sum.
@pytest.mark.parametrize("k", [2048, 256])
def test_scan(k, time_each, benchmark):
    kernels = _core.Kernels(ll.active_isa(), 32)
    rows, n, rng = 48, 256, np.random.default_rng(0)
    weight, x = (rng.standard_normal((size, k), dtype=np.float32) for size in (n, rows))
    screen = ll.LinearHead(weight, screen="int8")._layer.screen
    screening = _core.Screening(screen.screener, rows, n, k, 1, 0.0, 1.0)
    screening.classes(screen.weight, screen.fine, screen.bounds, None, screen.no_bias,
                      screen.slack)
    least, count = np.empty(rows, np.float32), np.empty(rows, np.int32)
    upper, index = np.empty((rows, n), np.float32), np.empty((rows, n), np.int32)
    screening.remember(least, np.empty((rows, 1), np.float32), upper, index, count)
    packed = aligned_bytes(screen.screener.row_bytes(rows, k))
    screening.quantise_rows(x, 1, packed, np.empty((rows, 3), np.float32),
                            np.empty(rows, np.int32))
    least[:] = np.finfo(np.float32).max
    job, _ = job_of(kernels, rows, n, k)
    screening.scratch(job, aligned_bytes(screening.scratch_bytes(job)))
    blocks = n // screen.screener.block
    time_each(f"byte products with k = {k}", rows * n, lambda: screening.scan(0, blocks))
    assert not count.any()
    if benchmark.stats is None:
        return
    gop_s = 2 * k / benchmark.extra_info["ns_each"]
    benchmark.extra_info.update(screen=screen.screener.name, gop_s=gop_s)
    if screen.screener.name == "vnni":  # four bytes in place of each float32
        benchmark.extra_info["of_peak"] = gop_s / (4 * fma_gflop_s(kernels))
