"""The loss for PyTorch against PyTorch's own."""

from __future__ import annotations

import copy
import inspect
import itertools

import numpy as np
import pytest

from logitless import functional

torch = pytest.importorskip("torch", minversion="2.13")
F = torch.nn.functional

from support.torch_cases import F64, OPTIONS, PLACES, C, K, M, assert_same, case, converted, results  # noqa: E402

from logitless.torch import LinearCrossEntropyLoss, linear_cross_entropy  # noqa: E402


@pytest.fixture
def gen():
    return torch.Generator().manual_seed(20240229)


GRID = [
    pytest.param(*c, id="-".join((c[0], "soft" if c[1] else "index", *c[2:])))
    for c in itertools.product(PLACES, (False, True), ("mean", "sum", "none"), OPTIONS)
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
                                    temperature=0.7, z_loss=0.1)

    assert torch.autograd.gradcheck(loss, (*args[:2], bias))


def test_own_options(gen):
    args, _ = case(gen)
    x, weight, target = args
    z = 2 * torch.tanh(x @ weight.T / 2) / 0.7
    expected = F.cross_entropy(z, target) + 0.1 * z.logsumexp(1).square().mean()
    loss = linear_cross_entropy(*args, softcap=2.0, temperature=0.7, z_loss=0.1)
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
    assert own == ["softcap", "temperature", "z_loss", "filter_eps"]


# Precisions


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


# Memory and work


def strided(t):
    wide = torch.zeros(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype)
    wide[..., ::2] = t.detach()
    return wide[..., ::2]


LAYOUTS = {
    "contiguous": lambda t: t.detach(),
    "columns": lambda t: t.detach().mT.contiguous().mT,
    "strided": strided,
    "negated": lambda t: torch.complex(t.detach(), -t.detach()).conj().imag,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "columns", "strided"])
def test_memory_is_shared(gen, monkeypatch, layout, dtype):
    (x, weight, target), _ = case(gen, dtype=dtype)
    given = [LAYOUTS[layout](t) for t in (x, weight)]
    seen = calls(monkeypatch)
    linear_cross_entropy(*given, target)
    for tensor, array in zip((*given, target), seen[0][1], strict=False):
        assert array.shape == tensor.shape
        assert array.ctypes.data == tensor.data_ptr()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_are_not_copied(gen, monkeypatch, reduction):
    args, _ = case(gen)
    seen = calls(monkeypatch)
    loss = linear_cross_entropy(*args, reduction=reduction).sum()
    loss.backward(retain_graph=True)
    out = seen[-1][2]["out"]
    assert args[0].grad.data_ptr() == out.x.ctypes.data
    assert args[1].grad.data_ptr() == out.weight.ctypes.data


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("form", ["rows", "2-d"])
def test_layouts(gen, form, soft, layout):
    (x, weight, target), kwargs = case(gen, form, soft)
    plain = results(F.linear_cross_entropy, (x, weight, target), kwargs)
    change = LAYOUTS[layout]
    args = [change(x), change(weight), change(target) if soft else target]
    for leaf in args[:2]:
        leaf.requires_grad_()
    assert_same(results(linear_cross_entropy, args, kwargs), plain, rtol=1e-11, atol=1e-13)


def test_expanded_and_strided_targets(gen):
    (x, weight, _), _ = case(gen)
    one = torch.tensor([3]).expand(M)
    torch.testing.assert_close(linear_cross_entropy(x, weight, one),
                               F.linear_cross_entropy(x, weight, one))
    every_other = torch.arange(2 * M)[::2] % C
    torch.testing.assert_close(linear_cross_entropy(x, weight, every_other),
                               F.linear_cross_entropy(x, weight, every_other))


def calls(monkeypatch):
    """Record calls of the functions of arrays: name, positional and keyword arguments."""
    seen = []

    def spied(name):
        function = getattr(functional, name)

        def spy(*args, **kwargs):
            seen.append((name, args, kwargs))
            return function(*args, **kwargs)

        monkeypatch.setattr(functional, name, spy)

    spied("linear_cross_entropy")
    spied("linear_cross_entropy_value_and_grad")
    return seen


