"""Input files: their names, and whether they are what they were."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from .._arrays.checkpoint import open_archive
from .._arrays.files import opened
from .._arrays.safetensors import Sharded

_TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_TEXTS = (".csv", ".csv.gz", ".csv.bz2", ".csv.zst")


@dataclass(frozen=True)
class Source:
    """A file, and the name of an array in it if one was given."""

    path: Path
    key: str | None

    @property
    def table(self) -> str | None:
        """Whether it is a table: "parquet" or "arrow" by its first bytes, "csv" by its name."""
        if self.path.name.lower().endswith(_TEXTS):
            return "csv"
        with opened(self.path, "it cannot be read") as file:
            start = file.read(6)
        return next((kind for magic, kind in _TABLES.items() if start.startswith(magic)), None)


class InputFile(click.ParamType):
    """An argument FILE or FILE:KEY; either may hold colons."""

    name = "file"
    _file = click.Path(exists=True, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None,
                ctx: click.Context | None) -> Source:
        """Take what follows the name of a file for a key."""
        path, key = value, None
        for end in (i for i, letter in enumerate(value) if letter == ":"):
            if not os.path.exists(value) and os.path.isfile(value[:end]):
                path, key = value[:end], value[end + 1 :]  # the longest name that a file has
        return Source(Path(os.fsdecode(self._file.convert(path, param, ctx))), key)


class _Watched(NamedTuple):
    path: Path
    number: int  # of the open file, whatever becomes of its name
    found: tuple[int, int]


class Watch:
    """Input files, which must stay as they are while they are read."""

    def __init__(self, sources: Iterable[Source | None]):
        self._files: list[_Watched] = []
        for path in {path: None for source in sources if source for path in _parts(source.path)}:
            with opened(path, "it cannot be read"):
                number = os.open(path, os.O_RDONLY)
            self._files.append(_Watched(path, number, _state(number)))

    def __del__(self) -> None:
        for file in self._files:
            os.close(file.number)

    def check(self) -> None:
        """Check that none has changed."""
        for path, number, found in self._files:
            now = _state(number)
            if now != found:
                raise OSError(f"{path}: it was changed while it was read: expected "
                              f"{_told(found)}, got {_told(now)}")

    def identity(self, source: Source) -> str:
        """Tell what a file is by what its name, size and time are."""
        parts = set(_parts(source.path))
        key = "" if source.key is None else f":{source.key}"
        return " and ".join(f"{path.name}{key} of {_told(found)}"
                            for path, _, found in self._files if path in parts)


def _parts(path: Path) -> list[Path]:
    """List the files to a name: those of a checkpoint, too."""
    with opened(path, "it cannot be read") as file:
        is_index = file.read(64).lstrip()[:1] == b"{"
    archive = open_archive(path) if is_index else None
    shards = archive.paths if isinstance(archive, Sharded) else []
    return [path, *(Path(shard) for shard in shards if os.path.exists(shard))]


def _state(number: int) -> tuple[int, int]:
    found = os.fstat(number)
    return found.st_size, found.st_mtime_ns


def _told(state: tuple[int, int]) -> str:
    seconds, rest = divmod(state[1], 10**9)
    when = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return f"{state[0]} bytes written at {when:%Y-%m-%d %H:%M:%S}.{rest:09}"


def refuse_as_output(out: Path, inputs: Iterable[Source | None]) -> None:
    """Refuse to write what is read."""
    for source in inputs:
        if source is not None and out.exists() and os.path.samefile(out, source.path):
            raise ValueError(f"{out}: OUT must not be one of the inputs")
