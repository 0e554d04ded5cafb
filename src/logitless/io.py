"""Arrays from files, and files that appear only when they are complete."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from ._arrays.bfloat16 import outside
from ._arrays.checkpoint import bias_name, check_name, open_archive, weight_name
from ._arrays.files import Archive, Place, Windows, listed, map_array, map_or_read
from ._arrays.npy import Npz, find_npy
from ._arrays.spools import Column, Spools

if TYPE_CHECKING:
    from typing_extensions import Self


class HeadArrays(NamedTuple):
    """What a file says about a head; None where it says nothing.

    Attributes
    ----------
    weight : ndarray, shape (n, k)
        Where the address space has no room for a map of all of it, an object that reads
        rows when they are needed, which `LinearHead` takes like an array.
    bias : ndarray, shape (n,), or None
    softcap, temperature : float or None
    """

    weight: np.ndarray | Windows
    bias: np.ndarray | None = None
    softcap: float | None = None
    temperature: float | None = None


def open_array(path: str | os.PathLike[str], *, key: str | None = None,
               prefer: str | None = None) -> np.ndarray:
    """Open an array in a .npy, .npz or .safetensors file, or in a checkpoint of several.

    Arrays in .npy and .safetensors files are memory-mapped read-only: nothing
    is read yet, and what is read later can be dropped again. An array in a
    .npz file is a member of a zip archive and is read whole.

    Parameters
    ----------
    path : path-like
        Which kind it is, the first bytes tell, not the name. Of a checkpoint in
        several .safetensors files, the .json file that says which array is in which.
    key : str, optional
        Which array of a file that holds arrays by name. One that holds a single
        array needs no key.
    prefer : str, optional
        Which of several to take where no key is given.

    Returns
    -------
    ndarray
        Read-only if memory-mapped. bfloat16 has the dtype of ml_dtypes where that is
        installed, else one that only this package reads.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    ValueError
        It is no regular file, is of none of these kinds by its first bytes, is
        damaged, holds no numbers, or has no such key.

    Notes
    -----
    Nothing is allocated that the file does not hold. Both deflated and stored
    members of a .npz file are read, as `np.savez_compressed` and `np.savez`
    write them.
    """
    array = _whole(find_array(path, key=key, prefer=prefer))
    dtype = outside(array.dtype)
    return array if dtype == array.dtype else array.view(dtype)


def find_array(path: str | os.PathLike[str], *, key: str | None = None,
               prefer: str | None = None) -> Place | np.ndarray:
    """Find where an array lies in a file, as `open_array` does; read it if it does not as it is."""
    archive = open_archive(path)
    if archive is None:
        _refuse_key(path, key)
        return find_npy(path)
    if key is None:
        key = prefer if prefer in archive.names else _only_name(archive, prefer)
    check_name(archive, key)
    return archive.find(key)


def read_head(path: str | os.PathLike[str], *, key: str | None = None,
              bias_key: str | None = None, mapped: bool = True) -> HeadArrays:
    """Open the weights of a head.

    Parameters
    ----------
    path : path-like
        A .npy file with the weight only; a .npz file, with `softcap` and
        `temperature` beside `weight` if the head has them; a .safetensors file; or
        the .json file of a checkpoint in several of these. Other arrays are left
        alone.
    key, bias_key : str, optional
        Names of the weight and of the bias, as in `LinearHead.from_file`.
    mapped : bool, default True
        If not, the weight is read where `open_array` maps, a piece at a time when that is
        needed, and a file that becomes smaller in the meantime is an error.

    Returns
    -------
    HeadArrays
        As they stand in the file: `LinearHead` checks shapes and dtypes.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    ValueError
        It is no regular file, is of none of these kinds, is damaged, has no weight
        or several that it could be, or its `softcap` or `temperature` is not a
        single number.
    """
    archive = open_archive(path)
    if archive is None:
        _refuse_key(path, bias_key if key is None else key)
        return HeadArrays(map_or_read(find_npy(path), not mapped))
    name = weight_name(archive, key)
    bias = bias_name(archive, name, bias_key)
    scale = (_number(archive, other) if isinstance(archive, Npz) and name == "weight"
             and other in archive.names else None for other in ("softcap", "temperature"))
    found = archive.find(name)
    weight = map_or_read(found, not mapped) if isinstance(found, Place) else found
    return HeadArrays(weight, None if bias is None else _whole(archive.find(bias)), *scale)


def open_packaged(name: str) -> dict[str, np.ndarray]:
    """Read a .npz file of the package's `data` folder, wheel or zip alike.

    Parameters
    ----------
    name : str
        "digits.npz"; `data/README.md` says what it holds.

    Returns
    -------
    dict of str to ndarray

    Examples
    --------
    >>> from logitless.io import open_packaged
    >>> digits = open_packaged("digits.npz")
    >>> digits["x"].shape, digits["x"].dtype, digits["target"][:5]
    ((1797, 64), dtype('uint8'), array([0, 1, 2, 3, 4], dtype=uint8))
    """
    path = resources.files("logitless") / "data" / name
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], folder: Path | None = None) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` only when all went well.

    The bytes go to a temporary name, reach the disk, and are renamed in one
    step, so a reader sees the old file or the whole new one. After an error or
    Ctrl-C the temporary file is gone and `path` is as it was. A link is followed.

    Parameters
    ----------
    path : path-like
        The name that the file has in the end.
    folder : Path, optional
        Where the temporary name is, on the same disk; in that of `path` by default.

    Yields
    ------
    binary file
        Writable and seekable.

    Raises
    ------
    OSError
        The folder is missing or not writable, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    temporary = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        # Not mkstemp, whose files nobody but the owner could read.
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # it is the first error that counts
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Have the names of its files reach the disk, where folders can be asked for that."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


class RowsWriter:
    """Writes arrays that arrive a block of rows at a time; what it becomes, subclasses know.

    The arrays grow in files of their own and are put together under the final name at the
    end. Memory is that of one block.
    """

    suffix = ""

    def __init__(self, path: str | os.PathLike[str], leading_shape: tuple[int, ...],
                 spools: Spools | None = None):
        self._name, self.path = os.fspath(path), Path(os.path.realpath(path))
        self.leading_shape = leading_shape
        if Path(path).suffix != self.suffix:
            raise ValueError(f"{self._name}: expected a name that ends in {self.suffix}")
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{self._name}: expected the name of a plain file")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self._name}: its folder does not exist")
        self._own = contextlib.ExitStack()
        if spools is None:
            spools = self._own.enter_context(contextlib.closing(Spools(self.path.parent)))
        self._spools = spools

    def append(self, **blocks: np.ndarray) -> None:
        """Add rows to the arrays of these names.

        Parameters
        ----------
        **blocks : ndarray, shape (rows, ...)
            The first block of a name fixes its dtype and its further axes.
        """
        with naming(self._name):
            for name, block in blocks.items():
                self._spools.append(name, block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        # To close a file may be to write.
        with naming(self._name), self._own:
            if kind is None:
                self._assemble()

    def _assemble(self) -> None:
        for name, column in self._spools.columns.items():
            shape = self.leading_shape + column.tail
            n_bytes = column.dtype.itemsize * math.prod(shape)
            if column.file.tell() != n_bytes:
                raise ValueError(f"{name}: expected {n_bytes} bytes for shape {shape}, "
                                 f"got {column.file.tell()}")
            column.file.flush()
        with replacing(self.path, self._spools.folder) as file:
            self._write(file, self._spools.columns)

    def _write(self, file: BinaryIO, columns: dict[str, Column]) -> None:
        raise NotImplementedError


class NpzWriter(RowsWriter):
    """Writes arrays that arrive a block of rows at a time into one .npz file.

    A zip archive takes one member after the other, so each array grows in an
    unnamed file of the same folder, which the system removes whatever happens,
    and all of them are put together under the final name at the end. Memory
    is that of one block.

    Parameters
    ----------
    path : path-like
        Must end in ".npz". An existing file is replaced at the end.
    leading_shape : tuple of int
        What takes the place of the rows in the shapes of the arrays: (m,), or
        the leading shape of an `x` (..., k) that is scored row by row.

    Raises
    ------
    ValueError
        `path` does not end in ".npz" or is not a plain file, or at the end
        the rows of an array do not fill `leading_shape`.
    OSError
        The folder is missing or not writable, or the disk is full.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from logitless.io import NpzWriter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "out.npz")
    ...     with NpzWriter(path, (5,)) as out:
    ...         out.append(loss=np.zeros(3))
    ...         out.append(loss=np.ones(2))
    ...     np.load(path)["loss"]
    array([0., 0., 0., 1., 1.])
    """

    suffix = ".npz"

    def _write(self, file: BinaryIO, columns: dict[str, Column]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, column in columns.items():
                header = {"descr": np.lib.format.dtype_to_descr(column.dtype),
                          "fortran_order": False, "shape": self.leading_shape + column.tail}
                column.file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(column.file, member, 1 << 20)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Let errors of files without a name, or with a temporary one, be about this one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), name) from error


def _refuse_key(path: str | os.PathLike[str], key: str | None) -> None:
    if key is not None:
        raise ValueError(f"{os.fspath(path)}: expected no key, as a .npy file holds one array, "
                         f"got {key!r}")


def _only_name(archive: Archive, prefer: str | None) -> str:
    if len(archive.names) != 1:
        wanted = "one array" + (f", or several with one named {prefer!r}" if prefer else "")
        raise ValueError(f"{archive.path}: expected {wanted}, found "
                         f"{listed([repr(name) for name in archive.names])}")
    return archive.names[0]


def _whole(found: Place | np.ndarray) -> np.ndarray:
    return map_array(found) if isinstance(found, Place) else found


def _number(archive: Archive, name: str) -> float:
    value = _whole(archive.find(name))
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ValueError(f"{archive.path}: expected {name} to be a single number, got "
                         f"shape {value.shape}, dtype {value.dtype}")
    return float(value.item())
