"""Files that are damaged, or no files at all: one clear error that names them, and no more."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.damage import assert_clean, damaged, damages
from support.processes import python

from logitless.io import open_array, read_head

MAGIC = b"\x93NUMPY"


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version=version)
    return file.getvalue()


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def with_header(text, data=b"", version=1, length=None):
    length = len(text) if length is None else length
    size = struct.pack("<H" if version == 1 else "<I", length)
    return MAGIC + bytes([version, 0]) + size + text.encode("latin-1") + data


def header(shape, descr="'<f4'", order="False"):
    return with_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")


def zipped(method, data=None):
    """An archive of one array, compressed by one of Python's methods."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("weight.npy", npy(WEIGHT) if data is None else data)
    return file.getvalue()


WEIGHT = np.arange(600, dtype=np.float32).reshape(60, 10)
VALID = [
    npy(WEIGHT), npy(np.asfortranarray(WEIGHT)), npy(WEIGHT, (2, 0)), npy(np.arange(5)),
    npy(np.float64(3)), npy(WEIGHT[:0]),
    npz(weight=WEIGHT), npz(np.savez_compressed, weight=WEIGHT, bias=WEIGHT[:, 0], softcap=2.0),
    npz(np.savez_compressed, weight=np.zeros((60, 10), ">f8"), temperature=np.float32(1)),
]


