"""OUT: the arrays of a job in one file, by what its name ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .._arrays.spools import Column, Spools
from ..io import NpzWriter, RowsWriter
from .errors import missing

GROUP_ROWS = 1 << 17  # rows to a row group


class ParquetWriter(RowsWriter):
    """Writes them as columns of numbers, and of lists of K numbers."""

    suffix = ".parquet"

    def __init__(self, path: Path, leading_shape: tuple[int, ...], spools: Spools | None = None):
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise missing(f"{path}: a table", "pyarrow", "arrow") from error
        super().__init__(path, leading_shape, spools)
        if len(leading_shape) != 1:
            raise ValueError(f"{path}: a table has rows, and X of shape {(*leading_shape, 'k')} "
                             "more axes than that: expected a name that ends in .npz")

    def _write(self, file: BinaryIO, columns: dict[str, Column]) -> None:
        import pyarrow
        import pyarrow.parquet

        (m,) = self.leading_shape
        schema = pyarrow.schema([(name, _arrow_type(column)) for name, column in columns.items()])
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for first in range(0, m, GROUP_ROWS):
                count = min(GROUP_ROWS, m - first)
                writer.write_table(pyarrow.table([
                    _arrow_array(column.read(first, count)) for column in columns.values()
                ], schema))


WRITERS: dict[str, type[RowsWriter]] = {writer.suffix: writer
                                        for writer in (NpzWriter, ParquetWriter)}


def writer_of(out: Path) -> type[RowsWriter]:
    """Find what writes a file of this name."""
    writer = WRITERS.get(out.suffix)
    if writer is None:
        raise ValueError(f"{out}: expected a name that ends in {' or '.join(WRITERS)}")
    return writer


def _arrow_type(column: Column) -> Any:
    import pyarrow

    kind = pyarrow.from_numpy_dtype(column.dtype)
    return pyarrow.list_(kind, column.tail[0]) if column.tail else kind


def _arrow_array(block: np.ndarray) -> Any:
    import pyarrow

    if block.ndim == 1:
        return pyarrow.array(block)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), block.shape[1])
