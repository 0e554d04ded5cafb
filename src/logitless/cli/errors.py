"""What is wrong with the input, in one line on stderr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click


class InputError(click.ClickException):
    """What is wrong with the input, told in one line."""

    exit_code = 2


@contextlib.contextmanager
def input_errors(where: str = "") -> Iterator[None]:
    """Turn what the library says about its input into a line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, IndexError, MemoryError, OSError) as error:
        raise InputError(f"{where}{str(error) or type(error).__name__}") from error


@contextlib.contextmanager
def told_of(path: str, failure: str) -> Iterator[None]:
    """Whatever another library raises while it reads a file becomes an error that names it."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: too large for the memory there is") from error
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: {failure}: {said[:400]}") from error


def missing(what: str, package: str, extra: str) -> InputError:
    """Say how to get what a file takes."""
    return InputError(f'{what} takes {package}: pip install "logitless[cli,{extra}]"')
