"""Picks the engine that does the arithmetic: the compiled one or plain NumPy."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import numpy as np

from .interface import Engine


def _pick() -> Engine[Any]:
    asked = os.environ.get("LOGITLESS_BACKEND", "")
    if asked == "numpy":
        return _plain()
    if asked not in ("", "compiled"):
        raise ValueError(f"LOGITLESS_BACKEND must be 'numpy' or 'compiled', got {asked!r}")
    try:
        # `from` would call it a circular import.
        importlib.import_module(".compiled._core", __package__)
        from .compiled import engine as compiled
    except ImportError as error:
        if asked:
            raise
        warnings.warn(
            f"the compiled engine of logitless {_fault(error)} ({error}); plain NumPy takes its "
            "place: the same results to rounding, much slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return _plain()
    checked: Engine[compiled.Layer] = compiled
    return checked


def _fault(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "is missing"
    if "interpreter" in str(error).lower():  # Cython's refusal and Python's own
        return "works in one interpreter of a process, and this is another"
    return "is there but cannot be loaded"


def _plain() -> Engine[Any]:
    from .plain import engine as plain

    checked: Engine[plain.Layer] = plain
    return checked


def _look_up_methods() -> None:
    """Let NumPy import what is behind these methods: at the end of a process it no longer can."""
    some = np.ones(1)
    for method in (some.all, some.any, some.max, some.mean, some.min, some.sum):
        method()


engine = _pick()
_look_up_methods()


def available_isas() -> tuple[str, ...]:
    """Instruction sets this build has kernels for and this machine can run, best first.

    Returns
    -------
    tuple of str
        Of "scalar", "avx2", "avx512", "neon"; ``("numpy",)`` where plain NumPy
        does the work.

    Examples
    --------
    >>> import logitless as ll
    >>> ll.active_isa() in ll.available_isas()
    True
    """
    return tuple(engine.available_isas())


def active_isa() -> str:
    """Name the instruction set in use: the best available, or what ``LOGITLESS_ISA`` asks for.

    Returns
    -------
    str
        One of `available_isas`.

    Examples
    --------
    >>> import logitless as ll
    >>> isinstance(ll.active_isa(), str)
    True
    """
    return engine.active_isa()
