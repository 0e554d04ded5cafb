"""Damaged .safetensors files and indices of checkpoints: one clear error that names them."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.damage import assert_clean, damaged, damages, everything
from support.oracle import says

from logitless._arrays.files import map_array
from logitless._arrays.safetensors import Safetensors
from logitless.io import open_array, read_head

safetensors = pytest.importorskip("safetensors")


def tensors(data=b"", pad="", length=None, text=None, **header):
    """A .safetensors file with a header of one's own."""
    text = (json.dumps(header) if text is None else text).encode() + pad.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype="F32", shape=(2, 3), begin=0, end=24):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def index(**files):
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": files}).encode()


WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
DATA = WEIGHT.tobytes()
VALID = [
    tensors(DATA, weight=tensor()),
    tensors(DATA, "  ", __metadata__={"format": "pt"}, weight=tensor("BF16", [3, 4])),
    tensors(DATA, a=tensor(shape=[2, 1], end=8), b=tensor("F8_E4M3", [16], 8),
            empty=tensor(shape=[0, 3], begin=24)),
    tensors(DATA, scalar=tensor(shape=[], end=4), ids=tensor("I16", [10], 4)),
]
VALID_INDEX = index(weight="shard.safetensors", bias="shard.safetensors")


@given(st.sampled_from(VALID), damages)
@example(VALID[0], [("insert", 0, b"{")])  # it looks like an index
@example(VALID[0], [("set", 3, b"\x63")])  # of the header: more than there are
def test_any_damage_is_an_error_that_names_the_file(tmp_path, data, hurts):
    path = tmp_path / "damaged"
    path.write_bytes(damaged(data, hurts))
    assert_clean(path)


@given(damages)
def test_any_damage_of_an_index_is_an_error_that_names_it_or_a_shard(tmp_path, hurts):
    (tmp_path / "shard.safetensors").write_bytes(VALID[0])
    path = tmp_path / "index"
    path.write_bytes(damaged(VALID_INDEX, hurts))
    for result in everything(path):
        if isinstance(result, np.ndarray):
            np.testing.assert_array_equal(result, WEIGHT)
        else:
            assert os.fspath(tmp_path) in result
            assert "\n" not in result


def by_package(data):
    """What the package reads, and why it does not."""
    try:
        return safetensors.deserialize(data), ""
    except safetensors.SafetensorError as error:
        return [], str(error)


@given(st.sampled_from(VALID), damages)
def test_what_is_read_of_damaged_tensors_is_what_the_package_reads(tmp_path, data, hurts):
    """Whatever we take, it takes too, and finds the same in it; but for types of later versions."""
    package = pytest.importorskip("safetensors.numpy")
    data = damaged(data, hurts)
    (tmp_path / "a").write_bytes(data)
    try:
        ours = Safetensors(tmp_path / "a")
    except ValueError:
        return
    theirs, refusal = by_package(data)
    if refusal:
        assert any(f"unknown variant `{ours.stored(name)[0]}`" in refusal for name in ours.names)
        return
    assert sorted(ours.names) == sorted(name for name, _ in theirs)
    for name, entry in theirs:
        assert ours.stored(name) == (entry["dtype"], tuple(entry["shape"]))
        if entry["dtype"] in package._TYPES:
            assert map_array(ours.find(name)).tobytes() == bytes(entry["data"])


