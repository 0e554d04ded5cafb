"""Frames and columns of pandas, polars and pyarrow are the arrays that they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import says

import logitless as ll
from logitless._arrays.checks import as_array
from logitless._arrays.frames import remedy

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

M, N, K = 6, 5, 4
X = np.random.default_rng(0).standard_normal((M, K)).astype(np.float32)


def columns(a):
    return {f"f{j}": a[:, j] for j in range(a.shape[1])}


def arrow_lists(a, kind=None):
    kind = kind or pa.list_(pa.from_numpy_dtype(a.dtype))
    return pa.array(a.tolist(), kind)


def fixed_lists(a):
    return pa.FixedSizeListArray.from_arrays(a.ravel(), a.shape[1])


# What may be made of a matrix, by name.
MATRICES = {
    "pandas": pd.DataFrame,
    "pandas, masked": lambda a: pd.DataFrame(a).astype(str(a.dtype).capitalize()),
    "pandas, arrow": lambda a: pd.DataFrame(a).astype(
        pd.ArrowDtype(pa.from_numpy_dtype(a.dtype))),
    "pandas, two kinds": lambda a: pd.DataFrame(a).astype({0: str(a.dtype).capitalize()}),
    "pandas, one column of arrays": lambda a: pd.DataFrame({"e": list(a)}),
    "pandas, same names": lambda a: pd.DataFrame(a, columns=["f"] * a.shape[1]).astype(
        str(a.dtype).capitalize()),
    "pandas, column of arrays": lambda a: pd.Series(list(a)),
    "pandas, arrow lists": lambda a: pd.Series(
        arrow_lists(a), dtype=pd.ArrowDtype(pa.list_(pa.from_numpy_dtype(a.dtype)))),
    "pandas, fixed lists": lambda a: pd.Series(fixed_lists(a), dtype=pd.ArrowDtype(
        pa.list_(pa.from_numpy_dtype(a.dtype), a.shape[1]))),
    "polars": lambda a: pl.DataFrame(columns(a)),
    "polars, chunks": lambda a: pl.concat(
        [pl.DataFrame(columns(a[:2])), pl.DataFrame(columns(a[2:]))], rechunk=False),
    "polars, lists": lambda a: pl.Series(a.tolist(), dtype=pl.List(pl.Series(a[0]).dtype)),
    "polars, arrays": lambda a: pl.Series(a),
    "polars, frame of lists": lambda a: pl.DataFrame(
        {"e": pl.Series(a.tolist(), dtype=pl.List(pl.Series(a[0]).dtype))}),
    "polars, frame of arrays": lambda a: pl.DataFrame({"e": pl.Series(a)}),
    "polars, slice of arrays": lambda a: pl.Series(np.concatenate([a, a, a]))[len(a) : 2 * len(a)],
    "pyarrow": lambda a: pa.table(columns(a)),
    "pyarrow, batch": lambda a: pa.record_batch(columns(a)),
    "pyarrow, chunks": lambda a: pa.concat_tables([pa.table(columns(a[:2])),
                                                   pa.table(columns(a[2:]))]),
    "pyarrow, lists": arrow_lists,
    "pyarrow, large lists": lambda a: arrow_lists(a, pa.large_list(pa.from_numpy_dtype(a.dtype))),
    "pyarrow, fixed lists": fixed_lists,
    "pyarrow, slice of fixed lists": lambda a: fixed_lists(
        np.concatenate([a, a, a]))[len(a) : 2 * len(a)],
    "pyarrow, slice of lists": lambda a: arrow_lists(
        np.concatenate([a, a, a]))[len(a) : 2 * len(a)],
    "pyarrow, chunks of lists": lambda a: pa.chunked_array(
        [arrow_lists(a[:2]), arrow_lists(a[:0]), arrow_lists(a[2:])]),
    "pyarrow, table of lists": lambda a: pa.table({"e": fixed_lists(a)}),
    "pyarrow, tensors": pa.FixedShapeTensorArray.from_numpy_ndarray,
}
COLUMNS = {
    "pandas": pd.Series,
    "pandas, masked": lambda a: pd.Series(a).convert_dtypes(),
    "pandas, arrow": lambda a: pd.Series(a).astype(pd.ArrowDtype(pa.from_numpy_dtype(a.dtype))),
    "pandas, index": pd.Index,
    "pandas, extension array": lambda a: pd.Series(a).convert_dtypes().array,
    "pandas, categories": lambda a: pd.Series(a, dtype="category"),
    "polars": pl.Series,
    "pyarrow": pa.array,
    "pyarrow, chunks": lambda a: pa.chunked_array([a[:2], a[2:]]),
    "pyarrow, dictionary": lambda a: pa.array(a).dictionary_encode(),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_a_matrix_is_itself_in_its_own_precision(make, dtype):
    a = X.astype(dtype)
    array = as_array(make(a), "x")
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, a)


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("values", [np.arange(M), np.arange(M) % 2 == 0, np.arange(M) / 4],
                         ids=["int", "bool", "float"])
def test_a_column_is_itself(make, values):
    array = as_array(make(values), "target")
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("make", MATRICES.values(), ids=MATRICES)
def test_every_argument_may_be_a_frame(make):
    weight = np.arange(N * K, dtype=np.float32).reshape(N, K) % 7
    label = pd.Series(np.arange(M) % N, dtype="Int64")
    soft = np.full((M, N), np.float32(1 / N))
    want = ll.linear_cross_entropy(X, weight, np.arange(M) % N, np.ones(N, np.float32),
                                   sample_weight=np.arange(M), class_weight=np.arange(N))
    got = ll.linear_cross_entropy(
        make(X), make(weight), label, pl.Series(np.ones(N, np.float32)),
        sample_weight=pa.array(range(M)), class_weight=pd.Series(range(N), dtype="Int64"))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
    head = ll.LinearHead(weight)
    np.testing.assert_array_equal(head.loss(X, make(soft)), head.loss(X, soft))
    np.testing.assert_array_equal(ll.softmax(make(X)), ll.softmax(X))


INTEGERS = {
    "pandas": lambda v: pd.Series(v, dtype="Int64"),
    "pandas, index": lambda v: pd.Index(v, dtype="Int64"),
    "pandas, arrow": lambda v: pd.Series(v, dtype="int64[pyarrow]"),
    "pandas, categories": lambda v: pd.Series(v, dtype="category"),
    "pandas, frame": lambda v: pd.DataFrame({"y": pd.Series(v, dtype="Int64")}),
    "polars": pl.Series,
    "polars, frame": lambda v: pl.DataFrame({"y": v}),
    "pyarrow": pa.array,
    "pyarrow, chunks": lambda v: pa.chunked_array([v]),
    "pyarrow, table": lambda v: pa.table({"y": v}),
}


@pytest.mark.parametrize("make", INTEGERS.values(), ids=INTEGERS)
def test_a_missing_number_is_nan_and_a_missing_class_is_refused(make):
    value = make([3, 0, None, 2])
    array = as_array(value, "x")
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array.ravel(), [3, 0, np.nan, 2])
    with says(ValueError, "target", "classes", "row 2", "-100", "ignore_index"):
        as_array(value, "target")


@pytest.mark.parametrize("value", [
    pd.Series([True, None], dtype="boolean"), pd.Series([True, None], dtype="bool[pyarrow]"),
    pl.Series([True, None]), pa.array([True, None]),
    pd.Series([1.0, None], dtype="Float32"), pd.Series([1.0, None], dtype="float[pyarrow]"),
    pl.Series([1.0, None], dtype=pl.Float32), pa.array([1.0, None], pa.float32()),
], ids=lambda v: f"{type(v).__module__} {getattr(v, 'dtype', '')}")
def test_missing_of_what_is_computed_in_float32(value):
    array = as_array(value, "x")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, [1, np.nan])


KINDS = ["bool", "int8", "uint8", "int16", "int32", "int64", "uint64", "float32", "float64"]


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), st.integers(1, 3))
def test_mixed_columns_are_promoted_as_the_library_promotes_them(kinds, m):
    data = {f"{j}": np.ones(m, kind) for j, kind in enumerate(kinds)}
    whole = np.ones((m, len(kinds)))
    frame, table, masked = pd.DataFrame(data), pa.table(data), pd.DataFrame(data).convert_dtypes()
    polar = pl.DataFrame(data)
    for value in frame, table, masked, polar:
        np.testing.assert_array_equal(as_array(value, "x"), whole)
    assert as_array(table, "x").dtype == np.asarray(table).dtype
    if np.asarray(frame).dtype != object:  # as of bool beside a number
        assert as_array(frame, "x").dtype == np.asarray(frame).dtype
    assert as_array(polar, "x").dtype == polar.to_numpy().dtype


@given(st.integers(0, 5), st.integers(0, 3), st.sampled_from([np.float32, np.int64]))
def test_lists_of_any_length(m, k, dtype):
    a = np.arange(m * k, dtype=dtype).reshape(m, k)
    inner = pa.from_numpy_dtype(a.dtype)
    for value in (pa.array(a.tolist(), pa.list_(inner, k)), pl.Series(a) if m and k else None,
                  pa.array(a.tolist(), pa.list_(inner)) if m else None,
                  pd.Series(list(a)) if m else None,
                  pl.Series(a.tolist(), dtype=pl.List(pl.Series(a.ravel()).dtype)) if m else None):
        if value is not None:
            array = as_array(value, "x")
            assert array.shape == (m, k)
            np.testing.assert_array_equal(array, a)


def test_lists_of_lists():
    a = np.arange(24.0).reshape(2, 3, 4)
    for value in pl.Series(a), pl.Series(a.tolist()), pa.array(a.tolist()), pd.Series(a.tolist()):
        np.testing.assert_array_equal(as_array(value, "x"), a)


def test_numbers_missing_in_lists():
    rows = [[1.0, None], [3.0, 4.0]]
    for value in (pl.Series(rows), pl.Series(rows, dtype=pl.Array(pl.Float64, 2)),
                  pa.array(rows), pa.array(rows, pa.list_(pa.float64(), 2))):
        np.testing.assert_array_equal(as_array(value, "x"), [[1, np.nan], [3, 4]])


RAGGED = [[1.0, 2.0], [3.0]]
GAPS = [[1.0, 2.0], None]


@pytest.mark.parametrize("value", [
    pd.Series(RAGGED), pd.DataFrame({"e": RAGGED}), pl.Series(RAGGED), pl.DataFrame({"e": RAGGED}),
    pa.array(RAGGED), pa.table({"e": RAGGED}), pa.chunked_array([RAGGED[:1], RAGGED[1:]]),
    pd.Series(RAGGED, dtype=pd.ArrowDtype(pa.list_(pa.float64()))),
], ids=lambda v: f"{type(v).__module__}.{type(v).__name__}")
def test_ragged_lists(value):
    with says(ValueError, "x", "equally long", "1 to 2"):
        as_array(value, "x")


@pytest.mark.parametrize("value", [
    pd.Series(GAPS), pl.Series(GAPS), pl.Series(GAPS, dtype=pl.Array(pl.Float64, 2)),
    pa.array(GAPS), pa.array(GAPS, pa.list_(pa.float64(), 2)),
], ids=lambda v: f"{type(v).__module__}.{type(v).__name__}")
def test_missing_lists(value):
    with says(ValueError, "x", "all there"):
        as_array(value, "x")


@pytest.mark.parametrize(("value", "words"), [
    (pd.DataFrame({"a": [1.0], "name": ["b"]}), ["'name'", ".astype(np.float32)"]),
    (pd.DataFrame({"a": [1.0], "o": pd.Series([None], dtype=object)}), ["'o'", "object"]),
    (pd.Series(["a", "b"]), [".astype(np.float32)"]),
    (pd.Series(["a", "b"], dtype="category"), [".cat.codes"]),
    (pd.Series([[1.0, 2.0], [None, 2.0]]), ["None", "[1, 0]"]),
    (pd.DataFrame({"t": pd.to_datetime(["2020-01-01"]), "a": [1.0]}), ["'t'", "datetime64"]),
    (pl.DataFrame({"a": [1.0], "name": ["b"]}), ["'name'", "String", ".cast(polars.Float32)"]),
    (pl.Series(["a"], dtype=pl.Categorical), ["Categorical", ".to_physical()"]),
    (pl.LazyFrame({"a": [1.0]}), [".collect()"]),
    (pa.table({"a": [1.0], "name": ["b"]}), ["'name'", "string", ".cast(pyarrow.float32())"]),
    (pa.array([None, None]), ["null"]),
    (pa.scalar(1.0), ["no sequence"]),
    ([[1.0, None]], ["None", "[0, 1]"]),
    ([2**70, 1], ["1180591620717411303424", "np.asarray(..., dtype=np.float32)"]),
    ({"a": 1}, ["no sequence"]),
    (iter([1.0]), ["no sequence"]),
], ids=lambda v: str(v) if isinstance(v, list) else type(v).__name__)
def test_what_is_no_matrix_of_numbers(value, words):
    with says(TypeError, "x", *words):
        as_array(value, "x")


def test_lists_beside_numbers():
    lists = [[1.0, 2.0]]
    for frame in (pd.DataFrame({"a": [1.0], "e": lists}), pl.DataFrame({"a": [1.0], "e": lists}),
                  pa.table({"e": lists, "a": [1.0]})):
        with says(ValueError, "x", "lists", "2 columns"):
            as_array(frame, "x")


def test_what_need_not_be_copied_is_not():
    frame, masked = pd.DataFrame(X), pd.Series(X[:, 0].copy(), dtype="Float32")
    series, lists = pl.Series(X), fixed_lists(X)
    for value, same in ((frame, frame.to_numpy()), (masked, masked.to_numpy()),
                        (series, series.to_numpy()), (lists, lists.flatten().to_numpy()),
                        (pa.table({"e": lists}), lists.flatten().to_numpy()),
                        (pd.Series(lists, dtype=pd.ArrowDtype(lists.type)),
                         lists.flatten().to_numpy())):
        assert np.shares_memory(as_array(value, "x"), same), value


def test_an_extension_type_is_what_it_stores():
    class Embedding(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.list_(pa.float32(), K), "logitless.test")

        def __arrow_ext_serialize__(self):
            return b""

    np.testing.assert_array_equal(
        as_array(pa.ExtensionArray.from_storage(Embedding(), fixed_lists(X)), "x"), X)


@pytest.mark.parametrize(("dtype", "words"), [
    ("V2", ".view(ml_dtypes.bfloat16)"), ("O", "np.stack"), ("U3", ".astype(np.float32)"),
    ([("a", "f4"), ("b", "i4")], "fields ('a', 'b')"), ("c8", ""), ("V3", "")])
def test_remedies(dtype, words):
    said = remedy(np.dtype(dtype))
    assert words in said
    assert bool(words) == bool(said)


def test_no_library_is_imported_for_those_who_do_not_use_it(run_python):
    code = """
import sys, logitless as ll
ll.LinearHead([[1.0], [2.0]]).loss([[1.0]], [1])
print({"pandas", "polars", "pyarrow"} & set(sys.modules))
"""
    assert run_python(code).strip() == "set()"
