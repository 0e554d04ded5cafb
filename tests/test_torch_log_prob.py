"""Log-probabilities and entropies in PyTorch, against those of the logits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.13")

from support.memory import MIB, peak  # noqa: E402
from support.oracle import COMPILED  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

import logitless as ll  # noqa: E402
from logitless._engines.choice import engine  # noqa: E402
from logitless.torch import linear_cross_entropy, linear_log_prob  # noqa: E402

F64 = torch.float64
OPERATOR = torch.ops.logitless.linear_log_prob.default
M, N, K = 6, 40, 5
# What torch warns of in itself while it compiles.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def gen():
    torch._dynamo.reset()
    return torch.Generator().manual_seed(20240301)


def normal(gen, *shape, dtype=F64):
    return torch.randn(shape, dtype=F64, generator=gen).to(dtype).requires_grad_()


def case(gen, lead=(M,), j=None, dtype=F64, n=N):
    """Input, weight and target of a call, of which some are padded, and a bias."""
    target = torch.randint(n, (*lead, *(() if j is None else (j,))), generator=gen)
    if lead:
        target[0] = -100
    if lead and j is not None:
        target[..., -1:] = -100
    return (normal(gen, *lead, K, dtype=dtype), normal(gen, n, K, dtype=dtype), target,
            normal(gen, n, dtype=dtype))


def reference(input, weight, target, *, linear_bias=None, softcap=None, temperature=1.0,
              ignore_index=-100):
    """The same of the logits."""
    z = torch.nn.functional.linear(input, weight, linear_bias)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    t = torch.as_tensor(temperature, dtype=z.dtype)
    log_p = torch.log_softmax(z / (t[..., None] if t.ndim else t), -1)
    several = target if target.ndim == input.ndim else target[..., None]
    ignored = several == ignore_index
    found = log_p.gather(-1, several.masked_fill(ignored, 0)).masked_fill(ignored, 0)
    return found.view(target.shape), -(log_p.exp() * log_p).sum(-1)


def gradients(results, factors, leaves):
    total = sum((r * f).sum() for r, f in zip(results, factors, strict=True) if f is not None)
    return torch.autograd.grad(total, leaves)


def assert_same(args, options, factors=None, **tolerance):
    """Results and gradients of ours and theirs."""
    ours, theirs = linear_log_prob(*args, **options), reference(*args, **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    leaves = [t for t in (*args, *options.values())
              if isinstance(t, torch.Tensor) and t.requires_grad]
    if factors is None:
        gen = torch.Generator().manual_seed(1)
        factors = [torch.randn(r.shape, dtype=F64, generator=gen).to(r.dtype) for r in ours]
    for a, b in zip(gradients(ours, factors, leaves), gradients(theirs, factors, leaves),
                    strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("n", [1, 2, 40, 1000])
@pytest.mark.parametrize("j", [None, 1, 3, 7])
@pytest.mark.parametrize("lead", [(), (6,), (2, 3)], ids=str)
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("temperature", [1.0, 0.6, "rows"])
def test_results_and_gradients(gen, lead, j, n, softcap, temperature):
    *args, bias = case(gen, lead, j, n=n)
    if temperature == "rows":
        temperature = torch.rand(lead, dtype=F64, generator=gen) + 0.5
    assert_same(args, {"linear_bias": bias, "softcap": softcap, "temperature": temperature},
                rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_both(gen, which):
    *args, bias = case(gen, j=3)
    factors = [None, None]
    factors[which] = torch.randn((M, 3) if which == 0 else (M,), dtype=F64, generator=gen)
    assert_same(args, {"linear_bias": bias}, factors, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("factors", [(1, None), (None, 1), (1, 1), (1, 0), (0, 1)], ids=str)
def test_what_is_not_used_is_not_computed(gen, monkeypatch, factors):
    *args, _ = case(gen, j=2)
    asked = []

    def spy(layer, rows, request, *others):
        asked.append(request)
        return gradients_of_engine(layer, rows, request, *others)

    gradients_of_engine = engine.gradients
    monkeypatch.setattr(engine, "gradients", spy)
    gradients(linear_log_prob(*args), factors, args[:2])
    request, = asked
    assert (request.probs is not None, request.entropy) == tuple(map(bool, factors))


def test_a_class_several_times_counts_as_often(gen):
    x, weight, _, bias = case(gen)
    target = torch.tensor([[3, 1, 3, -100, 3]]).expand(M, 5)
    assert_same((x, weight, target), {"linear_bias": bias}, rtol=1e-11, atol=1e-12)
    # And where its factors cancel the row has no gradient of it.
    log_prob, _ = linear_log_prob(x, weight, target[:, :3])
    grad, = torch.autograd.grad(
        (log_prob * torch.tensor([1.0, 0.0, -1.0], dtype=F64)).sum(), [x])
    assert not grad.any()


def test_padding(gen):
    """It has 0 and no gradient, whatever the row holds; other ids may stand for it."""
    x, weight, target, _ = case(gen, j=3)
    with torch.no_grad():
        x[0] = torch.nan
    log_prob, entropy = linear_log_prob(x, weight, target)
    assert log_prob[0].tolist() == [0, 0, 0]
    assert not torch.signbit(log_prob[0]).any()
    assert entropy.isnan().tolist() == [True] + [False] * (M - 1)
    grad_x, grad_weight = torch.autograd.grad(log_prob.sum(), [x, weight])
    assert not grad_x[0].any()
    assert grad_weight.isfinite().all()
    assert_same((x[1:].detach().requires_grad_(), weight, target[1:].clamp(min=-1)),
                {"ignore_index": -1}, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        x[0] = 1
    seven = torch.where(target == -100, 7, torch.where(target == 7, 8, target))
    assert_same((x, weight, seven), {"ignore_index": 7}, rtol=1e-11, atol=1e-12)


def test_nothing_to_score(gen):
    for lead, j in ((0,), None), ((0,), 3), ((2, 0), 3), ((M,), 0):
        x, weight = normal(gen, *lead, K), normal(gen, N, K)
        target = torch.zeros((*lead, *(() if j is None else (j,))), dtype=torch.int64)
        assert_same((x, weight, target), {})


@pytest.mark.skipif(not COMPILED, reason="the plain-NumPy engine does not promise this")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_are_those_of_the_arrays(gen, dtype):
    x, weight, target, bias = case(gen, dtype=dtype)
    t = torch.rand(M, dtype=F64, generator=gen) + 0.5
    log_prob, entropy = linear_log_prob(x, weight, target, linear_bias=bias, temperature=t)
    head = ll.LinearHead(weight.detach().numpy(), bias.detach().numpy())
    score = head.score(x.detach().numpy(), target.numpy(), entropy=True, temperature=t.numpy())
    assert (log_prob.detach().numpy() == 0 - score.loss).all()
    assert (entropy.detach().numpy() == score.entropy).all()
    # Gradients of a loss are those of minus its log-probabilities.
    log_prob, _ = linear_log_prob(x, weight, target, linear_bias=bias, temperature=0.75)
    ours = torch.autograd.grad(-log_prob.sum(), [x, weight, bias])
    loss = linear_cross_entropy(x, weight, target, linear_bias=bias, temperature=0.75,
                                reduction="sum")
    for a, b in zip(ours, torch.autograd.grad(loss, [x, weight, bias]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sure_rows_keep_their_digits(dtype):
    """Log-probabilities of -1e-26, and of these the gradients."""
    gap = torch.arange(10, 60, 10, dtype=dtype)
    x = torch.stack([-gap, 0 * gap, -gap], 1).requires_grad_()
    log_prob, entropy = linear_log_prob(x, torch.eye(3, dtype=dtype), torch.ones(5, dtype=int))
    rest = 2 * torch.exp(-gap.to(F64))
    few = 1e-6 if dtype == torch.float32 else 1e-13
    exact = torch.log1p(rest)
    torch.testing.assert_close(-log_prob.detach().to(F64), exact, rtol=few, atol=0)
    exact = exact + gap * rest / (1 + rest)
    torch.testing.assert_close(entropy.detach().to(F64), exact, rtol=few, atol=0)
    grad, = torch.autograd.grad(log_prob.sum(), [x], retain_graph=True)
    torch.testing.assert_close(grad[:, 1].to(F64), rest / (1 + rest), rtol=few, atol=0)
    grad, = torch.autograd.grad(entropy.sum(), [x])
    torch.testing.assert_close(grad[:, 1].to(F64), -gap * rest / (1 + rest) ** 2, rtol=few, atol=0)


# Autograd


@pytest.mark.parametrize("j", [None, 3])
def test_gradcheck(gen, j):
    x, weight, target, bias = case(gen, (2, 2), j, n=7)
    t = torch.rand((2, 2), dtype=F64, generator=gen) + 0.5
    for temperature, softcap in itertools.product((0.8, t), (None, 2.0)):
        assert torch.autograd.gradcheck(
            lambda *leaves, t=temperature, cap=softcap: linear_log_prob(
                *leaves[:2], target, linear_bias=leaves[2], temperature=t, softcap=cap),
            (x, weight, bias))


@pytest.mark.parametrize("wrt", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_only_gradients_that_are_wanted(gen, monkeypatch, wrt):
    x, weight, target, bias = case(gen)
    leaves = [x, weight, bias]
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(i in wrt)
    found = []

    def spy(layer, rows, request, backward, grads, *others):
        found.append(grads)
        return gradients_of_engine(layer, rows, request, backward, grads, *others)

    gradients_of_engine = engine.gradients
    monkeypatch.setattr(engine, "gradients", spy)
    log_prob, entropy = linear_log_prob(x, weight, target, linear_bias=bias)
    (log_prob.sum() + entropy.sum()).backward()
    assert [leaf.grad is not None for leaf in leaves] == [i in wrt for i in range(3)]
    assert [getattr(found[0], name) is not None for name in ("x", "weight", "bias")] == [
        i in wrt for i in range(3)]


def test_no_grad_and_changed_tensors(gen):
    x, weight, target, _ = case(gen)
    with torch.no_grad():
        log_prob, entropy = linear_log_prob(x, weight, target)
    assert not log_prob.requires_grad
    assert not entropy.requires_grad
    log_prob, _ = linear_log_prob(x, weight, target)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_prob.sum().backward()


@pytest.mark.parametrize("which", [0, 1])
def test_there_is_no_second_derivative(gen, which):
    x, weight, target, _ = case(gen)
    result = linear_log_prob(x, weight, target)[which]
    grad, = torch.autograd.grad(result.sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


def test_function_transforms(gen):
    args = [a.detach() for a in case(gen, j=2)]

    def loss(function, x, weight):
        log_prob, entropy = function(x, weight, args[2], linear_bias=args[3])
        return log_prob.sum() + 0.5 * entropy.square().sum()

    ours = torch.func.grad(lambda *a: loss(linear_log_prob, *a), argnums=(0, 1))(*args[:2])
    theirs = torch.func.grad(lambda *a: loss(reference, *a), argnums=(0, 1))(*args[:2])
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    _, ours = torch.func.vjp(lambda *a: loss(linear_log_prob, *a), *args[:2])
    one = torch.ones((), dtype=F64)
    torch.testing.assert_close(ours(one), theirs, rtol=1e-11, atol=1e-12)


# Dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_tensors_of_16_bits(gen, dtype):
    x, weight, target, bias = case(gen, j=2, dtype=dtype)
    wide = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
    theirs = linear_log_prob(*wide[:2], target, linear_bias=wide[2])
    ours = linear_log_prob(x, weight, target, linear_bias=bias, loss_dtype=torch.float32)
    rounded = linear_log_prob(x, weight, target, linear_bias=bias)
    for a, b, c in zip(ours, theirs, rounded, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert torch.equal(c, a.to(dtype))
    found = gradients(ours, (1.0, 0.5), [x, weight, bias])
    few = torch.finfo(dtype).eps
    for a, b in zip(found, gradients(theirs, (1.0, 0.5), wide), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b, rtol=few, atol=1e-5)


def test_autocast(gen):
    x, weight, target, _ = case(gen, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        log_prob, entropy = linear_log_prob(x, weight, target)
    assert (log_prob.dtype, entropy.dtype) == (torch.float32, torch.float32)
    assert torch.equal(log_prob, linear_log_prob(x, weight, target, loss_dtype=torch.float32)[0])
    log_prob.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_the_wider_dtype(gen):
    x, weight, target, _ = case(gen)
    log_prob, _ = linear_log_prob(x, weight.detach().float(), target.to(torch.int32))
    assert log_prob.dtype == F64
    log_prob.sum().backward()
    assert x.grad.dtype == F64


# Tracers and compilers


def loss_of(function, x, weight, target, bias, t):
    log_prob, entropy = function(x, weight, target, linear_bias=bias, temperature=t)
    return -(log_prob * torch.arange(1.0, 1 + target.shape[-1], dtype=F64)).mean() - entropy.mean()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(gen, dynamic):
    *args, bias = case(gen, j=2)
    t = torch.rand(M, dtype=F64, generator=gen) + 0.5
    compiled = torch.compile(lambda *a: loss_of(linear_log_prob, *a), fullgraph=True,
                             dynamic=dynamic, backend="aot_eager")
    leaves = [*args[:2], bias]
    ours = compiled(*args, bias, t)
    theirs = loss_of(reference, *args, bias, t)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(gen, mode):
    *args, bias = case(gen, j=2)
    t = torch.rand(M, dtype=F64, generator=gen) + 0.5

    def found(*given):
        return torch.autograd.grad(loss_of(linear_log_prob, *given), [given[0], given[1]])

    traced = make_fx(found, tracing_mode=mode)(*args, bias, t)
    assert OPERATOR in [node.target for node in traced.graph.nodes]
    other = (2 * args[0]).detach().requires_grad_(), *args[1:], bias, t
    for ours, theirs in zip(traced(*other), found(*other), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("j", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_fake_tensors(gen, j, dtype):
    x, weight, target, _ = case(gen, (2, 3), j, dtype)
    mode = FakeTensorMode()
    fakes = [mode.from_tensor(t.detach()) for t in (x, weight, target)]
    for leaf in fakes[:2]:
        leaf.requires_grad_()
    ours, real = linear_log_prob(*fakes), linear_log_prob(x, weight, target)
    for a, b in zip(ours, real, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    found = torch.autograd.grad(ours[0].sum() + ours[1].sum(), fakes[:2])
    for gradient, leaf in zip(found, (x, weight), strict=True):
        assert (gradient.shape, gradient.dtype) == (leaf.shape, leaf.dtype)


@pytest.mark.slow
def test_the_operators_keep_their_word(gen):
    """What torch asks of an operator: schema, fake and autograd agree with the kernel."""
    *args, bias = case(gen, j=2)
    t = torch.rand(M, dtype=F64, generator=gen) + 0.5
    torch.library.opcheck(OPERATOR, (*args[:2], bias, args[2], t, None, 1.0, -100, F64))
    torch.library.opcheck(OPERATOR, (*args[:2], None, args[2], None, 2.0, 0.5, -100,
                                     torch.float32))


# Errors


def changed(which, change, **options):
    def call(x, weight, target, bias):
        given = {"input": x, "weight": weight, "target": target, "linear_bias": bias, **options}
        if which in given:
            given[which] = change(given[which])
        else:
            given[which] = change
        return linear_log_prob(**given)
    return call


@pytest.mark.parametrize(("error", "message", "call"), [
    (TypeError, "`input` must be a torch.Tensor, got list",
     changed("input", lambda t: t.tolist())),
    (TypeError, "`weight` must be of one of", changed("weight", lambda t: t.long())),
    (TypeError, "`weight` must be dense", changed("weight", lambda t: t.to_sparse())),
    (TypeError, "`linear_bias` must be on the CPU", changed("linear_bias", lambda t: t.to("meta"))),
    (TypeError, "`target` must be of one of", changed("target", lambda t: t.double())),
    (TypeError, "`target` must be of one of", changed("target", lambda t: t > 1)),
    (ValueError, r"`input` must have shape \(..., k\), got \(\)",
     changed("input", lambda t: t[0, 0])),
    (ValueError, r"`weight` must have shape \(n, 5\), n >= 1, got \(40, 4\)",
     changed("weight", lambda t: t[:, :4])),
    (ValueError, r"`weight` must have shape \(n, 5\), n >= 1, got \(0, 5\)",
     changed("weight", lambda t: t[:0])),
    (ValueError, r"`linear_bias` must have shape \(40,\), got \(39,\)",
     changed("linear_bias", lambda t: t[1:])),
    (ValueError, r"`target` must have shape \(6,\) or \(6,\) \+ \(j,\), got \(5, 3\)",
     changed("target", lambda t: t[1:])),
    (ValueError, r"`target` must have shape \(6,\) or \(6,\) \+ \(j,\), got \(6, 3, 1\)",
     changed("target", lambda t: t[..., None])),
    (IndexError, r"classes in \[0, 40\) or ignore_index \(-100\), got 40 in row \(2, 1\)",
     changed("target", lambda t: t.index_put((torch.tensor(2), torch.tensor(1)),
                                             torch.tensor(40)))),
    (IndexError, r"ignore_index \(3\), got -100", changed("ignore_index", 3)),
    (TypeError, "`ignore_index` must be an integer", changed("ignore_index", 0.5)),
    (ValueError, "`softcap` must be positive", changed("softcap", 0.0)),
    (ValueError, "`temperature` must be positive", changed("temperature", -1.0)),
    (TypeError, "`temperature` must be a number or a torch.Tensor, got list",
     changed("temperature", [1.0] * M)),
    (TypeError, "`temperature` must be of one of", changed("temperature", torch.ones(M).long())),
    (TypeError, "`temperature` requires grad",
     changed("temperature", torch.ones(M, requires_grad=True))),
    (ValueError, r"`temperature` must be a number or have shape \(6,\), got \(5,\)",
     changed("temperature", torch.ones(5))),
    (ValueError, "`temperature` of row 4 must be within .* got 0.0",
     changed("temperature", torch.tensor([1.0, 1, 1, 1, 0, -1]))),
    (ValueError, "`softcap / temperature` of row 2 must be within .* float64, got inf",
     changed("temperature", torch.tensor([1, 1, 1e-300, 1, 1, 1], dtype=F64), softcap=1e200)),
    (TypeError, "`loss_dtype` must be", changed("loss_dtype", torch.float16)),
])
def test_errors(gen, error, message, call):
    x, weight, target, bias = case(gen, j=3)
    with pytest.raises(error, match=message):
        call(x.detach(), weight.detach(), target, bias.detach())


def test_inputs_are_left_alone(gen):
    x, weight, target, bias = case(gen, j=3)
    before = [t.detach().clone() for t in (x, weight, target, bias)]
    log_prob, entropy = linear_log_prob(x, weight, target, linear_bias=bias)
    (log_prob.sum() + entropy.sum()).backward()
    for a, b in zip((x, weight, target, bias), before, strict=True):
        assert torch.equal(a, b)


def test_layouts(gen):
    """Tensors of any strides are read where they are."""
    x, weight, target, bias = case(gen, j=3)
    plain = linear_log_prob(x, weight, target, linear_bias=bias)
    by_column = [t.detach().mT.contiguous().mT for t in (x, weight, target)]
    ours = linear_log_prob(*by_column, linear_bias=bias.detach().repeat_interleave(2)[::2])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_memory_goes_with_the_results(gen):
    """Of 30,000 classes and 200 rows the logits would take 24 MB, of all 3,000 rows 360 MB."""
    x, weight = (torch.randn(n, 16, generator=gen).requires_grad_() for n in (3000, 30_000))
    target = torch.randint(30_000, (3000, 4), generator=gen)

    def call():
        log_prob, entropy = linear_log_prob(x, weight, target)
        torch.autograd.grad(log_prob.sum() + entropy.sum(), [x, weight])

    call()
    assert peak(call) < (4 * 16 * (3000 + 30_000)) + 64 * MIB + 24 * MIB
    with torch.no_grad():
        assert peak(lambda: linear_log_prob(x, weight, target)) < 16 * MIB


def test_reads_what_numpy_reads():
    assert np.isclose(linear_log_prob(torch.zeros(1, 2), torch.zeros(4, 2), torch.tensor([1]))[1],
                      np.log(4))
