"""16-bit tensors in PyTorch: read where they are, rounded once, never held twice."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.13")

from support.memory import MIB, peak  # noqa: E402
from support.narrow import bfloat16  # noqa: E402
from support.processes import python  # noqa: E402
from support.torch_cases import F64, calls, case, converted, results  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import logitless as ll  # noqa: E402
from logitless._arrays.bfloat16 import BFLOAT16  # noqa: E402
from logitless.torch import _arrays, _call, linear_cross_entropy  # noqa: E402

F = torch.nn.functional
NARROW = [torch.bfloat16, torch.float16]
PAIRS = [(x, weight) for x in (*NARROW, torch.float32) for weight in (*NARROW, torch.float32)
         if x != torch.float32 or weight != torch.float32]
MEANS = ["mean", "none"]


def problem(gen, x_dtype, w_dtype, n=300, k=65, m=37):
    """Leaves x and weight, a bias of the dtype of the weights, class indices."""
    x, weight, bias = (torch.randn(shape, generator=gen) for shape in ((m, k), (n, k), (n,)))
    tensors = x.to(x_dtype), (0.3 * weight).to(w_dtype), bias.to(w_dtype)
    return *(t.requires_grad_() for t in tensors), torch.randint(n, (m,), generator=gen)


def float32_losses(x, weight, target, **options):
    with torch.autocast("cpu", torch.bfloat16):
        return linear_cross_entropy(x, weight, target, reduction="none", **options)


def array(tensor):
    """The numbers of a tensor in its own dtype, that of ml_dtypes for bfloat16."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(bfloat16())
    return tensor.numpy()


def at_byte(offset):
    def moved(t):
        memory = bytearray(t.numel() * t.element_size() + offset)
        other = torch.frombuffer(memory, dtype=t.dtype, offset=offset).view(t.shape)
        return other.copy_(t.detach())

    return moved


def strided(t):
    wide = torch.zeros(len(t), 2 * t.shape[1], dtype=t.dtype)
    wide[:, 1::2] = t.detach()
    return wide[:, 1::2]


LAYOUTS = {
    "odd offset": lambda t: torch.cat([t.detach().flatten()[:1], t.detach().flatten()])[1:].view(
        t.shape),
    "odd address": at_byte(1),
    "columns": lambda t: t.detach().T.contiguous().T,
    "strided": strided,
    "backwards in memory": lambda t: t.detach().flip(0).contiguous().flip(0),
    "part of rows": lambda t: torch.cat([t.detach(), t.detach()], 1)[:, : t.shape[1]],
}


# What is computed


@pytest.mark.parametrize("n", [5, 300])
@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
def test_bits_are_those_of_arrays(gen, dtypes, n):
    """Losses, and gradients rounded to the dtypes of their tensors."""
    x, weight, bias, target = problem(gen, *dtypes, n=n)
    arrays = *map(array, (x, weight)), target.numpy(), bias.detach().float().numpy()
    losses = float32_losses(x, weight, target, linear_bias=bias)
    assert losses.dtype == torch.float32
    assert np.array_equal(losses.detach().numpy(), ll.linear_cross_entropy(*arrays))

    loss = linear_cross_entropy(x, weight, target, linear_bias=bias)
    found = torch.autograd.grad(3 * loss.float(), (x, weight, bias))
    _, expected = ll.linear_cross_entropy_value_and_grad(
        *arrays, reduction="none", grad_output=np.full(len(x), 1 / len(x)))
    for ours, name, leaf in zip(found, ("x", "weight", "bias"), (x, weight, bias), strict=True):
        theirs = torch.from_numpy(getattr(expected, name))
        assert ours.dtype == leaf.dtype
        assert torch.equal(ours, (3 * theirs).to(leaf.dtype)), name


@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
def test_values(gen, dtypes):
    """The losses are off by roundings of float32, the gradients by one of their own dtype."""
    x, weight, bias, target = problem(gen, *dtypes, k=513)
    args, options = converted((x, weight, target), {"linear_bias": bias}, F64)
    factor = torch.rand(len(x), generator=gen)
    exact, gradients = results(F.linear_cross_entropy, args, {**options, "reduction": "none"},
                               factor.to(F64))
    losses = float32_losses(x, weight, target, linear_bias=bias)
    torch.testing.assert_close(losses.to(F64), exact, rtol=2e-6, atol=0)
    found = torch.autograd.grad(losses, (x, weight, bias), factor)
    for ours, theirs in zip(found, gradients, strict=True):
        eps = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours.to(F64), theirs, rtol=0.51 * eps, atol=1e-5)


@pytest.mark.parametrize("dtypes", [p for p in PAIRS if p != (torch.bfloat16,) * 2],
                         ids=str)
