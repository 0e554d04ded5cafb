"""Gradients by class probabilities: those of PyTorch, in the memory of one array."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.13")
F = torch.nn.functional

from support.memory import peak  # noqa: E402
from support.torch_cases import F64, OPTIONS, PLACES, C, K, M, assert_same, case, results  # noqa: E402

from logitless.torch import _arrays, linear_cross_entropy  # noqa: E402

GRID = [
    pytest.param(*c, marks=[pytest.mark.slow] if i % 5 else [])
    for i, c in enumerate(itertools.product(PLACES, ("mean", "sum", "none"), OPTIONS))
]


@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize(("form", "reduction", "options"), GRID)
def test_gradients_are_those_of_torch(gen, monkeypatch, form, reduction, options, block):
    """With softcap and temperature; in one block of rows, and in several."""
    args, kwargs = case(gen, form, True, reduction=reduction, **OPTIONS[options])
    args[2].requires_grad_()
    factor = torch.randn(F.linear_cross_entropy(*args, **kwargs).shape, dtype=F64, generator=gen)
    if block:
        monkeypatch.setattr(_arrays, "WORKSPACE_BYTES", block * C * 8)

    def reference(x, linear_weight, target, *, linear_bias=None, **kwargs):
        z = torch.einsum("...k,cpk->...cp", x, linear_weight.reshape(C, -1, K))
        if linear_bias is not None:
            z = z + linear_bias.reshape(C, -1)
        z = 2 * torch.tanh(z / 2) / 0.7
        return F.cross_entropy(z.reshape(target.shape), target, **kwargs)

    own = {"softcap": 2.0, "temperature": 0.7}
    ours = results(lambda *a, **k: linear_cross_entropy(*a, **k, **own), args, kwargs, factor)
    assert_same(ours, results(reference, args, kwargs, factor), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(gen, reduction):
    args, kwargs = case(gen, "1-d", True, m=2, reduction=reduction, weight=True,
                        label_smoothing=0.2)
    args[2].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *args: linear_cross_entropy(*args, z_loss=0.1, **kwargs), args
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precisions(gen, dtype):
    args, _ = case(gen, soft=True, dtype=dtype)
    args[2].requires_grad_()
    wide = [t.detach().to(F64).requires_grad_() for t in args]
    _, ours = results(linear_cross_entropy, args, {})
    _, exact = results(F.linear_cross_entropy, wide, {})
    assert ours[2].dtype == dtype
    torch.testing.assert_close(ours[2].to(F64), exact[2], rtol=torch.finfo(dtype).eps * 4, atol=0)


def test_target_alone(gen):
    """Nothing is found along with the loss, and no other gradient is computed."""
    args, _ = case(gen, soft=True)
    x, weight, target = (t.detach() for t in args)
    target.requires_grad_()
    (gradient,) = torch.autograd.grad(linear_cross_entropy(x, weight, target), target)
    torch.testing.assert_close(gradient, -(x @ weight.T).log_softmax(1) / M)


def test_twice_and_together_with_the_others(gen):
    args, _ = case(gen, soft=True)
    args[2].requires_grad_()
    loss = linear_cross_entropy(*args)
    first = torch.autograd.grad(loss, args, retain_graph=True)
    again = torch.autograd.grad(loss, args)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b)


def test_second_derivatives_are_refused(gen):
    args, _ = case(gen, soft=True)
    args[2].requires_grad_()
    (gradient,) = torch.autograd.grad(linear_cross_entropy(*args), args[2], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


def test_what_cannot_happen():
    """A class of weight 0 has no gradient, whatever its logit; another an infinite one."""
    x, weight = torch.ones(1, 2), torch.eye(3, 2)
    bias = torch.tensor([0.0, -torch.inf, -torch.inf])
    target = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    linear_cross_entropy(x, weight, target, linear_bias=bias,
                         weight=torch.tensor([1.0, 1.0, 0.0])).backward()
    assert target.grad.tolist() == [[0, np.inf, 0]]


def test_rows_that_do_not_count(gen):
    """A gradient of 0 that comes in makes 0 of all, even of a row that holds NaN."""
    args, _ = case(gen, soft=True)
    args[2].requires_grad_()
    args[0].data[0] = torch.nan
    factor = torch.ones(M, dtype=F64)
    factor[0] = 0
    loss = linear_cross_entropy(*args, reduction="none")
    gradient = torch.autograd.grad(loss, args[2], factor)[0]
    assert not gradient[0].any()
    assert gradient[1:].isfinite().all()


def test_empty_batch(gen):
    args, kwargs = case(gen, "1-d", True, m=0, reduction="sum")
    args[2].requires_grad_()
    assert_same(results(linear_cross_entropy, args, kwargs),
                results(F.linear_cross_entropy, args, kwargs))


def test_not_wanted(gen):
    args, _ = case(gen, soft=True)
    expected = linear_cross_entropy(*args)
    args[2].requires_grad_()
    with torch.no_grad():
        assert linear_cross_entropy(*args) == expected


@pytest.mark.compiled_only
def test_memory(gen, monkeypatch):
    """Beside the gradient, which is PyTorch's memory, only a block of rows."""
    m, n = 2000, 1000
    monkeypatch.setattr(_arrays, "WORKSPACE_BYTES", 1 << 20)
    x, weight = torch.randn(m, 4, generator=gen), torch.randn(n, 4, generator=gen)
    target = torch.rand(m, n, generator=gen).requires_grad_()
    loss = linear_cross_entropy(x, weight, target)
    assert peak(loss.backward) < target.nbytes / 2
