"""Heads from files: .npy, .npz, .safetensors and checkpoints of several, mapped where they lie."""

import json
import os
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest
from support.memory import MIB, peak
from support.oracle import says

import logitless as ll
from logitless._arrays.bfloat16 import BFLOAT16 as INSIDE
from logitless._arrays.files import Place, Windows
from logitless.io import open_array, read_head

safetensors = pytest.importorskip("safetensors.numpy")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
N, K = 300, 40
KINDS = ["f4", "f8", "f2", BFLOAT16, "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]


@pytest.fixture
def weight(rng):
    return rng.standard_normal((N, K), np.float32)


@pytest.fixture
def x(rng):
    return rng.standard_normal((7, K), np.float32)


def checkpoint(folder, **shards):
    """An index and its shards, each a dict of arrays."""
    files = {}
    for name, arrays in shards.items():
        safetensors.save_file(arrays, folder / f"{name}.safetensors")
        files |= dict.fromkeys(arrays, f"{name}.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}, indent=2))
    return path


def same(head, other, x):
    """Whether two heads give the same bits in all that files could change."""
    t = np.arange(len(x)) % head.n_classes
    for call in (lambda h: h.loss(x, t), lambda h: h.logits(x), lambda h: h.topk(x, 5).index,
                 lambda h: h.score(x, t, k=3).target_rank, lambda h: h.sample(x, 0),
                 lambda h: h.target_log_prob(x, np.stack([t, t[::-1]], 1)),
                 lambda h: h.value_and_grad(x, t)[1].x,
                 lambda h: h.value_and_grad(x, t, wrt="weight")[1].weight):
        np.testing.assert_array_equal(call(head), call(other))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_arrays_are_those_of_the_package_safetensors(tmp_path, kind, weight):
    array = (weight * 9).astype(kind)
    safetensors.save_file({"other": array[:2], "array": array}, tmp_path / "a.safetensors",
                          metadata={"format": "pt"})
    found = open_array(tmp_path / "a.safetensors", key="array")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 4)])
def test_any_shape_opens(tmp_path, shape):
    safetensors.save_file({"a": np.ones(shape, "f4")}, tmp_path / "a")
    np.testing.assert_array_equal(open_array(tmp_path / "a"), np.ones(shape))


