"""A shift in PyTorch pairs positions with later targets, as if both had been cut."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", minversion="2.13")
F = torch.nn.functional

from support.memory import peak  # noqa: E402
from support.torch_cases import F64, OPTIONS, C, K, assert_same, calls, case, results  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from logitless._arrays import rows as row_arrays  # noqa: E402
from logitless.torch import (  # noqa: E402
    LinearCrossEntropyLoss,
    _arrays,
    linear_cross_entropy,
)

OWN = {"softcap": 2.0, "temperature": 0.7, "z_loss": 0.1, "entropy_weight": -0.3}


def sequences(gen, *lead, form="rows", soft=False, dtype=F64, **options):
    """A call for `lead` sequences, and the target by whose class axis they are."""
    rows = torch.Size(lead).numel()
    (x, weight, target), options = case(gen, form, soft, dtype, m=rows, **options)
    x = x.detach().reshape(*lead, K).requires_grad_()
    target = target.reshape(*lead, *target.shape[1:])
    if soft:
        target.requires_grad_()
    return (x, weight, target), options


def stock(x, linear_weight, target, *, shift, linear_bias=None, softcap=None, temperature=1.0,
          z_loss=0.0, entropy_weight=0.0, reduction="mean", ignore_index=-100, weight=None,
          **options):
    """PyTorch's loss of what is left of both, the logits of all classes being there."""
    axis = x.ndim - 2
    t = x.shape[axis]
    x, target = x.narrow(axis, 0, t - shift), target.narrow(axis, shift, t - shift)
    places = linear_weight.shape[1:-1]
    z = torch.einsum("...k,cpk->...cp", x, linear_weight.reshape(C, -1, K))
    if linear_bias is not None:
        z = z + linear_bias.reshape(C, -1)
    if softcap:
        z = softcap * torch.tanh(z / softcap)
    if isinstance(temperature, torch.Tensor):
        temperature = temperature[..., shift:, None, None]
    z = z / temperature
    rows = x.shape[:-1].numel()
    z = z.reshape(rows, C, *places)
    own = z_loss * z.logsumexp(1).square()
    own = own - entropy_weight * (z.softmax(1) * z.log_softmax(1)).sum(1)
    lead = *x.shape[:-1], *places
    if target.is_floating_point():
        target, ignored = target.reshape(z.shape), torch.zeros(rows, *places, dtype=bool)
    else:
        target = target.reshape(rows, *places)
        ignored = target == ignore_index
        options["ignore_index"] = ignore_index
    losses = F.cross_entropy(z, target, reduction="none", weight=weight, **options)
    losses = losses + own.where(~ignored, 0)
    if reduction == "none":
        return losses.reshape(lead)
    if reduction == "sum":
        return losses.sum()
    counted = (~ignored).to(z.dtype)
    if weight is not None and not target.is_floating_point():
        counted = weight[target.where(~ignored, 0)].where(~ignored, 0)
    return losses.sum() / counted.sum()


@given(lead=st.lists(st.integers(1, 3), min_size=1, max_size=3), shift=st.integers(0, 3),
       form=st.sampled_from(["rows", "1-d", "2-d"]), soft=st.booleans(),
       reduction=st.sampled_from(["mean", "sum", "none"]),
       options=st.sampled_from(sorted(OPTIONS)), own=st.booleans(), mixed=st.booleans(),
       permuted=st.booleans())
