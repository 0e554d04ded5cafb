"""Arrays that grow by blocks of rows, each in a file of its own."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np


class Column(NamedTuple):
    """An array (rows, *tail) as it grows."""

    file: BinaryIO
    dtype: np.dtype
    tail: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.tail)

    def read(self, first: int, count: int) -> np.ndarray:
        """Rows from `first` on, which `flush` has been called for."""
        self.file.seek(first * self.row_bytes)
        data = self.file.read(count * self.row_bytes)
        return np.frombuffer(data, self.dtype).reshape(count, *self.tail)


class Spools:
    """Columns in files without a name, which the system removes whatever happens, or in kept ones.

    Attributes
    ----------
    folder : Path
    columns : dict of str to Column
    """

    def __init__(self, folder: Path, kept: bool = False):
        self.folder, self._kept = folder, kept
        self._files = contextlib.ExitStack()
        self.columns: dict[str, Column] = {}

    def append(self, name: str, block: np.ndarray) -> None:
        """Add rows to a column; the first of them fix its dtype and its further axes."""
        if name not in self.columns:
            self._open(name, block.dtype, block.shape[1:], "w+b")
        column = self.columns[name]
        if (block.dtype, block.shape[1:]) != column[1:]:
            raise ValueError(f"{name}: expected blocks of {column.dtype} and shape "
                             f"(rows, *{column.tail}), got {block.dtype} {block.shape}")
        # Not ndarray.tofile, which loses the cause of a failed write.
        column.file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)

    def restore(self, name: str, dtype: np.dtype, tail: tuple[int, ...], rows: int) -> None:
        """Go on with a kept column behind its first `rows`; what follows them is cut off."""
        self._open(name, dtype, tail, "r+b")
        column = self.columns[name]
        size, there = rows * column.row_bytes, os.fstat(column.file.fileno()).st_size
        if there < size:
            raise ValueError(f"expected {size} bytes of {name}, got {there}")
        column.file.truncate(size)
        column.file.seek(size)

    def _open(self, name: str, dtype: np.dtype, tail: tuple[int, ...], mode: str) -> None:
        file: Any = (open(self.folder / f"{name}.rows", mode)  # noqa: SIM115
                     if self._kept else tempfile.TemporaryFile(dir=self.folder))  # noqa: SIM115
        self.columns[name] = Column(self._files.enter_context(file), dtype, tail)

    def sync(self) -> None:
        """Have all of it reach the disk."""
        for column in self.columns.values():
            column.file.flush()
            os.fsync(column.file.fileno())

    def close(self) -> None:
        self._files.close()
