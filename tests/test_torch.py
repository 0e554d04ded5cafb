"""The loss for PyTorch is PyTorch's own: forms, options, precisions, edges."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.13")

from support.torch_cases import F64, OPTIONS, PLACES, C, M, assert_same, case, converted, results  # noqa: E402

from logitless.torch import LinearCrossEntropyLoss, linear_cross_entropy  # noqa: E402

F = torch.nn.functional
GRID = [
    pytest.param(*c, id="-".join((c[0], "soft" if c[1] else "index", *c[2:])),
                 marks=[pytest.mark.slow] if i % 5 else [])
    for i, c in enumerate(
        itertools.product(PLACES, (False, True), ("mean", "sum", "none"), OPTIONS))
]


@pytest.mark.parametrize(("form", "soft", "reduction", "options"), GRID)
def test_every_form_agrees_with_torch(gen, form, soft, reduction, options):
    args, kwargs = case(gen, form, soft, reduction=reduction, **OPTIONS[options])
    if form != "unbatched" and not soft and options == "all":
        args[2][:3] = 2  # ignored
    loss = F.linear_cross_entropy(*args, **kwargs)
    factor = torch.randn(loss.shape, dtype=F64, generator=gen)
    ours = results(linear_cross_entropy, args, kwargs, factor)
    theirs = results(F.linear_cross_entropy, args, kwargs, factor)
    assert_same(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "soft", "reduction", "options"), GRID[::5])
def test_gradcheck(gen, form, soft, reduction, options):
    args, kwargs = case(gen, form, soft, m=2, reduction=reduction, **OPTIONS[options])
    bias = kwargs.pop("linear_bias", None)

    def loss(x, weight, bias):
        return linear_cross_entropy(x, weight, args[2], linear_bias=bias, **kwargs)

    assert torch.autograd.gradcheck(loss, (*args[:2], bias))


def test_gradcheck_of_own_options(gen):
    args, kwargs = case(gen, "1-d", m=2, linear_bias=True)
    bias = kwargs.pop("linear_bias")

    def loss(x, weight, bias):
        return linear_cross_entropy(x, weight, args[2], linear_bias=bias, softcap=2.0,
                                    temperature=0.7, z_loss=0.1, entropy_weight=0.2)

    assert torch.autograd.gradcheck(loss, (*args[:2], bias))


@pytest.mark.parametrize("temperature", [0.7, torch.linspace(0.5, 3, M, dtype=F64)],
                         ids=["one", "one a row"])
def test_own_options(gen, temperature):
    args, _ = case(gen)
    x, weight, target = args
    by = temperature if isinstance(temperature, float) else temperature[:, None]
    z = 2 * torch.tanh(x @ weight.T / 2) / by
    expected = F.cross_entropy(z, target) + 0.1 * z.logsumexp(1).square().mean()
    expected = expected - 0.2 * torch.distributions.Categorical(logits=z).entropy().mean()
    loss = linear_cross_entropy(*args, softcap=2.0, temperature=temperature, z_loss=0.1,
                                entropy_weight=-0.2)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_small_gradients_may_be_left_out(reduction):
    x = torch.tensor([[8.0, 0.0]], requires_grad=True)
    args, target = (x, torch.eye(2)), torch.tensor([0])

    def gradient(**options):
        loss = linear_cross_entropy(*args, target, reduction=reduction, **options).sum()
        return torch.autograd.grad(loss, x)[0]

    assert gradient().all()
    assert not gradient(filter_eps=1e-2).any()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("form", ["rows", "2-d"])
def test_empty_batch(gen, form, reduction, soft):
    args, kwargs = case(gen, form, soft, m=0, reduction=reduction)
    assert_same(results(linear_cross_entropy, args, kwargs),
                results(F.linear_cross_entropy, args, kwargs))


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_counts(gen, weighted):
    """The mean is NaN; rows that are ignored have no gradient, rows of weight 0 have NaN."""
    args, kwargs = case(gen)
    args[2][: 2 if weighted else M] = -100
    if weighted:
        kwargs["weight"] = torch.zeros(C, dtype=F64)
    ours = results(linear_cross_entropy, args, kwargs)
    assert ours[0].isnan()
    assert_same(ours, results(F.linear_cross_entropy, args, kwargs))


def test_ignored_rows_may_hold_anything(gen):
    args, kwargs = case(gen)
    expected = results(linear_cross_entropy, (args[0][1:].detach().requires_grad_(), *args[1:2],
                                              args[2][1:]), kwargs)
    args[2][0] = -100
    args[0].data[0] = torch.nan
    loss, (d_x, d_weight) = results(linear_cross_entropy, args, kwargs)
    assert_same((loss, (d_x[1:], d_weight)), expected)
    assert not d_x[0].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_integer_dtypes_of_targets(gen, dtype):
    x, weight, target = case(gen)[0]
    loss = linear_cross_entropy(x, weight, target.to(dtype))
    assert loss == linear_cross_entropy(x, weight, target)


def test_target_of_one_entry_without_batch(gen):
    x, weight, target = case(gen, "unbatched")[0]
    for reduction in ("mean", "none"):
        args = x, weight, target.reshape(1)
        torch.testing.assert_close(linear_cross_entropy(*args, reduction=reduction),
                                   F.linear_cross_entropy(*args, reduction=reduction))


def test_one_class(gen):
    x, weight, _ = case(gen)[0]
    args = x, weight[:1], torch.zeros(M, dtype=torch.int64)
    assert linear_cross_entropy(*args) == F.linear_cross_entropy(*args) == 0
    soft = x[0], weight[:1], torch.ones(1, dtype=F64)
    assert linear_cross_entropy(*soft) == F.linear_cross_entropy(*soft) == 0


def test_options_have_no_effect(gen):
    args, _ = case(gen)
    options = torch.nn.LinearCrossEntropyOptions()
    assert linear_cross_entropy(*args, options=options) == linear_cross_entropy(*args)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(linear_cross_entropy, F.linear_cross_entropy),
     (LinearCrossEntropyLoss, torch.nn.LinearCrossEntropyLoss)],
)
def test_signatures(ours, theirs):
    def described(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    common = len(described(theirs))
    own = [name for name, *_ in described(ours)[common:]]
    assert sorted(described(ours)[:common]) == sorted(described(theirs))
    assert described(ours)[:3] == described(theirs)[:3]
    assert own == ["shift", "softcap", "temperature", "z_loss", "entropy_weight", "filter_eps",
                   "return_scores", "loss_dtype"]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precisions(gen, dtype, soft, reduction):
    args, kwargs = case(gen, "1-d", soft, dtype, reduction=reduction, linear_bias=True, weight=True)
    factor = torch.ones((M, 3) if reduction == "none" else ())
    ours = results(linear_cross_entropy, args, kwargs, factor.to(dtype))
    exact = results(F.linear_cross_entropy, *converted(args, kwargs, F64), factor)
    assert ours[0].dtype == F.linear_cross_entropy(*args, **kwargs).dtype == dtype
    eps = torch.finfo(dtype).eps
    loose = 8 if dtype == torch.float32 else 0.51  # 16-bit results are rounded once
    for a, b in zip((ours[0], *ours[1]), (exact[0], *exact[1]), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.to(F64), b, rtol=loose * eps, atol=1e-6)


@pytest.mark.parametrize("soft_dtype", [F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_probabilities_widen_the_loss_as_in_torch(gen, dtype, soft_dtype):
    (x, weight, target), _ = case(gen, soft=True, dtype=dtype)
    args = x, weight, target.to(soft_dtype)
    ours, theirs = (f(*args) for f in (linear_cross_entropy, F.linear_cross_entropy))
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=0)  # and so have the same dtype


def test_class_weights_widen_the_loss_of_probabilities_as_in_torch(gen):
    args, _ = case(gen, soft=True, dtype=torch.float32)
    weight = torch.rand(C, dtype=F64, generator=gen)
    ours, theirs = (f(*args, weight=weight) for f in (linear_cross_entropy, F.linear_cross_entropy))
    assert ours.dtype == theirs.dtype == F64
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_features_and_weights_of_different_dtypes(gen):
    args, kwargs = case(gen)
    mixed = args[0].detach().bfloat16().requires_grad_(), args[1].float().detach(), args[2]
    mixed[1].requires_grad_()
    loss, gradients = results(linear_cross_entropy, mixed, kwargs)
    exact = results(F.linear_cross_entropy, *converted(mixed, kwargs, F64))
    assert [t.dtype for t in (loss, *gradients)] == [torch.float32, torch.bfloat16, torch.float32]
    torch.testing.assert_close(loss.to(F64), exact[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients[1].to(F64), exact[1][1], rtol=1e-5, atol=1e-6)


def test_loss_scaling_saves_small_float16_gradients():
    """What float16 cannot hold before it is scaled, it can hold afterwards."""
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float16, requires_grad=True)
    weight = torch.tensor([[18.0, 0.0], [0.0, 1.0]], dtype=torch.float16)
    loss = linear_cross_entropy(x, weight, torch.tensor([0]))
    (loss.float() * 1024).backward()
    exact = -18 / (1 + np.exp(18.0)) * 1024
    torch.testing.assert_close(float(x.grad[0, 0]), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, F64], ids=str)
def test_autocast(gen, dtype):
    args, kwargs = case(gen, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(*args, **kwargs)
        theirs = F.linear_cross_entropy(*args, **kwargs)
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=0)
    ours.backward()
    assert args[0].grad.dtype == dtype


@pytest.mark.parametrize("wide", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtype_of_the_loss(gen, dtype, reduction, wide):
    """Not rounded to that of the tensors, which their gradients have."""
    args, kwargs = case(gen, dtype=dtype, reduction=reduction)
    factor = torch.ones((M,) if reduction == "none" else (), dtype=wide)
    loss, gradients = results(
        lambda *args, **kwargs: linear_cross_entropy(*args, loss_dtype=wide, **kwargs),
        args, kwargs, factor)
    exact = results(F.linear_cross_entropy, *converted(args, kwargs, F64), factor.to(F64))
    assert loss.dtype == wide
    torch.testing.assert_close(loss.to(F64), exact[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(gradients, exact[1], strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.to(F64), theirs, rtol=8 * torch.finfo(dtype).eps,
                                   atol=1e-6)


def test_dtype_of_the_loss_that_is_none(gen):
    args, _ = case(gen)
    for dtype in (torch.bfloat16, torch.int64, "float32"):
        with pytest.raises(TypeError, match=f"`loss_dtype` must be .* got {dtype}"):
            linear_cross_entropy(*args, loss_dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_temperatures_of_rows_in_other_dtypes(gen, soft, dtype):
    """A row has the loss and the gradients that it has by itself."""
    (x, weight, target), _ = case(gen, soft=soft, dtype=dtype)
    temperature = torch.tensor([0.5, 1, 2, 1, 0.25, 4], dtype=dtype)
    leaves = [x, weight] + [target.requires_grad_(soft)] * soft
    losses = linear_cross_entropy(x, weight, target, temperature=temperature, reduction="none",
                                  loss_dtype=torch.float32)
    gradients = torch.autograd.grad(losses.sum(), leaves)
    alone = [linear_cross_entropy(a, weight, b, temperature=float(t), loss_dtype=torch.float32)
             for a, b, t in zip(x, target, temperature, strict=True)]
    torch.testing.assert_close(losses, torch.stack(alone), rtol=1e-6, atol=0)
    of_one = torch.autograd.grad(sum(alone), leaves)
    for ours, theirs in zip(gradients, of_one, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("form", ["unbatched", "rows", "2-d"])
def test_a_tensor_of_one_temperature(gen, form):
    args, _ = case(gen, form)
    loss = linear_cross_entropy(*args, temperature=torch.tensor(0.7, dtype=F64))
    assert loss == linear_cross_entropy(*args, temperature=0.7)
