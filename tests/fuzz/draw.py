"""Numbers, shapes, layouts, damage: what arguments are made of, drawn from one integer."""

from __future__ import annotations

import math
import random

import ml_dtypes
import numpy as np
import scipy.sparse
from support.layouts import LAYOUTS, as_layout, unaligned

_rng = np.random.default_rng(0)
NUMBERS = _rng.standard_normal(1 << 17)
WHOLE = np.rint(NUMBERS * 1.5)
CLASSES = _rng.integers(0, 1 << 62, 1 << 16)

FLOATS = [np.float32] * 6 + [np.float64] * 3 + [np.float16, ml_dtypes.bfloat16, ml_dtypes.bfloat16]
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
NUMERIC = FLOATS * 2 + INTEGERS + [np.bool_]
SPECIAL = [math.nan, math.inf, -math.inf, -0.0, 1e-45, -1e-40, 3e38, -3e38, 65504, 1e308, 2**-126]

# Around the ends of vectors, tiles, chains (256 features), few classes (16), screens (128 a class).
LENGTHS = [0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 24, 25]
FEATURES = [*range(10), *range(10), 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 513]
CLASS_COUNTS = [*range(1, 10), *range(14, 20), 31, 32, 33, 47, 48, 49, 64, 65, 96, 127, 128, 129,
                200]
MANY = [240, 241, 255, 256, 257, 511, 512, 513, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 8193]
FORMS = ["csr", "csr", "csr", "csc", "coo", "bsr", "lil", "dok", "dia"]
PARTS = {"coo": ["row", "col", "data", "_shape"], "dia": ["offsets", "data", "_shape"],
         "lil": ["rows", "data", "_shape"], "dok": ["_shape"]}
PARTS |= {form: ["indptr", "indptr", "indices", "data", "_shape"] for form in ("csr", "csc", "bsr")}

JUNK = [
    None, "abc", "", b"x", 10**400, math.nan, math.inf, -math.inf, -1, 0, 1, 2, -0.5, 0.5, 1.5,
    1e300, 5e-324, 2**31, -(2**31), 2**63 - 1, 2**63, 2**64, 2**70, -(2**70), True, False, 1j, [],
    [[]], (), {}, set(), object(), int, [1, 2], [[1.0], [2.0, 3.0]], [None], ["a"], [1, "a"],
    [10**30], [[10**400]],
    np.float64(0.25), np.float32("nan"), np.int64(3), np.True_, np.array(2.0), np.array(3),
    np.zeros(0), np.zeros((0, 3)), np.zeros((3, 0)), np.ones(3), np.ones((2, 3)),
    np.ones((2, 3, 4)), np.full(3, np.nan), np.arange(4), np.array([2**63], np.uint64),
    np.array([1 + 2j]),
    np.array(["a", "b"]), np.array([{}, 1], object), np.array([1, 2], object),
    np.array(["2020-01-01"], "M8[D]"), np.array([3], "m8[s]"), np.zeros(2, [("a", "f4")]),
    np.zeros((2, 3), "V2"), np.ma.masked_array([1.0, 2.0], [True, False]), np.ones((1,) * 12),
    np.ones((2, 2), np.longdouble), scipy.sparse.csr_matrix((2, 3)), scipy.sparse.coo_array((3,)),
    slice(1, 2), range(3), random.Random(0),
]


class Read:
    """An array-like that is read by slicing, as a data set in a file."""

    def __init__(self, array, chunks, promise=0):
        self._array = array
        self.shape = (array.shape[0] + promise, *array.shape[1:])
        self.dtype, self.chunks = array.dtype, chunks

    def __getitem__(self, where):
        return self._array[where].copy()