def test_gradients_are_those_of_widened_tensors(gen, dtypes):
    x, weight, bias, target = problem(gen, *dtypes)
    leaves = x, weight, bias
    wide = [t.detach().float().requires_grad_() for t in leaves]
    found, expected = (
        torch.autograd.grad(linear_cross_entropy(a, w, target, linear_bias=b), (a, w, b))
        for a, w, b in (leaves, wide)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("n", [5, 300])
def test_layouts(gen, n, dtype, layout):
    x, weight, _, target = problem(gen, dtype, dtype, n=n)
    moved = [LAYOUTS[layout](t) for t in (x, weight)]
    before = [t.clone() for t in moved]
    for leaf in moved:
        leaf.requires_grad_()
    assert torch.equal(float32_losses(*moved, target), float32_losses(x, weight, target))
    ours, theirs = (torch.autograd.grad(linear_cross_entropy(*t, target), t)
                    for t in (moved, (x, weight)))
    assert all(map(torch.equal, ours, theirs))
    assert all(map(torch.equal, moved, before))


@pytest.mark.parametrize("soft", [False, True])
def test_needs_no_ml_dtypes(gen, monkeypatch, soft):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    args, options = case(gen, "1-d", soft, torch.bfloat16, weight=True, linear_bias=True)
    if soft:
        args[2].requires_grad_()
    exact = results(F.linear_cross_entropy, *converted(args, options, F64))
    loss, gradients = results(linear_cross_entropy, args, options)
    for ours, theirs in zip((loss, *gradients), (exact[0], *exact[1]), strict=True):
        torch.testing.assert_close(ours.to(F64), theirs, rtol=2.0**-8, atol=1e-6)


# Where it is


@pytest.mark.parametrize("reduction", MEANS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_arrays_are_the_memory_of_the_tensors(gen, monkeypatch, dtype, reduction):
    args, _ = case(gen, dtype=dtype)
    seen = calls(monkeypatch)
    linear_cross_entropy(*args, reduction=reduction).sum().backward()
    linear_cross_entropy(*(t.detach() for t in args))
    assert len(seen) == (2 if reduction == "mean" else 3)
    for _, arrays, _ in seen:
        for tensor, given in zip(args[:2], arrays, strict=False):
            assert given.dtype == (np.float16 if dtype == torch.float16 else BFLOAT16)
            assert given.ctypes.data == tensor.data_ptr()


ROUNDED = [(np.float32, torch.bfloat16), (np.float32, torch.float16),
           (np.float64, torch.bfloat16), (np.float64, torch.float32)]


@pytest.mark.parametrize("shape", [(0, 3), (7,), (8,), (9,), (3, 3), (5, 4, 3), (1001, 7)])
@pytest.mark.parametrize(("wide", "dtype"), ROUNDED, ids=str)
def test_rounding_in_place(gen, monkeypatch, wide, dtype, shape):
    """As any other rounding, whatever the size of blocks, and in half the memory."""
    monkeypatch.setattr(_arrays, "_BLOCK", 8)
    given = torch.randn(shape, dtype=F64, generator=gen).numpy().astype(wide)
    expected = torch.from_numpy(given.copy()).to(dtype)
    ours = _arrays.narrowed(given, dtype)
    assert ours.dtype == dtype
    assert ours.is_contiguous()
    assert torch.equal(ours, expected)
    least = ours.numel() * dtype.itemsize
    assert least <= ours.untyped_storage().nbytes() < least + given.itemsize


@pytest.mark.parametrize("wide", [np.float32, np.float64])
def test_nothing_to_round(wide):
    given = np.ones((100, 10_000), wide)
    same = torch.from_numpy(given).dtype
    assert _arrays.narrowed(given, same).data_ptr() == given.ctypes.data
    assert torch.equal(_arrays.narrowed(given, F64), torch.ones(100, 10_000, dtype=F64))


@pytest.mark.compiled_only
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_class_probabilities_are_read_where_they_are(gen, dtype, held):
    """A block of rows at a time, whatever the layout; one-hot rows among them."""
    m, n = 8000, 2000
    x, weight = (torch.randn(size, 4, generator=gen).to(dtype) for size in (m, n))
    weight.requires_grad_(held)
    target = torch.rand(n, m, generator=gen).to(dtype).T
    target[0] = 0
    target[0, 7] = 1
    losses = []
    used = peak(lambda: losses.append(linear_cross_entropy(x, weight, target, shift=1,
                                                           loss_dtype=torch.float32)))
    assert used < 4 * target.numel() / 2
    expected = linear_cross_entropy(x, weight, target.float(), shift=1, loss_dtype=torch.float32)
    assert torch.equal(losses[0], expected)


# In autograd


class Keeping(TorchDispatchMode):
    """Holds on to gradients that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.logitless.scale_.default:
            self.seen.append(args[0])
        return func(*args, **(kwargs or {}))


@pytest.fixture
def small_blocks(monkeypatch):
    """Every gradient here is more than one block."""
    monkeypatch.setattr(_arrays, "_BLOCK", 3)


@pytest.mark.parametrize("reduction", MEANS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.usefixtures("small_blocks")
def test_gradients_hold_no_more_than_they_need(gen, dtype, reduction):
    args, _ = case(gen, dtype=dtype)
    linear_cross_entropy(*args, reduction=reduction).sum().backward()
    for leaf in args[:2]:
        assert leaf.grad.untyped_storage().nbytes() == 2 * leaf.numel()


@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("form", ["rows", "2-d"])
@pytest.mark.parametrize("reduction", MEANS)
@pytest.mark.usefixtures("small_blocks")
def test_backward_again(gen, reduction, form, factor):
    """What has been handed out stays; a second pass finds the same."""
    args, options = case(gen, form, dtype=torch.bfloat16, linear_bias=True, reduction=reduction)
    leaves = *args[:2], options["linear_bias"]
    loss = linear_cross_entropy(*args, **options).float().sum() * factor
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    copies = [g.clone() for g in first]
    second = torch.autograd.grad(loss, leaves)
    exact = results(F.linear_cross_entropy, *converted(args, options, F64),
                    torch.full(linear_cross_entropy(*args, **options).shape, factor, dtype=F64))
    for gradient, was, again, expected in zip(first, copies, second, exact[1], strict=True):
        assert torch.equal(gradient, was)
        torch.testing.assert_close(again, was, rtol=2.0**-8, atol=0)
        torch.testing.assert_close(was.to(F64), expected, rtol=2.0**-7, atol=1e-6)


@pytest.mark.parametrize("reduction", MEANS)
@pytest.mark.usefixtures("small_blocks")
def test_surroundings_of_backward(gen, reduction):
    """Graphs of gradients, modes and transforms: the same gradients."""
    args, options = case(gen, dtype=torch.bfloat16, reduction=reduction)

    def loss(*args):
        return linear_cross_entropy(*args, **options).float().sum()

    plain = torch.autograd.grad(loss(*args), args[:2])
    graph = torch.autograd.grad(loss(*args), args[:2], create_graph=True)
    transformed = torch.func.grad(loss, (0, 1))(*(t.detach() for t in args))
    before = loss(*args)
    with Keeping() as mode:
        late = torch.autograd.grad(before, args[:2])
        seen = torch.autograd.grad(loss(*args), args[:2])
    assert len(mode.seen) == (4 if reduction == "mean" else 0)
    kept = [g.bfloat16() for g in mode.seen]
    for gradients in (graph, transformed, late, seen, *filter(None, (kept[:2], kept[2:]))):
        for ours, expected in zip(gradients, plain, strict=True):
            assert ours.dtype == torch.bfloat16
            assert torch.equal(ours, expected)
    with pytest.raises(RuntimeError, match="no second derivative"):
        graph[0].square().sum().backward()


@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
def test_fakes_of_the_operators(gen, dtypes):
    """Gradients beside the loss are wide, those of the backward operator are finished."""
    x, weight, bias, target = problem(gen, *dtypes)
    tensors = *(t.detach() for t in (x, weight, bias)), target, *[None] * 4
    options = "none", -100, 0.0, 0, None, 1.0, 0.0, 0.0, 0.0
    loss_dtype = torch.promote_types(*dtypes)
    factor = torch.ones(len(x), dtype=loss_dtype)
    for operator, args in (
        (_call.linear_cross_entropy, (*tensors, *options, loss_dtype, True, "x weight")),
        (_call.linear_cross_entropy_backward, (factor, *tensors, *options, "x weight bias")),
    ):
        torch.library.opcheck(operator.of_library, args, test_utils="test_faketensor")
    assert [g.dtype for g in operator(*args)[:3]] == [x.dtype, weight.dtype, bias.dtype]


# Memory

PEAKS = """
import sys, torch
from logitless.torch import linear_cross_entropy

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) << 10

def peak(call):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    result = call()
    print(status("VmHWM") - before, status("VmRSS") - before)
    return result

torch.set_num_threads(1)
dtype, reduction = getattr(torch, sys.argv[1]), sys.argv[2]
x, weight, small = (torch.ones(n, 1024, dtype=dtype, requires_grad=True) for n in (4, 30_000, 600))
target = torch.arange(4)
linear_cross_entropy(x, small, target).backward()  # what is loaded and kept from call to call
with torch.no_grad():
    peak(lambda: linear_cross_entropy(x, weight, target))
peak(lambda: linear_cross_entropy(x, weight, target, reduction=reduction).sum().backward())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("reduction", MEANS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_memory(dtype, reduction):
    """No copy of the weights; their gradient is 4 bytes an entry once, and 2 in the end."""
    printed = python("-c", PEAKS, dtype, reduction, LOGITLESS_NUM_THREADS="1")
    forward, both = ([int(word) for word in line.split()] for line in printed.splitlines())
    half = 30_000 * 1024 * 2
    assert max(forward) < 8 * MIB
    assert 2 * half <= both[0] < 2 * half + 24 * MIB
    assert half <= both[1] < half + 16 * MIB