def test_files_are_mapped_not_read(tmp_path, weight):
    np.save(tmp_path / "a.npy", weight)
    safetensors.save_file({"weight": weight}, tmp_path / "a.safetensors")
    index = checkpoint(tmp_path, shard={"weight": weight})
    for path in tmp_path / "a.npy", tmp_path / "a.safetensors", index:
        found = read_head(path).weight
        assert isinstance(found.base, np.memmap)
        head = ll.LinearHead.from_file(path, pack=False)
        assert head.nbytes == 0
        # What is written to the file now is what the head sees.
        with open(found.base.filename, "r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(np.float32(123).tobytes())
        assert head.logits(np.eye(K)[K - 1])[N - 1] == 123


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("kind", [BFLOAT16, "f2", "f4", "f8", "i1"], ids=str)
def test_the_bits_of_the_widened_weights(tmp_path, kind, pack, weight, x):
    narrow = (weight * 9).astype(kind)
    bias = narrow[:, 0].copy()
    safetensors.save_file({"lm_head.weight": narrow, "lm_head.bias": bias}, tmp_path / "a")
    wide = narrow.astype("f8" if kind == "f8" else "f4")
    same(ll.LinearHead.from_file(tmp_path / "a", pack=pack),
         ll.LinearHead(wide, wide[:, 0], pack=pack), x)


def shifted(data, by):
    """A .safetensors file whose arrays begin `by` bytes later."""
    length = int.from_bytes(data[:8], "little")
    return (length + by).to_bytes(8, "little") + data[8:][:length] + b" " * by + data[8 + length:]


@pytest.mark.parametrize("kind", [BFLOAT16, "f2", "f4", "f8"], ids=str)
@pytest.mark.parametrize("by", [1, 2, 5])
def test_arrays_at_any_byte_of_a_file(tmp_path, kind, by, weight, x):
    weight = weight.astype(kind)
    (tmp_path / "a").write_bytes(shifted(safetensors.save({"weight": weight}), by))
    assert open_array(tmp_path / "a").ctypes.data % 8 == by
    np.testing.assert_array_equal(open_array(tmp_path / "a"), weight)
    assert not by % 2 or not read_head(tmp_path / "a").weight.flags.aligned
    for pack in True, False:
        head = ll.LinearHead.from_file(tmp_path / "a", pack=pack)
        same(head, ll.LinearHead(weight), x)
        same(head, ll.LinearHead(weight), x.astype(BFLOAT16))


@pytest.mark.parametrize("save", ["npz", "safetensors", "index"])
@pytest.mark.parametrize(("names", "found"), [
    (["anything"], "anything"),
    (["weight", "lm_head.weight"], "lm_head.weight"),
    (["head.weight", "weight"], "weight"),
    (["a", "score.weight"], "score.weight"),
    (["fc.weight", "classifier.weight", "b"], "classifier.weight"),
    (["model.embed_tokens.weight", "output.weight"], "output.weight"),
    (["model.embed_tokens.weight", "model.layers.0.mlp.weight"], "model.embed_tokens.weight"),
    (["transformer.wte.weight", "h.0.weight"], "transformer.wte.weight"),
    (["wte.weight", "h.0.weight"], "wte.weight"),
    (["vector:weight", "only"], "only"),  # the weight of a norm
    (["integers:ids", "only"], "only"),
    (["integers:only", "vector:bias"], "only"),
])
def test_which_array_is_the_weight(tmp_path, save, names, found, weight):
    arrays = {}
    for i, name in enumerate(names):
        kind, _, name = name.rpartition(":")
        array = weight + i
        arrays[name] = {"": array, "vector": array[0], "integers": array.astype("i4")}[kind]
    path = tmp_path / "head"
    if save == "npz":
        with open(path, "wb") as file:
            np.savez(file, **arrays)
    elif save == "safetensors":
        safetensors.save_file(arrays, path)
    else:
        path = checkpoint(tmp_path, **{f"part{i}": {name: a} for i, (name, a)
                                       in enumerate(arrays.items())})
    np.testing.assert_array_equal(read_head(path).weight, arrays[found])
    for name in arrays:
        np.testing.assert_array_equal(read_head(path, key=name).weight, arrays[name])


def test_which_array_is_the_bias(tmp_path, weight):
    bias, other = weight[:, 0].copy(), weight[:, 1].copy()
    path = tmp_path / "a.safetensors"
    safetensors.save_file({"fc.weight": weight, "fc.bias": bias, "other": other}, path)
    np.testing.assert_array_equal(read_head(path).bias, bias)
    np.testing.assert_array_equal(read_head(path, bias_key="other").bias, other)
    safetensors.save_file({"w": weight, "bias": bias}, path)
    assert read_head(path).bias is None
    safetensors.save_file({"weight": weight, "bias": bias[1:]}, path)
    with pytest.raises(ValueError, match=r"`bias` must have shape .* \(300,\), got \(299,\)"):
        ll.LinearHead.from_file(path)


@pytest.mark.parametrize("save", ["npz", "safetensors"])
def test_names_that_do_not_tell(tmp_path, save, weight):
    many = {f"layer{i:02}": weight[: i + 1] for i in range(20)}
    path = tmp_path / "many"
    with open(path, "wb") as file:
        np.savez(file, **many) if save == "npz" else file.write(safetensors.save(many))
    with pytest.raises(ValueError, match=(
            r"many: expected one array \(n, k\), or a key that tells which, "
            r"found 'layer00' \(1, 40\) \w+, .*'layer11' \(12, 40\) \w+ and 8 more$")):
        ll.LinearHead.from_file(path)
    for keys in {"key": "layer"}, {"key": "layer00", "bias_key": "layer"}:
        with pytest.raises(ValueError, match=r"many: expected an array named 'layer', found 'l"):
            ll.LinearHead.from_file(path, **keys)
    assert ll.LinearHead.from_file(path, "layer03").n_classes == 4


def test_a_npy_file_has_no_names(tmp_path, weight, x):
    np.save(tmp_path / "a.npy", weight)
    same(ll.LinearHead.from_file(tmp_path / "a.npy", n_threads=1), ll.LinearHead(weight), x)
    for keys in {"key": "weight"}, {"bias_key": "weight"}:
        with pytest.raises(ValueError, match=r"a.npy: expected no key, .* got 'weight'"):
            ll.LinearHead.from_file(tmp_path / "a.npy", **keys)


def test_a_name_that_is_none(tmp_path, weight):
    np.save(tmp_path / "a.npy", weight)
    np.savez(tmp_path / "a.npz", weight=weight)
    for bad in np.array(["weight", "b"]), 3, ["weight"]:
        with says(ValueError, "a.npy: expected no key", repr(bad)):
            ll.LinearHead.from_file(tmp_path / "a.npy", key=bad)
        with says(ValueError, "a.npz: expected an array named", repr(bad)):
            ll.LinearHead.from_file(tmp_path / "a.npz", key=bad)


def test_options_of_a_npz_and_those_given(tmp_path, weight, x):
    np.savez(tmp_path / "a.npz", weight=weight, softcap=2.0, temperature=0.5, other=weight)
    from_file = ll.LinearHead.from_file
    plain = ll.LinearHead(weight, softcap=2.0, temperature=0.5)
    same(from_file(tmp_path / "a.npz"), plain, x)
    same(from_file(tmp_path / "a.npz", softcap=None, temperature=1.0), ll.LinearHead(weight), x)
    same(from_file(tmp_path / "a.npz", key="other"), ll.LinearHead(weight), x)
    with pytest.raises(TypeError, match="unexpected keyword argument 'soft'"):
        from_file(tmp_path / "a.npz", soft=1)


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2", "F4", "C64"])
def test_dtypes_that_nobody_promised(tmp_path, code):
    header = {"lm_head.weight": {"dtype": code, "shape": [2, 8], "data_offsets": [0, 16]},
              "weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [16, 20]}}
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(20))
    with pytest.raises(ValueError, match=rf"a: expected 'lm_head.weight' to be one of BF16, F16, "
                                         rf".*, got {code}$"):
        ll.LinearHead.from_file(tmp_path / "a")
    assert ll.LinearHead.from_file(tmp_path / "a", "weight").n_classes == 1  # the others are read


def test_a_checkpoint_needs_the_shard_in_question_alone(tmp_path, weight, x):
    path = checkpoint(tmp_path, one={"a": weight, "lm_head.bias": weight[:, 0].copy()},
                      two={"lm_head.weight": weight}, three={"b": weight})
    os.remove(tmp_path / "three.safetensors")
    same(ll.LinearHead.from_file(path), ll.LinearHead(weight, weight[:, 0]), x)
    with pytest.raises(FileNotFoundError, match=r"three.safetensors"):
        ll.LinearHead.from_file(path, key="b")
    safetensors.save_file({"a": weight}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"two.safetensors: expected an array named "
                                         r"'lm_head.weight', as .*index.json says, found 'a'"):
        ll.LinearHead.from_file(path)


@pytest.mark.parametrize("name", ["../out.safetensors", "/out.safetensors", "a/../../b.safetensors",
                                  "a\0.safetensors", "pytorch_model.bin", "", 3, None, ["a"]])
def test_shards_lie_beside_their_index(tmp_path, name):
    path = tmp_path / "folder" / "index.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"weight_map": {"weight": name}}))
    safetensors.save_file({"weight": np.eye(3)}, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"index.json: it cannot be read as the index of a "
                                         r"checkpoint: expected 'weight' in a .*, got "):
        ll.LinearHead.from_file(path)


def test_shards_in_folders_and_behind_links(tmp_path):
    safetensors.save_file({"weight": np.eye(3)}, tmp_path / "blob")
    path = tmp_path / "folder" / "index.json"
    (path.parent / "sub").mkdir(parents=True)
    os.symlink(tmp_path / "blob", path.parent / "sub" / "a.safetensors")
    path.write_text(json.dumps({"weight_map": {"weight": "sub/a.safetensors"}}))
    assert ll.LinearHead.from_file(path).n_classes == 3


def test_heads_from_files_are_copied_and_pickled(tmp_path, weight, x):
    safetensors.save_file({"weight": weight}, tmp_path / "a")
    for pack in True, False:
        head = ll.LinearHead.from_file(tmp_path / "a", pack=pack, temperature=2.0)
        same(pickle.loads(pickle.dumps(head)), head, x)


def test_memory_is_that_of_the_packed_head_or_none(tmp_path, rng):
    weight = rng.standard_normal((20_000, 512), np.float32)  # 39 MiB
    safetensors.save_file({"weight": weight}, tmp_path / "a")
    x, from_file = weight[:3], ll.LinearHead.from_file
    assert peak(lambda: from_file(tmp_path / "a")) < weight.nbytes + 12 * MIB
    assert peak(lambda: from_file(tmp_path / "a", pack=False, n_threads=1).predict(x)) < 8 * MIB


def windows(path, array, offset=0):
    """The array in a file, as where the address space is too small for it."""
    path.write_bytes(bytes(offset) + array.tobytes())
    dtype = INSIDE if array.dtype == BFLOAT16 else array.dtype
    return Windows(Place(os.fspath(path), offset, dtype, array.shape))


@pytest.mark.parametrize("kind", [BFLOAT16, "f4", "f8", "f2"], ids=str)
@pytest.mark.parametrize("n", [5, 16, 17, 700, 5000])
@pytest.mark.parametrize("offset", [0, 3, 4096])
def test_windows_of_a_file_give_the_bits_of_the_whole(tmp_path, kind, n, offset, rng, x, eager):
    weight = rng.standard_normal((n, K)).astype(kind)
    bias = rng.standard_normal(n, np.float32)
    part = windows(tmp_path / "a", weight, offset)
    options = {"temperature": 2.0, "softcap": 5.0}
    whole = ll.LinearHead(weight, bias, pack=False, **options)
    for pack, n_threads in (True, 1), (False, 1), (False, 3):
        head = ll.LinearHead(part, bias, pack=pack, n_threads=n_threads, **options)
        same(head, whole, x)
        same(head, whole, x.astype(BFLOAT16))
        assert head.weight_dtype == whole.weight_dtype


LIMITED = """
import resource
import numpy as np, logitless as ll

def now(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))

path, x = "PATH", np.eye(3, 2048, dtype=np.float32)
ll.LinearHead(np.eye(100, 2048, dtype=np.float32), n_threads=1).score(x, [0, 1, 2], k=2)
limit = now("VmSize") + (96 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = now("VmHWM")
head = ll.LinearHead.from_file(path, pack=False, n_threads=1)
scores = head.score(x, [0, 7, head.n_classes - 1], k=2)
print(scores.predicted.tolist(), scores.target_rank.tolist(), scores.loss.tolist())
print(now("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and limits of address space")
@pytest.mark.parametrize(("save", "kind"), [
    ("npy", "f4"), ("safetensors", "f4"), ("safetensors", BFLOAT16)], ids=str)
def test_a_head_larger_than_the_address_space(tmp_path, run_python, save, kind):
    """Half a GiB where a quarter of it could not be mapped: memory in use stays small."""
    kind = np.dtype(kind)
    shape = (512 << 20) // 2048 // kind.itemsize, 2048
    path = tmp_path / f"a.{save}"
    size = shape[0] * shape[1] * kind.itemsize
    with open(path, "wb") as file:
        if save == "npy":
            np.lib.format.write_array_header_1_0(
                file, {"descr": kind.str, "fortran_order": False, "shape": shape})
        else:
            name = "F32" if kind == "f4" else "BF16"
            text = json.dumps({"weight": {"dtype": name, "shape": shape,
                                          "data_offsets": [0, size]}}).encode()
            file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        file.truncate(start + size)  # zeros that take no place
        for row, column in (0, 0), (7, 1), (shape[0] - 1, 2):
            file.seek(start + (row * shape[1] + column) * kind.itemsize)
            file.write(kind.type(64).tobytes())
    said, grown = run_python(LIMITED.replace("PATH", os.fspath(path))).splitlines()
    loss = np.log1p((shape[0] - 1) * np.exp(np.float64(-64)))
    predicted, rank, losses = json.loads(f"[{said.replace('] [', '], [')}]")
    assert (predicted, rank) == ([0, 7, shape[0] - 1], [0, 0, 0])
    np.testing.assert_allclose(losses, loss, rtol=1e-5)
    assert int(grown) < 64 * MIB


def cut(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot become smaller there")
@pytest.mark.parametrize("save", ["npy", "safetensors"])
def test_a_mapped_file_that_becomes_smaller_is_an_error(tmp_path, rng, save):
    """To touch what is not there any more would end the process."""
    weight = rng.standard_normal((3000, 16), np.float32)
    for name in "weight", "x":
        if save == "npy":
            np.save(tmp_path / name, weight)
            os.rename(tmp_path / f"{name}.npy", tmp_path / name)
        else:
            safetensors.save_file({name: weight}, tmp_path / name)
    size = os.path.getsize(tmp_path / "x")
    mapped = ll.LinearHead.from_file(tmp_path / "weight", pack=False)
    packed, x = ll.LinearHead(weight), open_array(tmp_path / "x")
    before = packed.predict(x)
    np.testing.assert_array_equal(mapped.predict(x), before)
    cut(tmp_path / "x", size - 1)
    for call in (lambda: packed.predict(x), lambda: packed.loss(x[7:], before[7:]),
                 lambda: packed.score(x.reshape(30, 100, 16)), lambda: packed.topk(x, 2),
                 lambda: packed.value_and_grad(x, before)):
        with pytest.raises(OSError, match=rf"`x` .* smaller: expected {size} bytes, got {size - 1}"
                                          rf" \(.*x\)"):
            call()
    cut(tmp_path / "weight", 4096)
    for call in (lambda: mapped.predict(weight), lambda: mapped.loss(weight, before)):
        with pytest.raises(OSError, match="`weight` is mapped from a file that has become smaller"):
            call()
    np.testing.assert_array_equal(packed.predict(weight), before)


def test_windows_of_a_file_that_becomes_smaller_are_an_error(tmp_path, rng):
    weight = rng.standard_normal((3000, 16), np.float32)
    head = ll.LinearHead(windows(tmp_path / "a", weight), pack=False)
    head.predict(weight)
    cut(tmp_path / "a", weight.nbytes - 1)
    with pytest.raises(OSError, match=r"a: it has become smaller .* ends at byte 191999"):
        head.predict(weight)