def test_losses_and_gradients_are_those_of_torch(lead, shift, form, soft, reduction, options, own,
                                                 mixed, permuted):
    """With all options; `mixed`: with a temperature of each position."""
    gen = torch.Generator().manual_seed(0)
    lead[-1] += shift
    args, kwargs = sequences(gen, *lead, form=form, soft=soft, reduction=reduction,
                             **OPTIONS[options])
    kwargs |= OWN if own else {}
    if mixed:
        kwargs["temperature"] = torch.rand(*lead, dtype=F64, generator=gen) + 0.5
    if not soft and options == "all":
        args[2].view(-1)[:3] = 2  # ignored

    def ours(x, *args, **kwargs):
        if permuted and len(lead) > 1:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        return linear_cross_entropy(x, *args, shift=shift, **kwargs)

    expected = stock(*args, shift=shift, **kwargs)
    factor = torch.randn(expected.shape, dtype=F64, generator=gen)
    assert_same(results(ours, args, kwargs, factor),
                results(lambda *a, **k: stock(*a, shift=shift, **k), args, kwargs, factor),
                rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck(gen, soft, reduction):
    args, kwargs = sequences(gen, 2, 3, soft=soft, reduction=reduction, linear_bias=True)
    bias = kwargs.pop("linear_bias")

    def loss(x, weight, target, bias):
        return linear_cross_entropy(x, weight, target, linear_bias=bias, shift=1, **OWN, **kwargs)

    assert torch.autograd.gradcheck(loss, (*args, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_precisions(gen, soft, dtype):
    args, _ = sequences(gen, 3, 9, soft=soft, dtype=dtype)
    args[2].requires_grad_(soft)
    exact = results(lambda *a: stock(*a, shift=2),
                    [t.detach().to(F64).requires_grad_() if t.is_floating_point() else t
                     for t in args], {})
    loss, gradients = results(lambda *a: linear_cross_entropy(
        *a, shift=2, loss_dtype=torch.float32), args, {})
    torch.testing.assert_close(loss.to(F64), exact[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(gradients, exact[1], strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.to(F64), theirs, rtol=8 * torch.finfo(dtype).eps,
                                   atol=1e-6)


def test_the_last_positions_and_the_first_targets_may_be_anything(gen):
    (x, weight, target), _ = sequences(gen, 2, 4)
    expected = linear_cross_entropy(x, weight, target, shift=1)
    x.data[:, -1] = torch.nan
    target[:, 0] = 99
    loss = linear_cross_entropy(x, weight, target, shift=1)
    assert loss == expected
    loss.backward()
    assert not x.grad[:, -1].any()
    assert x.grad[:, :-1].all()
    with pytest.raises(IndexError, match="got 99"):
        linear_cross_entropy(x, weight, target)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_nothing_left(gen, reduction):
    args, kwargs = sequences(gen, 2, 3, reduction=reduction)
    loss = linear_cross_entropy(*args, shift=3, **kwargs)
    assert loss.isnan() if reduction == "mean" else loss.shape == (2, 0)
    loss.sum().backward()
    assert not args[0].grad.any()


# Where it is


@pytest.mark.parametrize("lead", [(6,), (1, 6), (3, 4)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_arrays_are_the_memory_of_the_tensors(gen, monkeypatch, lead, reduction):
    """The features that go in, and their gradient that comes out."""
    args, kwargs = sequences(gen, *lead, reduction=reduction)
    seen = calls(monkeypatch)
    linear_cross_entropy(*args, shift=1, **kwargs).sum().backward()
    _, arrays, keywords = seen[-1]
    assert arrays[0].ctypes.data == args[0].data_ptr()
    assert keywords["out"].x.ctypes.data == args[0].grad.data_ptr()


@pytest.mark.compiled_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory(gen, monkeypatch, dtype):
    """Of sequences a block of rows at a time is copied, and of their gradient."""
    monkeypatch.setattr(row_arrays, "_BLOCK_BYTES", 1 << 18)
    x = torch.randn(50, 400, 256, generator=gen).to(dtype).requires_grad_()
    weight = torch.randn(8, 256, generator=gen).to(dtype)
    target = torch.zeros(50, 400, dtype=int)
    wide = 4 * x.numel()
    linear_cross_entropy(x, weight, target, shift=1)
    with torch.no_grad():
        assert peak(lambda: linear_cross_entropy(x, weight, target, shift=1)) < wide / 3
    loss = []
    assert peak(lambda: loss.append(linear_cross_entropy(x, weight, target, shift=1))) < 1.6 * wide
    assert peak(lambda: loss.pop().backward()) < 0.6 * wide


@pytest.mark.parametrize("block", [2, 100])
def test_gradients_by_probabilities_of_several_blocks(gen, monkeypatch, block):
    args, _ = sequences(gen, 3, 5, soft=True, form="1-d")
    monkeypatch.setattr(_arrays, "WORKSPACE_BYTES", block * C * 16)
    assert_same(results(lambda *a: linear_cross_entropy(*a, shift=2), args, {}),
                results(lambda *a: stock(*a, shift=2), args, {}), rtol=1e-11, atol=1e-13)


# Tracers, compilers, modules


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_tracers(gen, reduction):
    args, kwargs = sequences(gen, 2, 4, reduction=reduction)
    kwargs |= {"shift": 1}
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(t) for t in args]
    fakes[0].requires_grad_()
    loss = linear_cross_entropy(*fakes, **kwargs)
    assert loss.shape == (() if reduction == "mean" else (2, 3))
    assert torch.autograd.grad(loss.sum(), fakes[0])[0].shape == args[0].shape

    def gradients(*args):
        return torch.func.grad(lambda *a: linear_cross_entropy(*a, **kwargs).sum(), (0, 1))(*args)

    plain = [t.detach() for t in args]
    traced = make_fx(gradients)(*plain)
    for ours, theirs in zip(traced(*plain), results(
            lambda *a: linear_cross_entropy(*a, **kwargs).sum(), args, {})[1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compile_for_any_length(gen, reduction):
    torch._dynamo.reset()
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True,
                             dynamic=True)
    kwargs = {"shift": 1, "reduction": reduction, "loss_dtype": torch.float32}
    for t in (3, 5, 8):
        args, _ = sequences(gen, 2, t, dtype=torch.bfloat16)
        factor = torch.ones(() if reduction == "mean" else (2, t - 1))
        ours, theirs = (results(f, args, kwargs, factor) for f in (compiled, linear_cross_entropy))
        assert ours[0].dtype == torch.float32
        assert_same(ours, theirs)


def test_export(gen):
    module = LinearCrossEntropyLoss(K, C, dtype=F64, shift=1)
    (x, _, target), _ = sequences(gen, 2, 4)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    both = {0: batch, 1: length}
    program = torch.export.export(module, (x.detach(), target), dynamic_shapes=(both, both))
    other, later = torch.cat([x, -x], 1).detach(), torch.cat([target, target], 1)
    assert torch.equal(program.module()(other, later), module(other, later))


def test_module(gen):
    (x, _, target), _ = sequences(gen, 2, 4, dtype=torch.bfloat16)
    module = LinearCrossEntropyLoss(K, C, dtype=torch.bfloat16, shift=1, loss_dtype=torch.float32)
    assert list(module.state_dict()) == ["linear.weight"]
    expected = linear_cross_entropy(x, module.linear.weight, target, shift=1,
                                    loss_dtype=torch.float32)
    for other in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        loss = other(x, target)
        assert loss == expected
        assert loss.dtype == torch.float32
    assert "shift=1" in repr(module)
    assert "loss_dtype=torch.float32" in repr(module)


@pytest.mark.parametrize(("error", "message", "shift"), [
    (ValueError, "`shift` must be at least 0, got -1", -1),
    (TypeError, "`shift` must be an integer, got float", 1.0),
    (ValueError, r"`shift` must be at most .* of `input`, got 4 for shape \(2, 3, 4\)", 4),
])
def test_errors(gen, error, message, shift):
    args, _ = sequences(gen, 2, 3)
    with pytest.raises(error, match=message):
        linear_cross_entropy(*args, shift=shift)


def test_one_sample_has_no_positions(gen):
    (x, weight, target), _ = case(gen, "unbatched")
    with pytest.raises(ValueError, match=r"of `input`, got 1 for shape \(4,\)"):
        linear_cross_entropy(x, weight, target, shift=1)