class Draw:
    """Choices that follow from a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.whole = self.chance(0.35)  # numbers whose logits are exact
        self.special = not self.whole and self.chance(0.2)

    def chance(self, part):
        return self.random.random() < part

    def below(self, n):
        return int(self.random.random() * n)

    def pick(self, options):
        return options[int(self.random.random() * len(options))]

    def shape(self, most):
        """Rows (as a leading shape), classes, features: their product at most `most`."""
        n = self.pick(CLASS_COUNTS) if self.chance(0.96) else self.pick(MANY)
        k = self.pick(FEATURES)
        m = self.pick(LENGTHS) if self.chance(0.98) else self.pick(MANY[:5])
        while max(m, 1) * n * max(k, 1) > most:  # a number of classes at an end stays there
            if max(m, k) <= 1:
                n //= 2
            elif m > k:
                m = (m + 1) // 2
            else:
                k = (k + 1) // 2
        if self.chance(0.75):
            return (m,), n, k
        lead = self.pick(
            [(), (1,), (m, 1), (1, m), (2, max(m // 2, 1)), (0, 2), (2, 0), (1, 1, m)])
        return lead, n, k

    def numbers(self, shape, dtype, scale=1.0):
        size = math.prod(shape)
        dtype = np.dtype(dtype)
        pool = WHOLE if self.whole or dtype.kind in "iub" else NUMBERS
        start = self.below(len(pool) - size)
        values = pool[start : start + size].reshape(shape)
        if dtype.kind == "u":
            values = np.abs(values)
        if scale != 1:
            values = values * scale
        values = values.astype(dtype)
        if self.special and size and dtype.kind not in "iub":
            with np.errstate(all="ignore"):
                for _ in range(self.below(4)):
                    values.flat[self.below(size)] = np.array(self.pick(SPECIAL)).astype(dtype)
        return values

    def classes(self, shape, n, dtype=None, *, none=0.0):
        """Classes below n, -1 for some of them."""
        size = math.prod(shape)
        start = self.below(len(CLASSES) - size)
        index = (CLASSES[start : start + size] % n).reshape(shape)
        if none:
            index[CLASSES[start : start + size].reshape(shape) % 97 < 97 * none] = -1
        return index.astype(dtype or np.int64)

    def form(self, array):
        """The same numbers, lying otherwise."""
        if self.chance(0.6) or not array.ndim:
            return array
        how = self.pick([*LAYOUTS, "unaligned", "fixed", "list", "negative"])
        if array.dtype.kind == "V" and how in ("swapped", "list"):
            return array
        if how == "unaligned":
            return unaligned(array, self.pick([1, 2, 4, 8]))
        if how == "fixed":
            array.setflags(write=False)
            return array
        if how == "list":
            return array.tolist() if array.size < 200 else array
        if how == "negative":
            return array[::-1].copy()[::-1]
        return as_layout(array, how)

    def sparse(self, array, harm=0.15):
        """The same in one of SciPy's forms, sometimes damaged."""
        if array.dtype.kind == "V" or array.dtype == np.float16:
            array = array.astype(np.float32)
        made = scipy.sparse.csr_matrix if self.chance(0.5) else scipy.sparse.csr_array
        matrix = made(array)
        form = self.pick(FORMS)
        matrix = matrix.asformat(form)
        if self.chance(harm):
            self.damage(matrix, PARTS[form])
        elif form == "csr" and self.chance(0.1):
            matrix.indices, matrix.indptr = matrix.indices.astype(">i8"), matrix.indptr.astype("i8")
        return matrix

    def damage(self, matrix, parts):
        """Have a structure say what is not so."""
        name = self.pick(parts)
        if name == "_shape":
            matrix._shape = self.pick([(3, 4), (0, 0), (900, 5), (5, 900), matrix._shape[::-1]])
            return
        part = getattr(matrix, name).copy()
        how = self.below(7)
        if how == 0 and part.size:
            wild = [-1, 1, 7, 2**31 - 1, -(2**31), 1000]
            part.reshape(-1)[self.below(part.size)] = np.array(self.pick(wild)).astype(part.dtype)
        elif how == 1:
            part = part[: self.below(len(part) + 1)]
        elif how == 2 and part.dtype != object:
            part = part.astype(
                self.pick([np.float64, np.uint64, np.int8, object, np.complex64, ">i4"]))
        elif how == 3:
            part = np.concatenate([part, part[:1]])
        elif how == 4:
            part = part[::-1].copy()
        elif how == 5:
            part = part.reshape(1, -1)
        elif part.size and part.dtype.kind in "iu":
            part = part.astype(np.int64)
            part.reshape(-1)[self.below(part.size)] = self.pick([2**62, -(2**62), 2**40])
        setattr(matrix, name, part)

    def bytes(self, data):
        """A file's bytes with something else in between."""
        data = bytearray(data)
        for _ in range(self.pick([0, 1, 1, 1, 2, 3])):
            most = len(data) + 1 if self.chance(0.4) else min(len(data) + 1, 160)
            where = self.below(most)
            how = self.below(5)
            if how == 0:
                data[where : where + 1] = bytes([self.below(256)])
            elif how == 1:
                data[where:where] = self.random.randbytes(1 + self.below(9))
            elif how == 2:
                del data[where : where + 1 + self.below(9)]
            elif how == 3 and self.chance(0.3):
                del data[where:]
            else:
                digits = [i for i, byte in enumerate(data[:300]) if 48 <= byte <= 57]
                if digits:
                    i = self.pick(digits)
                    data[i : i + 1] = self.pick(
                        [b"0", b"9", b"77", b"-1", b"999999999999", b"1e3", b'"'])
        return bytes(data)
