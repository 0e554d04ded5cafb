"""Tables in Parquet, Arrow and CSV files: their columns as matrices, a batch of rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._arrays.files import listed
from .._arrays.frames import read_frame
from .._parallel import pool
from .errors import InputError, missing, told_of
from .files import Source

BATCH_BYTES = 8 << 20


class Column(NamedTuple):
    """A column of numbers, or of lists of numbers."""

    name: str
    dtype: np.dtype
    of_lists: bool
    width: int | None  # of lists that are all as long


class _Table:
    """A file of rows; subclasses know the formats."""

    def __init__(self, path: str):
        self.path = path
        self.failure = "it cannot be read as a table"
        self.schema: Any = None
        self.n_rows = 0
        self.index: set[str] = set()  # columns that are the index of a frame of pandas

    def batches(self, columns: list[str], begin: int,
                numbers: np.dtype | None) -> Iterator[tuple[int, Any]]:
        """First rows and record batches from the one with row `begin` on."""
        raise NotImplementedError


class _ParquetTable(_Table):
    """Read a part of a row group at a time."""

    def __init__(self, path: str):
        super().__init__(path)
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20)
        self.schema = self._file.schema_arrow
        self.n_rows = self._file.metadata.num_rows
        metadata = self._file.metadata
        self._groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]

    def batches(self, columns: list[str], begin: int,
                numbers: np.dtype | None) -> Iterator[tuple[int, Any]]:
        start, group = 0, 0
        while group < len(self._groups) and start + self._groups[group].num_rows <= begin:
            start, group = start + self._groups[group].num_rows, group + 1
        size = sum(each.total_byte_size for each in self._groups)
        rows = max(1, min(BATCH_BYTES // max(1, size // max(self.n_rows, 1)), 1 << 16))
        for batch in self._file.iter_batches(rows, list(range(group, len(self._groups))),
                                              columns):
            yield start, batch
            start += batch.num_rows


class _ArrowTable(_Table):
    """Read a record batch at a time."""

    def __init__(self, path: str):
        super().__init__(path)
        import pyarrow.dataset

        # Not mapped: what becomes smaller must be an error.
        self.schema = pyarrow.ipc.open_file(pyarrow.OSFile(path)).schema
        self.n_rows = pyarrow.dataset.dataset(path, format="ipc").count_rows()

    def batches(self, columns: list[str], begin: int,
                numbers: np.dtype | None) -> Iterator[tuple[int, Any]]:
        import pyarrow.ipc

        fields = [self.schema.get_field_index(name) for name in columns]
        options = pyarrow.ipc.IpcReadOptions(included_fields=fields)
        file = pyarrow.ipc.open_file(pyarrow.OSFile(self.path), options=options)
        start = 0
        for i in range(file.num_record_batches):
            batch = file.get_batch(i).select(columns)
            if start + batch.num_rows > begin:
                yield start, batch
            start += batch.num_rows


class _CsvTable(_Table):
    """Parsed a MiB at a time; columns have their names in the first line."""

    # As in pyarrow, but for those of NaN, which is a number.
    _NULLS = ("", "#N/A", "N/A", "NA", "NULL", "n/a", "null")

    def __init__(self, path: str):
        super().__init__(path)
        import pyarrow.csv

        # A line without anything is a number that is missing where there is one column.
        self._parse = pyarrow.csv.ParseOptions()
        self.schema = self._open().schema
        if len(self.schema) == 1:
            self._parse.ignore_empty_lines = False
        if len(self.schema):
            name = self.schema.names[0]
            self.n_rows = sum(batch.num_rows for batch in self._open(
                include_columns=[name], column_types={name: pyarrow.string()}))
        if not self.n_rows:  # of nothing, anything may be numbers
            self.schema = pyarrow.schema([(name, pyarrow.int64()) for name in self.schema.names])

    def _open(self, **options: Any) -> Any:
        import pyarrow.csv

        return pyarrow.csv.open_csv(
            self.path, parse_options=self._parse,
            convert_options=pyarrow.csv.ConvertOptions(null_values=self._NULLS, **options))

    def batches(self, columns: list[str], begin: int,
                numbers: np.dtype | None) -> Iterator[tuple[int, Any]]:
        import pyarrow

        # The types of the first MiB must not decide on those of the rest.
        names = self.schema.names
        for name in columns:
            if names.count(name) > 1:
                raise InputError(f"{self.path}: expected one column of each name, found several "
                                 f"named {name!r}")
        types = {name: self.schema.field(name).type for name in columns}
        if numbers is not None:
            types = {name: kind if pyarrow.types.is_boolean(kind)
                     else pyarrow.from_numpy_dtype(numbers) for name, kind in types.items()}
        start = 0
        for batch in self._open(include_columns=columns, column_types=types):
            if start + batch.num_rows > begin:
                yield start, batch
            start += batch.num_rows


_TABLES = {"parquet": _ParquetTable, "arrow": _ArrowTable, "csv": _CsvTable}


class _TableRows:
    """Columns side by side, or one of lists, as a matrix; one of numbers may be labels (m,)."""

    def __init__(self, table: _Table, columns: list[Column], role: str,
                 precision: np.dtype | None = None):
        self._table, self._columns, self._role = table, [c.name for c in columns], role
        self._precision = precision if isinstance(table, _CsvTable) else None
        self._width: int | None = len(columns)
        self._flat = role == "target" and not columns[0].of_lists
        if columns[0].of_lists:
            self._width = columns[0].width
        self.dtype = self._precision or np.result_type(*{column.dtype for column in columns})
        self._restart(0)
        if self._width is None:  # that of the first row's list
            self._next()
            self._width = self._batch.shape[1]
        self.shape: tuple[int, ...] = (table.n_rows, *(() if self._flat else (self._width,)))
        self.row_bytes = (1 if self._flat else self._width) * self.dtype.itemsize

    def rows(self, axes: int, begin: int, end: int) -> np.ndarray:
        if begin < self._first:
            self._restart(begin)
        parts = []
        while begin < end:
            if begin >= self._first + len(self._batch):
                self._next()
                continue
            parts.append(self._batch[begin - self._first : end - self._first])
            begin += len(parts[-1])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)

    def _restart(self, begin: int) -> None:
        self._batches = self._table.batches(self._columns, begin, self._precision)
        self._first, self._batch = begin, np.empty((0, self._width or 0), self.dtype)

    def _next(self) -> None:
        with told_of(self._table.path, self._table.failure):
            found = next(self._batches, None)
        if found is not None:
            self._first = found[0]
            self._batch = self._read(*found)
        elif self._table.n_rows:
            raise InputError(f"{self._table.path}: expected {self._table.n_rows} rows, got "
                             f"{self._first + len(self._batch)}")

    def _read(self, first: int, batch: Any) -> np.ndarray:
        for name, column in zip(self._columns, batch.columns, strict=True):
            _refuse_nulls(self._table.path, name, column, first)
        where = f"{self._table.path}: rows {first} to {first + batch.num_rows - 1}: "
        try:
            array = read_frame(batch.column(0) if self._flat else batch, self._role)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}{error}") from error
        assert array is not None  # as pyarrow has been imported
        if not self._flat and self._width is not None and array.shape[1:] != (self._width,):
            raise InputError(f"{where}its lists must be equally long, got {array.shape[1]} "
                             f"entries, {self._width} before")
        return array if self._precision is None else array.astype(self._precision, copy=False)


def open_rows(source: Source, role: str, precision: np.dtype, width: int,
              beside: Source | None) -> _TableRows:
    """Open X or TARGET: `role` is "x" or "target"; `width` is that of lists if there are none."""
    table, columns = _opened(source)
    left_out = set()
    if beside is not None and os.path.samefile(source.path, beside.path):
        left_out = {column.name for column in _chosen(table, columns, beside.key, "target", set())}
    chosen = _chosen(table, columns, source.key, role, left_out)
    whole = role == "target" and not chosen[0].of_lists
    if not table.n_rows and chosen[0].width is None:
        chosen = [column._replace(width=width) for column in chosen]
    return _TableRows(table, chosen, role, None if whole else precision)


def read_head(source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a weight (n, k), and a bias if a column of numbers is named that."""
    table, columns = _opened(source)
    bias = [column for column in columns if column.name == "bias" and not column.of_lists]
    weights = _chosen(table, columns, source.key, "weight", {column.name for column in bias})
    precision = np.dtype(np.float32)
    weight, *rest = (_TableRows(table, some, "weight", precision).rows(1, 0, table.n_rows)
                     for some in (weights, bias) if some)
    return weight, rest[0][:, 0] if rest else None