LOSS, BOTH = "linear_cross_entropy", "linear_cross_entropy_value_and_grad"


@pytest.mark.parametrize("wrt", [("x",), ("weight",), ("bias",), ("x", "weight", "bias")])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_work_is_done_once_and_for_what_needs_it(gen, monkeypatch, reduction, wrt):
    args, kwargs = case(gen, linear_bias=True, reduction=reduction)
    for tensor, name in zip((*args[:2], kwargs["linear_bias"]), ("x", "weight", "bias"),
                            strict=True):
        tensor.requires_grad_(name in wrt)
    seen = calls(monkeypatch)
    linear_cross_entropy(*args, **kwargs).sum().backward()
    names = [name for name, *_ in seen]
    assert names == ([LOSS, BOTH] if reduction == "none" else [BOTH])
    assert seen[-1][2]["wrt"] == wrt
    given = {name for name, t in zip(("x", "weight", "bias"), (*args[:2], kwargs["linear_bias"]),
                                     strict=True) if t.grad is not None}
    assert given == set(wrt)


def test_no_gradient_without_need(gen, monkeypatch):
    args, kwargs = case(gen)
    seen = calls(monkeypatch)
    with torch.no_grad():
        assert not linear_cross_entropy(*args, **kwargs).requires_grad
    with torch.inference_mode():
        linear_cross_entropy(*args, **kwargs)
    loss = linear_cross_entropy(*(t.detach() for t in args))
    assert not loss.requires_grad
    assert [name for name, *_ in seen] == [LOSS] * 3


