"""The loss for PyTorch under tracers and compilers: an operator, whole, differentiable."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", minversion="2.13")

from support.torch_cases import F64, OPTIONS, PLACES, C, K, M, case, results  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from logitless.torch import (  # noqa: E402
    LinearCrossEntropyLoss,
    _call,
    linear_cross_entropy,
)

OPERATOR = torch.ops.logitless.linear_cross_entropy.default
# What torch warns of in itself while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def gen():
    torch._dynamo.reset()
    return torch.Generator().manual_seed(20240229)


def targets_of(module) -> list:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def leaves_of(args, options):
    return [t for t in (*args, *options.values())
            if isinstance(t, torch.Tensor) and t.requires_grad]


# Tracers


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(gen, mode, pre_dispatch):
    (x, weight, target), _ = case(gen)
    args = x.detach(), weight.detach(), target

    def loss(x, weight, target):
        return 3 * linear_cross_entropy(x, weight, target)

    traced = make_fx(loss, tracing_mode=mode, pre_dispatch=pre_dispatch)(*args)
    assert OPERATOR in targets_of(traced)
    other = 2 * args[0], *args[1:]
    assert torch.equal(traced(*other), loss(*other))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_make_fx_with_gradients(gen, soft, reduction, mode):
    args, options = case(gen, soft=soft, reduction=reduction, linear_bias=True)
    bias = options.pop("linear_bias")
    if soft:
        args[2].requires_grad_()

    def gradients(x, weight, target, bias):
        loss = linear_cross_entropy(x, weight, target, linear_bias=bias, **options).sum()
        return torch.autograd.grad(2 * loss, [x, weight, bias] + [target] * soft)

    traced = make_fx(gradients, tracing_mode=mode)(*args, bias)
    other = (3 * args[0]).detach().requires_grad_(), *args[1:], bias
    for ours, theirs in zip(traced(*other), gradients(*other), strict=True):
        assert torch.equal(ours, theirs)


def test_make_fx_of_a_function_transform(gen):
    (x, weight, target), _ = case(gen)
    gradient = torch.func.grad(lambda *args: linear_cross_entropy(*args))
    args = x.detach(), weight.detach(), target
    traced = make_fx(gradient)(*args)
    other = 2 * args[0], *args[1:]
    assert torch.equal(traced(*other), gradient(*other))


@pytest.mark.parametrize("form", PLACES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_fake_tensors(gen, form, reduction):
    args, options = case(gen, form, reduction=reduction, dtype=torch.float16)
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(t) for t in args]
    for leaf in fakes[:2]:
        leaf.requires_grad_()
    loss = linear_cross_entropy(*fakes, **options)
    real = linear_cross_entropy(*args, **options)
    assert (loss.shape, loss.dtype) == (real.shape, real.dtype)
    for gradient, leaf in zip(torch.autograd.grad(loss.sum(), fakes[:2]), args, strict=False):
        assert (gradient.shape, gradient.dtype) == (leaf.shape, leaf.dtype)


def test_modes_see_the_operators(gen):
    args, _ = case(gen)
    seen = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Seen():
        linear_cross_entropy(*args, reduction="none").sum().backward()
    assert OPERATOR in seen
    assert torch.ops.logitless.linear_cross_entropy_backward.default in seen
    with FlopCounterMode(display=False):
        assert linear_cross_entropy(*args) == linear_cross_entropy(*(t.detach() for t in args))


@pytest.mark.parametrize("strict", [False, True])
def test_export(gen, strict, tmp_path):
    """For any number of rows, saved and loaded; without gradients nothing is spent on them."""
    torch.manual_seed(0)
    module = LinearCrossEntropyLoss(K, C, bias=True, dtype=F64)
    (x, _, target), _ = case(gen)
    rows = torch.export.Dim("rows")
    program = torch.export.export(module, (x.detach(), target), strict=strict,
                                  dynamic_shapes=({0: rows}, {0: rows}))
    (node,) = (n for n in program.graph.nodes if n.target == OPERATOR)
    assert "" in node.args  # names of gradients
    torch.export.save(program, tmp_path / "loss.pt2")
    other = torch.cat([x, -x]).detach(), torch.cat([target, target])
    expected = module(*other)
    gradients = torch.autograd.grad(expected, list(module.parameters()))
    for exported in (program.module(), torch.export.load(tmp_path / "loss.pt2").module()):
        loss = exported(*other)
        assert torch.equal(loss, expected)
        ours = dict(exported.named_parameters())
        loss.backward()
        for (name, _), gradient in zip(module.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(ours[name].grad, gradient)
            ours[name].grad = None


# Compilers


@pytest.mark.slow
@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("form", ["rows", "2-d"])
def test_compile(gen, form, soft, reduction, options):
    args, kwargs = case(gen, form, soft, reduction=reduction, **OPTIONS[options])
    if soft:
        args[2].requires_grad_()
    kwargs |= {"softcap": 2.0, "z_loss": 0.1, "entropy_weight": -0.3}
    kwargs["temperature"] = torch.linspace(0.5, 2, M, dtype=F64) if soft else 0.7

    def loss(*args, **kwargs):
        return 3 * linear_cross_entropy(args[0].tanh(), *args[1:], **kwargs)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    factor = torch.randn(loss(*args, **kwargs).shape, dtype=F64, generator=gen)
    expected, gradients = results(loss, args, kwargs, factor)
    torch.testing.assert_close(compiled(*args, **kwargs), expected)
    ours = compiled(*args, **kwargs)
    leaves = leaves_of(args, kwargs)
    for again in (True, False):  # the second time finds the graph as it was
        found = torch.autograd.grad(ours, leaves, factor, retain_graph=again)
        for a, b in zip(found, gradients, strict=True):
            torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*args, **kwargs), expected.detach())


@pytest.mark.slow
def test_inductor(gen):
    """The one backend that makes code of its own, if there is a compiler for it."""
    args, _ = case(gen, dtype=torch.bfloat16)

    def loss(x, weight, target):
        return linear_cross_entropy(x * 2, weight, target)

    compiled = torch.compile(loss, fullgraph=True)
    expected, gradients = results(loss, args, {})
    try:
        ours, found = results(compiled, args, {})
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"inductor does not work here: {error}")
    torch.testing.assert_close(ours, expected)
    for a, b in zip(found, gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compile_for_any_number_of_rows(gen, dynamic):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(linear_cross_entropy, backend=backend, fullgraph=True,
                             dynamic=dynamic)
    for m in (3, 5, 8, 13):
        args, _ = case(gen, m=m)
        ours, theirs = results(compiled, args, {}), results(linear_cross_entropy, args, {})
        for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
            torch.testing.assert_close(a, b)
    assert len(graphs) == (1 if dynamic else 2)


@pytest.mark.slow
def test_compile_with_another_default_dtype(gen):
    args, _ = case(gen, dtype=torch.float32)
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    torch.set_default_dtype(F64)
    try:
        loss, gradients = results(compiled, args, {})
    finally:
        torch.set_default_dtype(torch.float32)
    assert {t.dtype for t in (loss, *gradients)} == {torch.float32}


@pytest.mark.slow
def test_compile_under_autocast(gen):
    args, _ = case(gen, dtype=torch.bfloat16)
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = compiled(*args)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, linear_cross_entropy(*args))
    loss.backward()
    assert args[0].grad.dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_function_transform(gen):
    """It is not looked into, and comes out right."""
    (x, weight, target), _ = case(gen)
    gradient = torch.func.grad(lambda x: linear_cross_entropy(x, weight.detach(), target))
    compiled = torch.compile(gradient, backend="aot_eager")
    assert torch.equal(compiled(x.detach()), gradient(x.detach()))


def test_compiled_errors_are_those_of_the_eager_call(gen):
    (x, weight, target), _ = case(gen)
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager")
    target[2] = 9
    with pytest.raises(IndexError, match="got 9 in row 2"):
        compiled(x, weight, target)


def test_second_derivatives_are_refused_by_exported_programs_too(gen):
    module = LinearCrossEntropyLoss(K, C, dtype=F64)
    (x, _, target), _ = case(gen)
    exported = torch.export.export(module, (x.detach(), target)).module()
    (gradient,) = torch.autograd.grad(exported(x, target), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()


# The operators themselves


OPERANDS = [(form, soft, wrt) for form in ("rows", "2-d") for soft in (False, True)
            for wrt in ("", "x", "x weight bias")]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "soft", "wrt"), OPERANDS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck(gen, form, soft, wrt, reduction):
    (x, weight, target), kwargs = case(gen, form, soft, weight=True, linear_bias=True)
    tensors = x, weight, kwargs["linear_bias"], target, kwargs["weight"], None, None, None
    shift = int(len(wrt) == 1)
    options = reduction, -100, 0.1, shift, 2.0, 0.7, 0.1, 0.1, 0.0
    if reduction == "mean" or not wrt:
        torch.library.opcheck(_call.linear_cross_entropy.of_library,
                              (*tensors, *options, F64, soft, wrt))
    factor = torch.randn(
        linear_cross_entropy(x, weight, target, reduction=reduction, shift=shift).shape,
        dtype=F64, generator=gen)
    torch.library.opcheck(
        _call.linear_cross_entropy_backward.of_library,
        (factor, *(t.detach() if isinstance(t, torch.Tensor) else t for t in tensors), *options,
         wrt + " target" * soft),
    )


def test_opcheck_of_scaling(gen):
    gradient = torch.randn(M, K, generator=gen)
    torch.library.opcheck(_call.scale_.of_library, (gradient, torch.tensor(2.0)))