@pytest.mark.parametrize("data", VALID)
def test_valid_files_are_read(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    found = open_array(tmp_path / "a", prefer="weight")
    with np.load(io.BytesIO(data)) if data[:2] == b"PK" else io.BytesIO() as archive:
        want = archive["weight"] if data[:2] == b"PK" else np.load(io.BytesIO(data))
        np.testing.assert_array_equal(found, want)
        assert found.dtype == want.dtype
        assert found.flags.f_contiguous == want.flags.f_contiguous


@given(st.sampled_from(VALID), damages)
@example(VALID[0], [("set", 6, b"\x02")])  # a length of 4 bytes
@example(VALID[6], [("set", 8, b"\x63")])
def test_any_damage_is_an_error_that_names_the_file(tmp_path, data, hurts):
    path = tmp_path / "damaged"
    path.write_bytes(damaged(data, hurts))
    assert_clean(path)


def with_bytes(data, *changes):
    """`data` with bytes put in at the first place of a mark, plus an offset, in order."""
    data = bytearray(data)
    for mark, offset, piece in changes:
        where = data.index(mark) + offset
        data[where : where + len(piece)] = piece
    return bytes(data)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
NPY = {
    "empty": (b"", "is empty"),
    "magic only": (MAGIC, "starts with"),
    "text": (b"1 2 3\n", "starts with b'1 2 3"),
    "version": (MAGIC + bytes([9, 0]), "its version"),
    "cut in the header": (npy(WEIGHT)[:50], "ends within the header"),
    "cut": (npy(WEIGHT)[:-8], r"\(60, 10\) takes 2400 bytes, but there are 2392"),
    "longer": (npy(WEIGHT) + b"\0", "but there are 2401"),
    "long header": (with_header("", version=2, length=1 << 31), "header of 2147483648 bytes"),
    "negative": (header("(-1, 4)"), r"header that cannot be read: .*-1"),
    "huge": (header("(1000000000, 1000000000)"), "takes 4000000000000000000 bytes"),
    "huge and empty": (header("(0, 99999999999999999999)"), "cannot be read"),
    "many axes": (header("(" + "1, " * 99 + ")") + bytes(4), "cannot be read"),
    "long number": (header("(" + "9" * 5000 + ",)"), "cannot be read"),
    "no number": (header("(1 2,)"), "cannot be read"),
    "code": (header("(exit(),)"), "cannot be read"),
    "nested": (with_header("(" * 9000), "cannot be read"),
    "minus signs": (header("(" + "-" * 9000 + "1,)"), "cannot be read"),
    "key missing": (with_header("{'descr': '<f4', 'shape': (3,), }"), "cannot be read"),
    "key twice": (with_header("{'descr': '<f4', 'shape': (3,), 'shape': (3,), }"),
                  "cannot be read"),
    "order": (header("(3,)", order="'C'"), "cannot be read"),
    "unknown dtype": (header("(3,)", "'<f3'"), "cannot be read as .*: .*f3"),
    "old dtype": (header("(3,)", "'a5'"), "unknown dtype .*a5"),
    "dtype of two lines": (header("(3,)", "'<\nf4'"), "unknown dtype"),
    "records of two lines": (header("(3,)", "[('a', '<f4'),\n('b', '<f4')]"), "holds records"),
    "many records": (header("(3,)", "[],'a':" * 1200 + "[]"), "cannot be read"),
    "objects": (npy(np.array([{}, 1], object)), r"dtype is '\|O'.*astype"),
    "strings": (npy(np.array(["a", "b"])), r"dtype is '<U1'"),
    "bfloat16": (npy(WEIGHT.astype(ml_dtypes.bfloat16)), r"V2'.*view\(ml_dtypes.bfloat16\)"),
    "records": (npy(np.zeros(3, [("a", "f4"), ("b", "i4")])), "holds records.*'a', '<f4'"),
    "dates": (npy(np.zeros(3, "M8[s]")), r"dtype is '<M8\[s\]'"),
    "complex": (npy(np.zeros(3, "c8")), "dtype is '<c8'"),
}
NPZ = {
    "no archive": (LOCAL, "cannot be read"),
    "cut archive": (npz(weight=WEIGHT)[:-30], "cannot be read"),
    "encrypted": (with_bytes(npz(weight=WEIGHT), (LOCAL, 6, b"\1"), (CENTRAL, 8, b"\1")),
                  "encrypted"),
    "unknown method": (with_bytes(npz(weight=WEIGHT), (LOCAL, 8, b"\x63"), (CENTRAL, 10, b"\x63")),
                       "compressed by method 99"),
    "bzip2": (zipped(zipfile.ZIP_BZIP2), "compressed by method 12"),
    "lzma": (zipped(zipfile.ZIP_LZMA), "compressed by method 14"),
    "checksum": (with_bytes(npz(weight=WEIGHT), (np.float32(7).tobytes(), 0, b"\x99")), "CRC"),
    "deflated garbage": (with_bytes(zipped(zipfile.ZIP_DEFLATED), (b"weight.npy", 12, b"\xff" * 9)),
                         "cannot be read"),
    "short member": (zipped(zipfile.ZIP_STORED, npy(WEIGHT)[:-4]), "but there are 2396"),
    "long member": (zipped(zipfile.ZIP_DEFLATED, npy(WEIGHT) + b"\0"), "but there are 2401"),
    "no member": (zipped(zipfile.ZIP_STORED, b"text"), "an array starts with"),
    "huge member": (zipped(zipfile.ZIP_STORED, header("(1000000000, 1000000000)")), "takes 4"),
    "version of zip": (with_bytes(npz(weight=WEIGHT), (CENTRAL, 6, b"\xff")), "cannot be read"),
    "objects in an archive": (npz(weight=np.array([{}, 1], object)), r"dtype is '\|O'"),
}


@pytest.mark.parametrize(("data", "message"), [*NPY.values(), *NPZ.values()], ids=[*NPY, *NPZ])
def test_each_damage_is_told(tmp_path, data, message):
    path = tmp_path / "head.npy"
    path.write_bytes(data)
    for read in open_array, read_head:
        with pytest.raises(ValueError, match=f"head.npy: (it|expected).*{message}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_the_version_of_python_2_is_read(tmp_path):
    (tmp_path / "a").write_bytes(header("(2L, 3L)") + bytes(24))
    assert open_array(tmp_path / "a").shape == (2, 3)


@pytest.mark.parametrize("place", ["head", "x", "target"])
@pytest.mark.parametrize("name", ["cut", "bfloat16", "encrypted", "unknown method", "lzma"])
def test_the_command_ends_with_one_line(tmp_path, monkeypatch, capsys, place, name):
    pytest.importorskip("rich")
    cli = pytest.importorskip("logitless.cli")
    monkeypatch.chdir(tmp_path)
    np.save("head", WEIGHT)
    np.save("x", WEIGHT)
    np.save("target", np.zeros(60, int))
    with open(f"{place}.npy", "wb") as file:
        file.write({**NPY, **NPZ}[name][0])
    code = cli.main(["score", "head.npy", "x.npy", "target.npy", "-o", "out.npz"])
    stdout, stderr = capsys.readouterr()
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith(f"Error: {place}.npy: it")
    assert sorted(os.listdir()) == ["head.npy", "target.npy", "x.npy"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes and sockets with names")
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, monkeypatch, kind):
    path = tmp_path / "it"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as s:
            monkeypatch.chdir(tmp_path)  # as the name of a socket must be short
            s.bind("it")
    code = ("import sys; from logitless.io import open_array, read_head\n"
            "for read in open_array, read_head:\n"
            "    try: read(sys.argv[1])\n"
            "    except ValueError as error: print(error)\n")
    said = python("-c", code, path, timeout=60)
    assert said.count(f"{path}: expected a regular file, which can be mapped into memory, "
                      f"got a {kind}\n") == 2


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="needs /dev/stdin")
def test_a_file_at_standard_input(tmp_path):
    np.save(tmp_path / "a.npy", WEIGHT)
    code = "from logitless.io import open_array; print(open_array('/dev/stdin').sum())"
    with open(tmp_path / "a.npy") as file:
        assert float(python("-c", code, stdin=file)) == WEIGHT.sum()
    done = python("-c", code, stdin=subprocess.PIPE, timeout=60, check=False)
    assert "/dev/stdin: expected a regular file" in done.stderr
