"""Scores over chunks of rows, of classes, of both are those of one head."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("dask.array")

import dask
import dask.array as da
from dask.highlevelgraph import HighLevelGraph
from support.oracle import COMPILED

import logitless as ll
import logitless.dask as ll_dask
from logitless._parallel.pool import resolve
from logitless.dask import _states, _worker
from logitless.dask._graph import MERGED_AT_ONCE
from logitless.states import RowState

RNG = np.random.default_rng(5)
M, N, K = 12, 9000, 5
X = RNG.standard_normal((M, K))
WEIGHT = RNG.standard_normal((N, K))
BIAS = RNG.standard_normal(N)
TARGET = RNG.integers(0, N, M)
TARGET[[2, 7]] = -100
PROBS = np.where(RNG.random((M, N)) < 0.999, 0, RNG.random((M, N)))
SPANS = [(N,), (4096, 4904), (0, 4096, 0, 4096, 808), (8192, 808)]
ELSEWHERE = [(1, N - 1), (1000,) * 9, (4095, 1, 4904)]
MANY = (125,) * 72  # several levels of merges
OPTIONS = {
    "none": {},
    "weights": {"sample_weight": RNG.random(M), "class_weight": RNG.random(N)},
    "amounts": {"label_smoothing": 0.1, "z_loss": 0.01, "entropy_weight": -0.1},
    "scale": {"temperature": RNG.random(M) + 0.5, "softcap": 3.0},
    "cooler": {"temperature": 0.7},
}


@st.composite
def row_chunks(draw):
    cuts = draw(st.lists(st.integers(0, M), max_size=4))
    return tuple(int(size) for size in np.diff([0, *sorted(cuts), M]))


def fields(scores):
    """Arrays of scores by name."""
    top = scores.top and {f"top.{name}": getattr(scores.top, name) for name in (
        "index", "logit", "log_prob")}
    names = ("loss", "lse", "target_logit", "target_rank", "predicted", "max_logit", "entropy")
    return {**{name: getattr(scores, name) for name in names}, **(top or {})}


def check(found, expected, same_bits):
    for name, one, other in ((name, one, fields(expected)[name])
                             for name, one in fields(found).items()):
        if other is None:
            assert one is None, name
            continue
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        if same_bits or one.dtype.kind == "i":
            assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), name
        else:
            np.testing.assert_allclose(one, other, rtol=64 * np.finfo(one.dtype).eps, err_msg=name)


@pytest.mark.slow
@settings(max_examples=15)
@given(rows=row_chunks(), classes=st.sampled_from(SPANS + ELSEWHERE), options=st.sampled_from(
    list(OPTIONS)), kind=st.sampled_from(["none", "index", "probs"]), k=st.sampled_from([0, 1, 7]),
    entropy=st.booleans(), double=st.booleans(), bias=st.booleans())
@example(rows=(12,), classes=MANY, options="weights", kind="index", k=7,
         entropy=True, double=False, bias=True)
def test_scores(rows, classes, options, kind, k, entropy, double, bias):
    dtype = np.dtype(np.float64 if double else np.float32)
    x, weight = X.astype(dtype), WEIGHT.astype(dtype)
    target = {"none": None, "index": TARGET, "probs": PROBS}[kind]
    of_call = dict(OPTIONS[options])
    if target is None:
        of_call = {name: value for name, value in of_call.items() if name in (
            "temperature", "softcap")}
    lazy_bias = da.from_array(BIAS.astype(dtype), chunks=1234) if bias else None
    lazy = ll_dask.score(
        da.from_array(x, chunks=(rows, 3)), da.from_array(weight, chunks=(classes, 2)),
        None if target is None else da.from_array(target, chunks=5), lazy_bias, k=k,
        entropy=entropy, **of_call)
    (found,) = dask.compute(lazy, scheduler="sync")
    expected = ll.linear_score(x, weight, target, BIAS.astype(dtype) if bias else None, k=k,
                               entropy=entropy, **of_call)
    for name, array in fields(lazy).items():
        assert array is None or array.chunks[0] == rows, name
    check(found, expected, COMPILED and classes in SPANS)


@pytest.mark.parametrize("classes", [*SPANS[:2], *ELSEWHERE[:2], MANY], ids=str)
def test_loss_predict_topk(classes):
    """Best classes have the bits of one head wherever classes are cut."""
    x = X.copy()
    x[4] = np.nan
    weight = WEIGHT.copy()
    weight[[3, 5000, 8000]] = 10 * weight[3]
    x[5] = weight[3]
    weight[0] *= 30
    x[6:11] = weight[0] + x[6:11]  # best by far, in a chunk of its own, too
    weight[[100, 7000], 0] = 0
    x[11, 0] = np.inf  # these are NaN, others infinite
    lazy = da.from_array(x, chunks=(5, K)), da.from_array(weight, chunks=(classes, K))
    head = ll.LinearHead(weight)
    found = dask.compute(ll_dask.predict(*lazy), ll_dask.topk(*lazy, 7),
                         ll_dask.topk(*lazy, 7, normalize=False),
                         ll_dask.loss(*lazy, TARGET, z_loss=0.1), scheduler="sync")
    assert np.array_equal(found[0], head.predict(x))
    assert found[0][5] == 3
    expected = head.topk(x, 7)
    for top in found[1:3]:
        assert np.array_equal(top.index, expected.index)
        np.testing.assert_allclose(top.logit, expected.logit, rtol=0 if COMPILED else 1e-13)
    np.testing.assert_allclose(found[1].log_prob, expected.log_prob, rtol=1e-13)
    assert found[2].log_prob is None
    np.testing.assert_allclose(found[3], head.loss(x, TARGET, z_loss=0.1), rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, "bfloat16"])
def test_a_head_in_place_of_weights(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    head = ll.LinearHead(WEIGHT[:30].astype(dtype), BIAS[:30], softcap=5.0, temperature=2.0)
    x, target = X.astype(np.float32), TARGET % 30
    lazy = ll_dask.score(da.from_array(x, chunks=(5, K)), head, target, k=2)
    check(dask.compute(lazy)[0], head.score(x, target, k=2), True)
    with pytest.raises(ValueError, match="`softcap` is that of the head"):
        ll_dask.predict(x, head, softcap=2.0)


def test_rows_that_are_special():
    """A NaN, infinities, nothing at all: as one head has them, in their rows alone."""
    x = X.astype(np.float32)
    x[0, 0], x[1, 1], x[3, 2] = np.nan, np.inf, -np.inf
    weight = WEIGHT.astype(np.float32)
    weight[5000] = -np.inf
    weight[6000] = weight[100]  # a tie
    for target in TARGET, np.full(M, 6000):
        lazy = ll_dask.score(da.from_array(x, chunks=(7, K)),
                             da.from_array(weight, chunks=((4096, 4904), K)), target, k=5,
                             entropy=True)
        (found,) = dask.compute(lazy, scheduler="sync")
        check(found, ll.linear_score(x, weight, target, k=5, entropy=True), COMPILED)
    none = ll_dask.score(da.from_array(x[:0]), da.from_array(weight, chunks=(4096, K)), TARGET[:0])
    assert none.loss.compute().shape == (0,)


def test_rows_of_frames_and_of_unknown_number():
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pd.DataFrame(X, columns=list("abcde")).assign(y=TARGET), npartitions=3)
    chosen = frame[frame.a > 0]
    (found,) = dask.compute(ll_dask.score(
        chosen[list("abcde")], da.from_array(WEIGHT, chunks=(4096, K)), chosen.y))
    rows = X[:, 0] > 0
    check(found, ll.linear_score(X[rows], WEIGHT, TARGET[rows]), COMPILED)


@pytest.mark.parametrize("classes", SPANS[:2], ids=str)
def test_sparse_rows(classes):
    sparse = pytest.importorskip("scipy.sparse")
    rows = sparse.csr_array(np.where(X > 0, X, 0))
    weight = da.from_array(WEIGHT, chunks=(classes, K))
    chunks = da.from_array(rows.toarray(), chunks=(5, 3)).map_blocks(sparse.csr_array)
    for x in rows, chunks, da.from_array(sparse.csr_matrix(rows), chunks=(5, -1), asarray=False):
        (found,) = dask.compute(ll_dask.score(x, weight, TARGET, k=3), scheduler="sync")
        check(found, ll.linear_score(rows, WEIGHT, TARGET, k=3), COMPILED)


def test_damaged_sparse_rows_are_refused_before_they_are_cut():
    rows = pytest.importorskip("scipy.sparse").csr_array(np.ones((3, K)))
    rows.indptr = np.array([0, 5, 10, 10**6])
    with pytest.raises(ValueError, match=r"x\.indices.*1000000"):
        ll_dask.predict(rows, WEIGHT, BIAS)
    rows.data = rows.data.astype(object)
    with pytest.raises(TypeError, match=r"`x` must be .* got object"):
        ll_dask.predict(rows, WEIGHT, BIAS)


def test_data_sets_of_files_are_read_by_tasks(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X
        lazy = ll_dask.loss(file["x"], WEIGHT, TARGET)
        file["x"][...] = X[::-1]
        found = lazy.compute(scheduler="sync")
    assert np.array_equal(found, ll.linear_cross_entropy(X[::-1], WEIGHT, TARGET))


def tasks_of(*lazy):
    return len(HighLevelGraph.merge(*(array.dask for array in lazy)))


@pytest.mark.parametrize("shards", [1, 8, 20])
def test_a_task_a_block_and_a_merge_a_level(shards):
    """Nothing of (rows x classes) is made, and what is made is told from its number of tasks."""
    rows = 30
    x = da.zeros((rows, K), chunks=(1, K))
    weight = da.zeros((shards * 4096, K), chunks=(4096, K))
    target = da.zeros(rows, dtype=np.int64, chunks=1)
    given = tasks_of(x, weight, target)
    merges = 1 if shards <= MERGED_AT_ONCE else 1 + -(-shards // MERGED_AT_ONCE)
    scores = ll_dask.score(x, weight, target)
    blocks = rows * shards
    if shards == 1:
        assert tasks_of(scores.loss) - given == 2 * rows
        return
    loss = ll_dask.loss(x, weight, target)
    assert tasks_of(loss) - given == blocks + rows * (merges + 1)
    assert tasks_of(scores.loss) - given == 2 * (blocks + rows * merges) + rows
    assert tasks_of(scores.loss, scores.target_rank) - tasks_of(scores.loss) == rows
    results = scores.loss.dask.layers[next(
        name for name in scores.loss.dask.layers if name.startswith("logitless-scores"))]
    assert len(pickle.dumps(dict(results))) < 2000 * len(results)


def test_what_is_merged_is_not_changed():
    """Dask may merge a state again, after the death of who had the result."""
    tasks = _states.Tasks(_worker.Setting.of(None), (), N, False, {}, {}, "all", True)
    states = [ll.RowState.of(X, WEIGHT[first : first + 3000], first=first)
              for first in (0, 3000, 6000)]
    for _ in range(2):
        assert np.array_equal(tasks.finish(states).predicted, ll.linear_argmax(X, WEIGHT))
    assert states[0].classes == [(0, 3000)]


def test_what_tasks_leave_are_some_numbers_a_row(monkeypatch):
    """A state is as large whatever the number of classes."""
    sizes = []
    state = _states.Tasks.state
    monkeypatch.setattr(_states.Tasks, "state", lambda *args: sizes.append(
        len(pickle.dumps(made := state(*args)))) or made)
    x = da.from_array(X, chunks=(M, K))
    for classes in ((4096, 4904), (4096, 4904 - 4096, 4096)):
        ll_dask.loss(x, da.from_array(WEIGHT, chunks=(classes, K)), TARGET).compute()
    assert len(sizes) == 5
    assert max(sizes) < 200 * M + 2000


@pytest.mark.parametrize(("n_threads", "expected"), [(None, 1), (3, 3)])
def test_threads_are_dask_s(n_threads, expected, monkeypatch):
    """One a task, as Dask runs as many tasks as its workers have threads."""
    found = []
    score = RowState.of
    monkeypatch.setattr("logitless.dask._states.RowState.of",
                        lambda *args, **named: found.append(resolve()) or score(*args, **named))
    lazy = ll_dask.loss(da.from_array(X, chunks=(6, K)), da.from_array(WEIGHT, chunks=(4096, K)),
                        TARGET, n_threads=n_threads)
    with ll.threads(2):
        lazy.compute(scheduler="threads", num_workers=2)
    assert found == 6 * [expected]


def test_another_version_on_a_worker_is_told(monkeypatch):
    lazy = ll_dask.loss(X, da.from_array(WEIGHT, chunks=(4096, K)), TARGET)
    grad = ll_dask.value_and_grad(X, WEIGHT, TARGET)[0]
    here = _worker.made_by()
    monkeypatch.setattr(_worker, "made_by", lambda: "logitless 0.0.1, arithmetic 1")
    for array in lazy, grad:
        with pytest.raises(RuntimeError) as caught:
            array.compute(scheduler="sync")
        assert str(caught.value) == (
            f"a worker has logitless 0.0.1, arithmetic 1, the client {here}: all must have the "
            "same, as results have the same bits only then")


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"k": N + 1}, ValueError, "`k` must be between 0 and 9000, got 9001"),
    ({"shift": 1}, TypeError, "unexpected keyword argument 'shift'"),
    ({"pack": True}, TypeError, "unexpected keyword argument 'pack'"),
    ({"temperature": 0.0}, ValueError, "`temperature` must be positive"),
    ({"z_loss": -1}, ValueError, "`z_loss` must be at least 0"),
    ({"bias": BIAS[:3]}, ValueError, r"`bias` must have shape \(9000,\), got \(3,\)"),
    ({"temperature": BIAS}, ValueError, r"`temperature` must have shape \(12,\), got \(9000,\)"),
    ({"target": PROBS, "ignore_index": 3}, ValueError, "`ignore_index` must be left alone"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_what_is_wrong_is_said_at_once(change, error, message):
    with pytest.raises(error, match=message):
        ll_dask.score(**{"x": X, "weight": WEIGHT, "target": TARGET, **change})


def test_a_loss_needs_a_target():
    with pytest.raises(TypeError, match="`target`"):
        ll_dask.loss(X, WEIGHT, None)


def test_a_wrong_target_is_found_in_its_chunk():
    target = TARGET.copy()
    target[9] = N
    loss = ll_dask.loss(da.from_array(X, chunks=(4, K)), da.from_array(WEIGHT, chunks=(4096, K)),
                        target)
    with pytest.raises(IndexError, match=r"9000.*row 1 .*rows counted from 8 on"):
        loss.compute(scheduler="sync")


CLUSTER = """
import hashlib, os, signal, time
import dask, dask.array as da, numpy as np
from distributed import Client, LocalCluster
import logitless.dask as ll_dask

