"""Arrays from files, files that appear only when complete, and the data of the package."""

import errno
import io
import os
import stat
import sys
from importlib import resources

import numpy as np
import pytest

from logitless.io import NpzWriter, open_array, open_packaged, read_head, replacing


def test_npy_is_memory_mapped(tmp_path):
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", a)
    opened = open_array(tmp_path / "a.npy")
    assert isinstance(opened.base, np.memmap)
    assert not opened.flags.writeable
    np.testing.assert_array_equal(opened, a)


def test_kind_is_told_by_content_not_by_name(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    os.rename(tmp_path / "a.npy", tmp_path / "a.npz")
    np.testing.assert_array_equal(open_array(tmp_path / "a.npz"), np.arange(3))


def test_npz_of_one_array_or_by_key(tmp_path):
    np.savez(tmp_path / "one.npz", anything=np.arange(3))
    np.savez(tmp_path / "two.npz", x=np.arange(4), y=np.arange(5))
    assert open_array(tmp_path / "one.npz").size == 3
    assert open_array(tmp_path / "one.npz", prefer="x").size == 3
    assert open_array(tmp_path / "one.npz", key="anything").size == 3
    assert open_array(tmp_path / "two.npz", key="x").size == 4
    with pytest.raises(ValueError, match=r"two.npz: expected one array, found 'x', 'y'"):
        open_array(tmp_path / "two.npz")
    with pytest.raises(ValueError, match=r"two.npz: .* several with one named 'z', found 'x', 'y'"):
        open_array(tmp_path / "two.npz", prefer="z")
    with pytest.raises(ValueError, match=r"one.npz: expected an array named 'x', found 'anything'"):
        open_array(tmp_path / "one.npz", key="x")
    np.savez(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="found nothing"):
        open_array(tmp_path / "none.npz")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,), ()])
