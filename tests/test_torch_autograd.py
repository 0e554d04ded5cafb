"""The loss in PyTorch's autograd: memory shared, work done once, graphs and transforms."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.13")

from support.torch_cases import C, M, assert_same, calls, case, results  # noqa: E402

from logitless.torch import linear_cross_entropy  # noqa: E402

F = torch.nn.functional


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
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


@pytest.mark.slow
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


@pytest.mark.parametrize("how", ["eager", "func", "compiled"])
def test_a_sum_of_no_rows_divided_by_their_number(gen, how):
    """Its gradient is 0, as in PyTorch, though it is scaled by infinity; that of others is not."""
    x, weight, target = case(gen)[0]
    x, weight = (t.detach().requires_grad_() for t in (x, weight))
    n = torch.tensor(0.0)

    def loss(x, weight, target):
        return linear_cross_entropy(x, weight, target, reduction="sum") / n

    def gradients(target):
        if how == "func":
            return torch.func.grad(loss, (0, 1))(x, weight, target)
        torch._dynamo.reset()
        found = torch.compile(loss, backend="aot_eager") if how == "compiled" else loss
        return torch.autograd.grad(found(x, weight, target), (x, weight))

    assert not any(g.any() for g in gradients(torch.full_like(target, -100)))
    assert not any(g.isfinite().all() for g in gradients(target))


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


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_vector_times_the_jacobian_once_the_transform_is_over(gen, reduction):
    args = [t.detach() for t in case(gen)[0]]
    results = [torch.func.vjp(lambda *a, f=f: f(*a, args[2], reduction=reduction), *args[:2])
               for f in (linear_cross_entropy, F.linear_cross_entropy)]
    (loss, ours), (_, theirs) = results
    factor = torch.randn(loss.shape, dtype=loss.dtype, generator=gen)
    torch.testing.assert_close(ours(factor), theirs(factor))


@pytest.mark.slow
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