def _opened(source: Source) -> tuple[_Table, list[Column]]:
    path, kind = str(source.path), source.table
    assert kind is not None  # or it would be read as something else
    try:
        import pyarrow
    except ImportError as error:
        raise missing(f"{path}: a table", "pyarrow", "arrow") from error
    pyarrow.set_cpu_count(pool.resolve())
    with told_of(path, f"it cannot be read as a table ({kind})"):
        table = _TABLES[kind](path)
        described = table.schema.pandas_metadata or {}
        table.index = {name for name in described.get("index_columns", ())
                       if isinstance(name, str)}
        return table, [column for field in table.schema if (column := _column(field))]


def _column(field: Any) -> Column | None:
    """What a field holds; None if no numbers."""
    import pyarrow

    kind, of_lists, width = field.type, False, None
    if isinstance(kind, pyarrow.BaseExtensionType):
        kind = kind.storage_type
    types = pyarrow.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        of_lists, width = True, kind.list_size if types.is_fixed_size_list(kind) else None
        kind = kind.value_type
    elif types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        return None
    return Column(field.name, np.dtype(kind.to_pandas_dtype()), of_lists, width)


def _chosen(table: _Table, columns: list[Column], key: str | None, role: str,
            left_out: set[str]) -> list[Column]:
    """Choose the column named `key`, or those that can be meant."""
    if key is not None:
        found = [column for column in columns if column.name == key]
        if len(found) == 1:
            return found
        raise InputError(f"{table.path}: expected one column of numbers, or of lists of numbers, "
                         f"named {key!r}, found {_listed(columns)}")
    left = [column for column in columns if column.name not in left_out | table.index]
    lists = [column for column in left if column.of_lists]
    for some in (left, lists) if role == "target" else (lists,):
        named = [column for column in some if column.name == role]
        if len(some) == 1 or len(named) == 1:
            return named if len(named) == 1 else some
    if left and not lists and role != "target":
        return left
    wanted = ("one column, or several with one named 'target'" if role == "target" else
              f"columns of numbers, or one of lists, or several with one named {role!r}")
    raise InputError(f"{table.path}: expected {wanted}, found {_listed(left)}")


def _listed(columns: list[Column]) -> str:
    return listed([f"{column.name!r}" + (" (lists)" if column.of_lists else "")
                   for column in columns])


def _refuse_nulls(path: str, name: str, column: Any, first: int) -> None:
    """Refuse what is not there, by its row."""
    import pyarrow.compute

    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
    if column.null_count:
        row = column.is_null().index(pyarrow.scalar(True)).as_py()
    elif hasattr(column.type, "value_type") and not pyarrow.types.is_dictionary(column.type):
        entries = column.flatten()
        if not entries.null_count:
            return
        entry = entries.is_null().index(pyarrow.scalar(True))
        row = pyarrow.compute.list_parent_indices(column)[entry.as_py()].as_py()
    else:
        return
    raise InputError(f"{path}: column {name!r} has nothing in row {first + row}")
