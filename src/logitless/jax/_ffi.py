"""A Python function that compiled programs of JAX call on their own memory.

By way of XLA's foreign function interface: `jax.pure_callback` would copy every array twice on the
way in and once on the way out. The structures are those of ``xla/ffi/api/c_api.h``, which comes
with jaxlib, as far as they are read here; their layout is promised to stay.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from .._arrays.bfloat16 import BFLOAT16

# What is called: with the text of the attribute, and the arrays that come in and go out.
Function = Callable[[str, Sequence[np.ndarray], Sequence[np.ndarray]], None]

ATTRIBUTE = "call"

_EXECUTE = 3  # the stage in which arrays have contents
_API_VERSION = 0, 1
_METADATA = 1  # of extensions: that which asks for this version
_DTYPES = {
    1: np.dtype(np.bool_),
    2: np.dtype(np.int8), 3: np.dtype(np.int16), 4: np.dtype(np.int32), 5: np.dtype(np.int64),
    6: np.dtype(np.uint8), 7: np.dtype(np.uint16), 8: np.dtype(np.uint32), 9: np.dtype(np.uint64),
    10: np.dtype(np.float16), 11: np.dtype(np.float32), 12: np.dtype(np.float64), 16: BFLOAT16,
}
_INVALID_ARGUMENT, _RESOURCE_EXHAUSTED, _OUT_OF_RANGE, _INTERNAL = 3, 8, 11, 13
_CODES = {IndexError: _OUT_OF_RANGE, ValueError: _INVALID_ARGUMENT, TypeError: _INVALID_ARGUMENT,
          MemoryError: _RESOURCE_EXHAUSTED}


# What structures begin with.
_HEAD: tuple[tuple[str, Any], ...] = (
    ("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (*_HEAD, ("major", ctypes.c_int), ("minor", ctypes.c_int))


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("api_version", _Version),
                ("traits", ctypes.c_uint32))


class _Extension(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("kind", ctypes.c_int),
                ("next", ctypes.c_void_p), ("metadata", ctypes.POINTER(_Metadata)))


class _Error(ctypes.Structure):
    _fields_ = (*_HEAD, ("message", ctypes.c_char_p), ("code", ctypes.c_int))


class _Api(ctypes.Structure):
    _fields_ = (*_HEAD, ("version", _Version), ("internal", ctypes.c_void_p),
                ("make_error", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Error))))


class _Buffer(ctypes.Structure):
    _fields_ = (*_HEAD, ("dtype", ctypes.c_int), ("data", ctypes.c_void_p),
                ("rank", ctypes.c_int64), ("dims", ctypes.POINTER(ctypes.c_int64)))


class _Buffers(ctypes.Structure):
    _fields_ = (*_HEAD, ("size", ctypes.c_int64), ("kinds", ctypes.c_void_p),
                ("values", ctypes.POINTER(ctypes.POINTER(_Buffer))))


class _Text(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))

    def __str__(self) -> str:
        return ctypes.string_at(self.start, self.size).decode()


class _Attributes(ctypes.Structure):
    _fields_ = (*_HEAD, ("size", ctypes.c_int64), ("kinds", ctypes.c_void_p),
                ("names", ctypes.POINTER(ctypes.POINTER(_Text))),
                ("values", ctypes.POINTER(ctypes.POINTER(_Text))))


class _Call(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.POINTER(_Extension)),
                ("api", ctypes.POINTER(_Api)), ("context", ctypes.c_void_p),
                ("stage", ctypes.c_int), ("operands", _Buffers), ("results", _Buffers),
                ("attributes", _Attributes))


_HANDLER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Call))
_kept: list[Any] = []  # handlers, which programs may call as long as the process lives


def register(name: str, function: Function) -> None:
    """Have programs on the CPU call `function` by this name.

    It may run in any thread, and must not call JAX, which may be waiting for it. What it raises
    becomes an error of the program.
    """

    def handle(pointer: Any) -> int | None:
        call = pointer.contents
        if call.extension and call.extension.contents.kind == _METADATA:
            version = call.extension.contents.metadata.contents.api_version
            version.major, version.minor = _API_VERSION
            return None
        if call.stage != _EXECUTE:
            return None
        try:
            function(_text(call.attributes), _arrays(call.operands, writeable=False),
                     _arrays(call.results, writeable=True))
        except BaseException as error:
            return _as_error(call.api.contents, error)
        return None

    handler = _HANDLER(handle)
    _kept.append(handler)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")


def _text(attributes: _Attributes) -> str:
    """Find the one attribute that is ours."""
    named = {str(attributes.names[i].contents): i for i in range(attributes.size)}
    return str(attributes.values[named[ATTRIBUTE]].contents)


def _arrays(buffers: _Buffers, writeable: bool) -> list[np.ndarray]:
    """Arrays on the memory of buffers, good for the duration of the call."""
    return [_array(buffers.values[i].contents, writeable) for i in range(buffers.size)]


def _array(buffer: _Buffer, writeable: bool) -> np.ndarray:
    shape, dtype = tuple(buffer.dims[: buffer.rank]), _DTYPES[buffer.dtype]
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    memory = (ctypes.c_byte * size).from_address(buffer.data)
    array = np.frombuffer(memory, dtype).reshape(shape)
    array.flags.writeable = writeable
    return array


def _as_error(api: _Api, error: BaseException) -> int | None:
    kind = type(error)
    code = next((code for known, code in _CODES.items() if issubclass(kind, known)), _INTERNAL)
    told = _Error(ctypes.sizeof(_Error), None, f"{kind.__name__}: {error}".encode(), code)
    return api.make_error(ctypes.byref(told))