NAMES = "\"weight\": {\"dtype\": \"F32\", \"shape\": [0], \"data_offsets\": [0, 0]}"
TENSORS = {
    "cut within the length": (tensors(weight=tensor())[:3], "but it starts with"),
    "cut in the header": (tensors(weight=tensor())[:40], "ends within the header, after 32 of"),
    "longer header": (tensors(text="{}", length=99_999_999), "after 2 of 99999999 bytes"),
    "header longer by a byte": (tensors(text="{}", length=3), "header, after 2 of 3 bytes"),
    "header of more than may be": (tensors(text="{}", length=100_000_001),
                                   "header of 100000001 bytes, more than 100000000"),
    "huge header": (tensors(text="{}", length=1 << 63), "but it starts with"),
    "no JSON": (tensors(text="{1: 2}"), "cannot be read as a .safetensors file: Expecting"),
    "two objects": (tensors(text="{} {}"), "Extra data"),
    "no UTF-8": (tensors(text="{").replace(b"{", b"{\xff").replace(b"\1", b"\2"), "utf-8"),
    "deep": (tensors(text="{\"a\":" + "[" * 100_000), "recursion|cannot be read"),
    "not numbers": (tensors(text="{\"a\": NaN}"), "expected dtype, shape .* of 'a', got nan"),
    "a name twice": (tensors(text=f"{{{NAMES}, {NAMES}}}"), "'weight' is there more than once"),
    "a long name twice": (tensors(text='{"' + "a" * 99 + '": 1, "' + "a" * 99 + '": 2}'),
                          r"'a{99}\.\.\. is there more than once"),
    "a key twice": (tensors(text="{\"a\": {\"dtype\": \"F32\", \"dtype\": \"F32\"}}"),
                    "'dtype' is there more than once"),
    "key too few": (tensors(a={"dtype": "F32", "shape": []}), "expected dtype, shape and data_"),
    "key too many": (tensors(a={**tensor(), "more": 1}), "expected dtype, shape and data_"),
    "list of arrays": (tensors(a=[1]), r"of 'a', got \[1\]"),
    "dtype that is none": (tensors(a=tensor(3)), "the dtype of 'a' is 3"),
    "dtype on two lines": (tensors(a=tensor("F\n32")), r"the dtype of 'a' is 'F\\n32'"),
    "shape that is none": (tensors(a=tensor(shape=6)), "the shape of 'a' is 6"),
    "negative shape": (tensors(DATA, a=tensor(shape=[-2, -3])), r"shape of 'a' is \[-2, -3\]"),
    "fraction": (tensors(DATA, a=tensor(shape=[2, 3.0])), r"the shape of 'a' is \[2, 3.0\]"),
    "truth": (tensors(bytes(4), a=tensor(shape=[True], end=4)), r"the shape of 'a' is \[True\]"),
    "huge shape": (tensors(DATA, a=tensor(shape=[1 << 40, 1 << 40])),
                   "takes 4835703278458516698824704 bytes, but has 24"),
    "number beyond all": (tensors(a=tensor(shape=[1 << 70])), "the shape of 'a' is"),
    "many axes": (tensors(bytes(4), a=tensor(shape=[1] * 99, end=4)), "the shape of 'a' is"),
    "digits without end": (tensors(text="{\"a\": " + "9" * 5000 + "}"), "cannot be read"),
    "backwards": (tensors(DATA, a=tensor(begin=24, end=0)), r"data_offsets of 'a' are \[24, 0\]"),
    "negative offset": (tensors(DATA, a=tensor(begin=-24, end=0)), r"data_offsets .* \[-24, 0"),
    "three offsets": (tensors(a={**tensor(), "data_offsets": [0, 1, 2]}), r"data_offsets .*\[0, 1"),
    "shape and bytes": (tensors(bytes(20), a=tensor(end=20)),
                        r"'a', F32 of shape \(2, 3\), takes 24 bytes, but has 20"),
    "shape and more bytes": (tensors(bytes(28), a=tensor(end=28)), "takes 24 bytes, but has 28"),
    "beyond the end": (tensors(bytes(20), a=tensor()), "arrays of 24 bytes, but there are 20"),
    "more than arrays": (tensors(bytes(25), a=tensor()), "arrays of 24 bytes, but there are 25"),
    "overlap": (tensors(bytes(40), a=tensor(), b=tensor(begin=16, end=40)),
                "'b' begins at byte 16 of the data, where that before it ends at 24"),
    "hole": (tensors(bytes(50), a=tensor(), b=tensor(begin=26, end=50)), "'b' begins at byte 26"),
    "late begin": (tensors(bytes(25), a=tensor(begin=1, end=25)), "'a' begins at byte 1"),
    "long names": (tensors(**{"n" * 5000: 1}), r"'n{99}\.\.\., got 1"),
    "nothing there": (tensors(text="{}"), "found nothing"),
}
INDEX = {
    "index cut": (VALID_INDEX[:-3], "cannot be read as the index of a checkpoint: Unterminated"),
    "index of nothing": (b"{}", "expected a weight_map .* got None"),
    "list": (b'{"weight_map": ["a"]}', r"expected a weight_map .* got \['a'\]"),
    "weight twice": (b'{"weight_map": {"a": "b", "a": "c"}}', "'a' is there more than once"),
}


@pytest.mark.parametrize(("data", "message"), [*TENSORS.values(), *INDEX.values()],
                         ids=[*TENSORS, *INDEX])
def test_each_damage_is_told(tmp_path, data, message):
    path = tmp_path / "head.npy"
    path.write_bytes(data)
    for read in open_array, read_head:
        with pytest.raises(ValueError, match=f"head.npy: (it|expected).*{message}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_an_index_of_more_than_may_be(tmp_path):
    path = tmp_path / "index.json"
    path.write_bytes(VALID_INDEX)
    os.truncate(path, 100_000_001)  # of which the system keeps no more than there was
    with says(ValueError, "index.json", "more than 100000000 bytes"):
        read_head(path)


def test_a_header_that_is_no_object(tmp_path):
    path = tmp_path / "head.safetensors"
    path.write_bytes(tensors(text="[1]"))
    with says(ValueError, "head.safetensors", "expected"):
        Safetensors(path)