GO = os.path.abspath("go")

def gate(rows, block_id=None):
    while block_id[0] == 24 and not os.path.exists(GO):  # the last chunk waits
        time.sleep(0.01)
    return rows

def lazy():
    rng = da.random.default_rng(0)
    x = rng.standard_normal((1000, 16), chunks=(40, 16), dtype=np.float32)
    x = x.map_blocks(gate, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    weight = rng.standard_normal((12000, 16), chunks=((8192, 3808), 16), dtype=np.float32)
    target = rng.integers(0, 12000, 1000, chunks=40)
    scores = ll_dask.score(x, weight, target, k=3)
    loss, grad = ll_dask.value_and_grad(x, weight, target)
    return [scores.loss, scores.target_rank, scores.top.logit, loss, grad.x, grad.weight]

def digests(arrays):
    return [hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for array in arrays]

open(GO, "w").close()
expected = digests(dask.compute(*lazy(), scheduler="sync"))
os.remove(GO)
with LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None) as cluster, \
        Client(cluster) as client:
    workers = client.run(os.getpid)
    futures = client.compute(lazy())
    for pid in list(workers.values())[:2]:
        while sum(map(len, client.has_what().values())) < 6:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
    open(GO, "w").close()
    print(digests(client.gather(futures)) == expected)
    del futures
    print(len(set(workers) - set(client.scheduler_info()["workers"])))

    def another_version():
        from logitless._calls import pickled_parts
        pickled_parts.__version__ = "0.0.9"

    client.run(another_version)
    try:
        client.compute(lazy()[0]).result()
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.slow
def test_bits_are_the_same_when_workers_die(run_python):
    pytest.importorskip("distributed")
    *lines, refusal = run_python(CLUSTER, OMP_NUM_THREADS="1").splitlines()
    assert lines == ["True", "2"]
    assert refusal.startswith("a worker has logitless 0.0.9, arithmetic ")
