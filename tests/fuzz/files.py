"""Calls that read what others have written: damaged files, pickles of states."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import tempfile

import numpy as np

import logitless
import logitless.io


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(save, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def _safetensors(**arrays):
    """The format by hand: length of a header, header, numbers."""
    header, blob = {}, b""
    for name, (kind, array) in arrays.items():
        header[name] = {"dtype": kind, "shape": list(array.shape),
                        "data_offsets": [len(blob), len(blob) + array.nbytes]}
        blob += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + blob


W = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
B = W[:, 0].copy()
INDEX = {"metadata": {}, "weight_map": {"lm_head.weight": "part.safetensors"}}
FILES = [
    _npy(W), _npy(np.asfortranarray(W)), _npy(W.astype(">f8")), _npy(W.astype(np.float16)),
    _npy(W[:, :0]), _npz(np.savez, weight=W, bias=B, softcap=3.0, temperature=np.array([2.0])),
    _npz(np.savez_compressed, weight=W, bias=B), _npz(np.savez, a=W, b=W),
    _safetensors(**{"lm_head.weight": ("F32", W), "lm_head.bias": ("F32", B)}),
    _safetensors(weight=("F64", W.astype(np.float64)), other=("I64", np.arange(3))),
    _safetensors(**{"wte.weight": ("BF16", W.astype(np.float16).view(np.int16))}),
    json.dumps(INDEX).encode(),
]
PART = FILES[8]
_folder: list[tempfile.TemporaryDirectory] = []


def folder():
    """One for the process, in memory where there is such a place."""
    if not _folder:
        here = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        _folder.append(tempfile.TemporaryDirectory(prefix="fuzz", dir=here))
    return _folder[0].name


def read_file(ll, data, part, read, **options):
    """A head of a file, and what every number of it makes."""
    path = os.path.join(folder(), f"{os.getpid()}.file")
    for name, content in (path, data), (os.path.join(folder(), "part.safetensors"), part):
        with open(name, "wb") as file:
            file.write(content)
    if read == "array":
        return np.array(ll.io.open_array(path, **options))
    head = ll.LinearHead.from_file(path, **options)
    return head.logits(np.ones(head.n_features, np.float32))


def merged(ll, heads, first, x, **options):
    """States of the classes of each head, merged; pickled and copied on the way."""
    state = None
    for head, number in zip(heads, first, strict=True):
        other = ll.RowState.of(x, head, first=number, **options)
        # A second package of the same name cannot be pickled; this calls the same functions.
        sent = pickle.loads(pickle.dumps(other)) if ll is logitless else copy.deepcopy(other)
        state = sent if state is None else copy.copy(state).merge(sent)
    return state.scores()