def test_empty_and_scalar_arrays_open(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    assert open_array(tmp_path / "a.npy").shape == shape


def test_unreadable_files_say_what_was_expected(tmp_path):
    text = tmp_path / "text.npy"
    text.write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"text.npy: expected a NumPy .npy or .npz file"):
        open_array(text)
    with pytest.raises(FileNotFoundError, match=r"missing.npy"):
        open_array(tmp_path / "missing.npy")
    np.save(tmp_path / "whole.npy", np.zeros(1000))
    cut = tmp_path / "cut.npy"
    cut.write_bytes((tmp_path / "whole.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"cut.npy: it cannot be read as a .npy array of numbers"):
        open_array(cut)
    np.savez(tmp_path / "whole.npz", np.zeros(1000))
    cut = tmp_path / "cut.npz"
    cut.write_bytes((tmp_path / "whole.npz").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cut.npz: it cannot be read as a .npz archive"):
        open_array(cut)


@pytest.mark.parametrize("name", ["o.npy", "o.npz"])
def test_pickled_objects_are_refused(tmp_path, name):
    a = np.array([{}, 1], dtype=object)
    if name == "o.npy":
        np.save(tmp_path / name, a, allow_pickle=True)
    else:
        np.savez(tmp_path / name, a)
    with pytest.raises(ValueError, match=rf"{name}: it.* cannot be read as a.* of numbers"):
        open_array(tmp_path / name)


def test_head_of_npz_and_npy(tmp_path):
    w, b = np.ones((3, 2), np.float32), np.arange(3.0)
    np.savez(tmp_path / "h.npz", weight=w, bias=b, softcap=30.0, temperature=np.array([2]),
             note=np.array(["not read"]))
    head = read_head(tmp_path / "h.npz")
    np.testing.assert_array_equal(head.weight, w)
    np.testing.assert_array_equal(head.bias, b)
    assert (head.softcap, head.temperature) == (30.0, 2.0)
    np.save(tmp_path / "h.npy", w)
    head = read_head(tmp_path / "h.npy")
    np.testing.assert_array_equal(head.weight, w)
    assert head[1:] == (None, None, None)


def test_head_errors(tmp_path):
    np.savez(tmp_path / "h.npz", bias=np.ones(3))
    with pytest.raises(ValueError, match=r"h.npz: expected an array \(n, k\), found 'bias' \(3,\)"):
        read_head(tmp_path / "h.npz")
    np.savez(tmp_path / "h.npz", weight=np.ones((3, 2)), softcap=np.ones(2))
    with pytest.raises(ValueError, match=r"h.npz: expected softcap to be a single number, got "
                                         r"shape \(2,\), dtype float64"):
        read_head(tmp_path / "h.npz")


def test_writer_puts_blocks_together_and_shows_nothing_before_the_end(tmp_path):
    path = tmp_path / "out.npz"
    path.write_text("the old file")
    a = np.arange(10, dtype=np.float32).reshape(5, 2)
    b = np.arange(5)
    with NpzWriter(path, (5,)) as out:
        out.append(a=a[:3], b=b[:3])
        out.append(a=np.asfortranarray(a[3:]), b=b[3:])
        assert path.read_text() == "the old file"
    with np.load(path) as written:
        assert sorted(written.files) == ["a", "b"]
        for name, expected in (("a", a), ("b", b)):
            np.testing.assert_array_equal(written[name], expected)
            assert written[name].dtype == expected.dtype
    assert os.listdir(tmp_path) == ["out.npz"]


@pytest.mark.parametrize(("leading", "blocks"), [((2, 3), [4, 2]), ((0,), [0]), ((), [1])])
def test_writer_gives_the_leading_shape(tmp_path, leading, blocks):
    with NpzWriter(tmp_path / "out.npz", leading) as out:
        for rows in blocks:
            out.append(a=np.zeros(rows), top=np.zeros((rows, 5), np.int64))
    with np.load(tmp_path / "out.npz") as written:
        assert written["a"].shape == leading
        assert written["top"].shape == (*leading, 5)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(tmp_path, error):
    kept = tmp_path / "kept.npz"
    kept.write_text("the old file")

    def write_rows(then):
        with NpzWriter(kept, (5,)) as out:
            out.append(a=np.zeros(2))
            then()

    def write_half():
        with replacing(kept) as file:
            file.write(b"half")
            file.flush()
            assert len(os.listdir(tmp_path)) == 2  # beside it, under a temporary name
            raise error

    def fail():
        raise error

    with pytest.raises(error):
        write_rows(then=fail)
    with pytest.raises(error):
        write_half()
    with pytest.raises(ValueError, match="a: expected 40 bytes"):
        write_rows(then=list)
    assert os.listdir(tmp_path) == ["kept.npz"]
    assert kept.read_text() == "the old file"


def test_writer_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"out.npy: expected a name that ends in .npz"):
        NpzWriter(tmp_path / "out.npy", (1,))
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        NpzWriter(tmp_path / "no" / "out.npz", (1,))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match="expected the name of a plain file"):
        NpzWriter(tmp_path / "folder.npz", (1,))
    with NpzWriter(tmp_path / "out.npz", (2,)) as out:
        out.append(a=np.zeros(1))
        with pytest.raises(ValueError, match="a: expected blocks of float64"):
            out.append(a=np.zeros(1, np.float32))
        out.append(a=np.zeros(1))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and links")
def test_new_file_follows_links_and_umask(tmp_path):
    os.symlink(tmp_path / "target.npz", tmp_path / "link.npz")
    old = os.umask(0o027)
    try:
        with NpzWriter(tmp_path / "link.npz", (1,)) as out:
            out.append(a=np.zeros(1))
    finally:
        os.umask(old)
    assert (tmp_path / "link.npz").is_symlink()
    assert stat.S_IMODE((tmp_path / "target.npz").stat().st_mode) == 0o640


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: io.FileIO("/dev/full", "w"))
    with (pytest.raises(OSError, match=os.strerror(errno.ENOSPC)),
          NpzWriter(tmp_path / "out.npz", (5,)) as out):
        out.append(a=np.zeros(5))
    assert os.listdir(tmp_path) == []


def test_packaged_data_is_small_and_attributed():
    data = resources.files("logitless") / "data"
    assert len((data / "digits.npz").read_bytes()) < 150_000
    assert "10.24432/C50P49" in (data / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    digits = open_packaged("digits.npz")
    assert digits["x"].shape == (1797, 64)
    assert digits["x"].dtype == digits["target"].dtype == np.uint8
    # Class counts as the data's own description gives them for the test part.
    assert np.bincount(digits["target"]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179,
                                                      174, 180]


def test_packaged_data_is_what_its_recipe_makes(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    readme = (resources.files("logitless") / "data" / "README.md").read_text(encoding="utf-8")
    recipe = readme.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})
    for name in ("digits.npz",):
        shipped = open_packaged(name)
        with np.load(tmp_path / name) as made:
            assert sorted(made.files) == sorted(shipped)
            for key, array in shipped.items():
                assert made[key].dtype == array.dtype
                np.testing.assert_array_equal(made[key], array)