# Autograd


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_backward_again(gen, factor):
    """A second pass through a graph that was kept changes nothing handed out before."""
    args, kwargs = case(gen, linear_bias=True)
    leaves = *args[:2], kwargs["linear_bias"]
    loss = linear_cross_entropy(*args, **kwargs) * factor
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    copies = [g.clone() for g in first]
    loss.backward(retain_graph=True)
    loss.backward()
    for leaf, gradient, was in zip(leaves, first, copies, strict=True):
        assert torch.equal(gradient, was)
        torch.testing.assert_close(leaf.grad, 2 * was)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_one_after_the_other(gen):
    args, kwargs = case(gen)
    _, expected = results(F.linear_cross_entropy, args, kwargs)
    loss = linear_cross_entropy(*args, **kwargs)
    one = torch.autograd.grad(loss, args[1], retain_graph=True)[0]
    both = torch.autograd.grad(loss, args[:2])
    for ours, theirs in zip((one, *both), (expected[1], *expected), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_part_of_a_larger_graph(gen):
    """The weights are used twice, as tied embeddings; features come from a layer."""
    (x, weight, target), _ = case(gen)

    def gradients(function):
        features = torch.tanh(x @ weight.T @ weight)
        return torch.autograd.grad(3 * function(features, weight, target), (x, weight))

    for ours, theirs in zip(gradients(linear_cross_entropy), gradients(F.linear_cross_entropy),
                            strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("form", ["rows", "1-d"])
def test_accumulation_over_micro_batches(gen, form):
    args, kwargs = case(gen, form, linear_bias=True, reduction="sum")
    bias = kwargs["linear_bias"]
    x, weight, target = args
    _, expected = results(linear_cross_entropy, args, {**kwargs, "reduction": "mean"})
    for part in (slice(0, 1), slice(1, 4), slice(4, M)):
        loss = linear_cross_entropy(x[part], weight, target[part], **kwargs)
        (loss / target.numel()).backward()
    for leaf, gradient in zip((x, weight, bias), expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)


def test_changed_in_place_between_forward_and_backward(gen):
    args, _ = case(gen)
    loss = linear_cross_entropy(*args)
    with torch.no_grad():
        args[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives_are_refused(gen, reduction):
    args, _ = case(gen)
    loss = linear_cross_entropy(*args, reduction=reduction).sum()
    (gradient,) = torch.autograd.grad(loss, args[0], create_graph=True)
    _, (expected, _) = results(F.linear_cross_entropy, args, {"reduction": "sum"})
    torch.testing.assert_close(gradient * (M if reduction == "mean" else 1), expected)
    # The penalty would be missing without a word from the sum of both.
    penalized = (args[0] ** 2).sum() + gradient.square().sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        penalized.backward()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_function_transforms(gen, soft, reduction):
    args = [t.detach() for t in case(gen, soft=soft)[0]]
    wanted = (0, 1, 2) if soft else (0, 1)
    ours, theirs = (
        torch.func.grad(lambda *args, f=f: 3 * f(*args, reduction=reduction).sum(), wanted)(*args)
        for f in (linear_cross_entropy, F.linear_cross_entropy)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_transforms_that_are_refused(gen):
    (x, weight, target), _ = case(gen)

    def loss(x):
        return linear_cross_entropy(x, weight.detach(), target)

    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.func.grad(lambda x: torch.func.grad(loss)(x).sum())(x.detach())
    with pytest.raises(RuntimeError, match="vmap"):
        torch.vmap(loss)(x.detach()[None])
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(loss, (x.detach(),), (x.detach(),))


# The module


def modules(**kwargs):
    theirs = torch.nn.LinearCrossEntropyLoss(K, C, dtype=F64, **kwargs)
    ours = LinearCrossEntropyLoss(K, C, dtype=F64, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", ["rows", "1-d", "2-d"])
def test_module(gen, form, bias):
    (x, _, target), _ = case(gen, form)
    target[0] = 1
    ours, theirs = modules(
        out_features=PLACES[form], bias=bias, weight=torch.rand(C, dtype=F64), ignore_index=1,
        label_smoothing=0.1, options=None, reduction="sum",
    )
    for module in (ours, theirs):
        module(x, target).backward()
    torch.testing.assert_close(ours(x, target), theirs(x, target))
    for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(),
                                     strict=True):
        assert name == other
        torch.testing.assert_close(a.grad, b.grad)


def test_module_trains_as_torch_does(gen):
    (x, _, target), _ = case(gen)
    pair = modules(bias=True)
    losses = []
    for module in pair:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            loss = module(x.detach(), target)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[0] > losses[4]
    np.testing.assert_allclose(losses[:5], losses[5:], rtol=1e-10)


def test_module_passes_its_options_on(gen, monkeypatch):
    (x, _, target), _ = case(gen)
    options = {"softcap": 2.0, "temperature": 0.5, "z_loss": 0.1}
    module = LinearCrossEntropyLoss(K, C, dtype=F64, **options, filter_eps=0.5)
    expected = linear_cross_entropy(x, module.linear.weight, target, **options)
    seen = calls(monkeypatch)
    assert module(x, target) == expected
    assert seen[0][2]["filter_eps"] == 0.5
    assert copy.deepcopy(module)(x, target) == expected
    assert "softcap=2.0" in repr(module)
    assert "filter_eps=0.5" in repr(module)


def test_module_rejects(gen):
    with pytest.raises(ValueError, match=r"`weight` must have shape \(5,\), got \(4,\)"):
        LinearCrossEntropyLoss(K, C, weight=torch.ones(C - 1))
    with pytest.raises(ValueError, match=r"`label_smoothing` must be between 0 and 1, got 1.5"):
        LinearCrossEntropyLoss(K, C, label_smoothing=1.5)


# Errors


def changed(**changes):
    def make(x, weight, target):
        return {"input": x, "linear_weight": weight, "target": target, **{
            name: change({"x": x, "weight": weight, "target": target})
            for name, change in changes.items()
        }}

    return make


ERRORS = [
    (TypeError, "`input` must be a torch.Tensor, got ndarray",
     changed(input=lambda t: t["x"].detach().numpy())),
    (TypeError, "`target` must be a torch.Tensor, got NoneType", changed(target=lambda t: None)),
    (TypeError, "`input` must be on the CPU.* got a tensor on meta",
     changed(input=lambda t: t["x"].to("meta"))),
    (TypeError, "`weight` must be on the CPU.* meta",
     changed(weight=lambda t: torch.ones(C, device="meta"))),
    (TypeError, "`linear_weight` must be dense, got layout torch.sparse_coo",
     changed(linear_weight=lambda t: t["weight"].detach().to_sparse())),
    (TypeError, "`input` must be of one of .* got torch.int64",
     changed(input=lambda t: t["x"].long())),
    (TypeError, "`linear_weight` must be of one of .* got torch.complex128",
     changed(linear_weight=lambda t: t["weight"] + 1j)),
    (ValueError, r"`input` must have shape \(..., k\), got \(\)",
     changed(input=lambda t: t["x"][0, 0])),
    (ValueError, r"`linear_weight` must have shape \(C, 4\).* got \(5, 3\)",
     changed(linear_weight=lambda t: t["weight"][:, :3])),
    (ValueError, r"`linear_weight` must have shape .* C >= 1, got \(0, 4\)",
     changed(linear_weight=lambda t: t["weight"][:0])),
    (ValueError, r"`input` must have shape \(..., N, 4\) with `linear_weight` of shape \(5, 1, 4\)",
     changed(input=lambda t: t["x"][0], linear_weight=lambda t: t["weight"][:, None])),
    (ValueError, r"`linear_bias` must have shape \(5,\), got \(6,\)",
     changed(linear_bias=lambda t: torch.ones(6, dtype=F64))),
    (ValueError, r"`weight` must have shape \(5,\), got \(6,\)",
     changed(weight=lambda t: torch.ones(6, dtype=F64))),
    (ValueError, "`class_weight` must be finite and >= 0, got -1.0 for class 0",
     changed(weight=lambda t: -torch.ones(5, dtype=F64))),
    (ValueError, r"`target` must have shape \(6,\) for class indices or \(6, 5\).* got \(5,\)",
     changed(target=lambda t: t["target"][:5])),
    (TypeError, r"`target` of shape \(6,\) must be class indices .* got torch.float32",
     changed(target=lambda t: t["target"].float())),
    (TypeError, r"`target` of shape \(6, 5\) must be class probabilities .* got torch.int64",
     changed(target=lambda t: torch.ones(6, 5, dtype=torch.int64))),
    (ValueError, "`target` entries must be finite .* got -1.0",
     changed(target=lambda t: -torch.ones(6, 5, dtype=F64))),
    (TypeError, r"`weight` requires grad.* `weight.detach\(\)`",
     changed(weight=lambda t: torch.ones(5, dtype=F64, requires_grad=True))),
    (IndexError, r"`target` must hold classes in \[0, 5\) or ignore_index \(-100\), got 5 in row 2",
     changed(target=lambda t: torch.tensor([0, 1, 5, 9, 0, 0]))),
    *((IndexError, rf"`target` must hold classes .* got {y} in row 0",
       changed(target=lambda t, y=y: torch.full((6,), y),
               weight=lambda t: torch.ones(5, dtype=F64)))
      for y in (-1, 5)),
    (ValueError, "`ignore_index` must be None with class probabilities, got 3",
     changed(target=lambda t: torch.ones(6, 5, dtype=F64), ignore_index=lambda t: 3)),
    (TypeError, "`ignore_index` must be an integer", changed(ignore_index=lambda t: 1.5)),
    (ValueError, "`reduction` must be 'mean', 'sum' or 'none', got 'batch_mean'",
     changed(reduction=lambda t: "batch_mean")),
    (ValueError, "`label_smoothing` must be between 0 and 1",
     changed(label_smoothing=lambda t: 1.5)),
    (ValueError, "`softcap` must be positive", changed(softcap=lambda t: -1.0)),
    (ValueError, "`z_loss` must be at least 0", changed(z_loss=lambda t: -1.0)),
    (ValueError, r"`filter_eps` must be in \[0, 1\), got 2", changed(filter_eps=lambda t: 2.0)),
]


@pytest.mark.parametrize(("error", "message", "change"), ERRORS, ids=[e[1][:40] for e in ERRORS])
def test_errors(gen, error, message, change):
    args, _ = case(gen)
    with pytest.raises(error, match=message):
        linear_cross_entropy(**change(*args))


def test_logitless_alone_does_not_import_torch(run_python):
    out = run_python("import sys, logitless; print('torch' in sys.modules)")
    assert out.strip() == "False"
