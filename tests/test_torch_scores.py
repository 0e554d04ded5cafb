"""What PyTorch gets beside the loss: from the same pass, without gradient, right."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", minversion="2.13")
F = torch.nn.functional

from support.memory import peak  # noqa: E402
from support.torch_cases import F64, OPTIONS, C, K, M, assert_same, case, results  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from logitless._engines.choice import engine  # noqa: E402
from logitless.torch import LinearCrossEntropyLoss, Scores, linear_cross_entropy  # noqa: E402

OWN = {"softcap": 2.0, "temperature": 0.7, "z_loss": 0.1}


def logits_of(x, weight, bias=None, *, softcap=None, temperature=1.0, **_):
    """With the classes last."""
    z = torch.einsum("...k,c...k->...c", x, weight) if weight.ndim == 2 else torch.einsum(
        "nk,cpk->npc", x, weight.reshape(C, -1, K)).reshape(*x.shape[:-1], *weight.shape[1:-1], C)
    if bias is not None:
        z = z + bias.movedim(0, -1)
    return (softcap * torch.tanh(z / softcap) if softcap else z) / temperature


def expected_scores(args, kwargs):
    x, weight, target = args
    z = logits_of(x, weight, kwargs.get("linear_bias"),
                  **{name: kwargs[name] for name in OWN if name in kwargs}).detach()
    lse, entropy = z.logsumexp(-1), torch.distributions.Categorical(logits=z).entropy()
    predicted = z.argmax(-1)
    z_loss = kwargs.get("z_loss", 0.0) * lse.square()
    if target.is_floating_point():
        target = target.movedim(x.ndim - 1, -1)
        hits = target.gather(-1, predicted[..., None])[..., 0] == target.amax(-1)
        return Scores(lse, entropy, z_loss, predicted, hits)
    counts = target != kwargs.get("ignore_index", -100)
    return Scores(lse, entropy, z_loss * counts, predicted, (predicted == target) & counts)


def assert_scores(ours, theirs, **tolerance):
    for name, a, b in zip(Scores._fields, ours, theirs, strict=True):
        assert not a.requires_grad, name
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}",
                                   **tolerance)


@given(form=st.sampled_from(["unbatched", "rows", "1-d", "2-d"]), soft=st.booleans(),
       reduction=st.sampled_from(["mean", "sum", "none"]), held=st.booleans(),
       options=st.sampled_from(sorted(OPTIONS)), own=st.booleans(), seed=st.integers(0, 99))
def test_scores_and_the_loss_beside_them(form, soft, reduction, held, options, own, seed):
    gen = torch.Generator().manual_seed(seed)
    args, kwargs = case(gen, form, soft, reduction=reduction, **OPTIONS[options])
    kwargs |= OWN if own else {}
    if not soft and form != "unbatched":
        args[2][:2] = kwargs.get("ignore_index", -100)
    if not held:
        args = [t.detach() for t in args]
        kwargs = {name: v.detach() if isinstance(v, torch.Tensor) else v
                  for name, v in kwargs.items()}
    loss, scores = linear_cross_entropy(*args, return_scores=True, **kwargs)
    exact = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(loss, linear_cross_entropy(*args, **kwargs), **exact)
    assert scores.lse.shape == linear_cross_entropy(*args, **{**kwargs, "reduction": "none"}).shape
    assert_scores(scores, expected_scores(args, kwargs), rtol=1e-11, atol=1e-13)
    if held:
        leaves = [t for t in (*args, *kwargs.values()) if getattr(t, "requires_grad", False)]
        factor = torch.randn(loss.shape, dtype=F64, generator=gen)
        ours = torch.autograd.grad(loss, leaves, factor)
        theirs = torch.autograd.grad(linear_cross_entropy(*args, **kwargs), leaves, factor)
        torch.testing.assert_close(ours, theirs, **exact)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("lead", [(5,), (2, 5), (2, 1, 5)], ids=str)
def test_shifted(gen, lead, soft, held):
    rows = torch.Size(lead).numel()
    (x, weight, target), _ = case(gen, soft=soft, m=rows)
    x, target = (t.detach().reshape(*lead, *t.shape[1:]) for t in (x, target))
    weight.requires_grad_(held)
    loss, scores = linear_cross_entropy(x, weight, target, shift=2, z_loss=0.1,
                                        return_scores=True)
    axis = len(lead) - 1
    cut = x.narrow(axis, 0, 3), weight, target.narrow(axis, 2, 3)
    torch.testing.assert_close(loss, linear_cross_entropy(*cut, z_loss=0.1))
    assert_scores(scores, expected_scores(cut, {"z_loss": 0.1}))


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precisions(gen, dtype, held):
    """Those of 16-bit tensors are float32, not rounded."""
    (x, weight, target), _ = case(gen, dtype=dtype)
    x.requires_grad_(held)
    weight.requires_grad_(held)
    loss, scores = linear_cross_entropy(x, weight, target, return_scores=True)
    assert loss.dtype == dtype
    wide = x.to(F64), weight.to(F64), target
    exact = expected_scores(wide, {})
    for name in ("lse", "entropy", "z_loss"):
        ours = getattr(scores, name)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.to(F64), getattr(exact, name), rtol=1e-6, atol=1e-6)
    assert torch.equal(scores.predicted, exact.predicted)
    assert torch.equal(scores.hits, exact.hits)


def test_hits_by_hand():
    x, weight = torch.tensor([[1.0, 2.0, 2.0]] * 4), torch.eye(3)

    def hits(target, **options):
        return linear_cross_entropy(x, weight, torch.tensor(target), return_scores=True,
                                    **options)[1].hits.tolist()

    assert hits([0, 1, 2, -100]) == [False, True, False, False]
    assert hits([1, 1, 0, 1], ignore_index=1) == [False] * 4
    # Of equal probabilities each will do; where nothing is expected nothing is right.
    soft = [[0.0, 0.5, 0.5], [0.2, 0.1, 0.7], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert hits(soft) == [True, False, True, False]


def test_small_integers_are_not_mistaken_for_ignored_ones(gen):
    """-100 is 156 in 8 bits."""
    x, weight = torch.zeros(2, 1), torch.zeros(200, 1)
    weight[156] = 1
    x[0] = 1
    target = torch.tensor([156, 3], dtype=torch.uint8)
    scores = linear_cross_entropy(x, weight, target, z_loss=1.0, return_scores=True)[1]
    assert scores.hits.tolist() == [True, False]
    assert scores.z_loss.all()


@pytest.mark.parametrize("held", [False, True])
def test_ignored_rows_that_hold_anything(gen, held):
    (x, weight, target), _ = case(gen)
    x.data[0], target[0] = torch.nan, -100
    weight.requires_grad_(held)
    loss, scores = linear_cross_entropy(x.detach(), weight, target, z_loss=0.1,
                                        return_scores=True)
    assert loss.isfinite()
    assert scores.lse[0].isnan()
    assert scores.z_loss[0] == 0
    assert not scores.hits[0]


@pytest.mark.parametrize("shift", [0, 1])
def test_no_rows(gen, shift):
    (x, weight, target), _ = case(gen, m=2)
    args = x[:shift][None], weight, target[:shift][None]
    for held in (True, False):
        with torch.set_grad_enabled(held):
            scores = linear_cross_entropy(*args, shift=shift, return_scores=True,
                                          reduction="sum")[1]
        assert {tuple(score.shape) for score in scores} == {(1, 0)}


# What it costs


@pytest.mark.compiled_only
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("held", [False, True])
def test_one_pass(gen, monkeypatch, reduction, held):
    (x, weight, target), _ = case(gen)
    passes = []

    def spied(name):
        original = getattr(engine, name)

        def spy(*args):
            passes.append(name)
            return original(*args)

        monkeypatch.setattr(engine, name, spy)

    spied("score")
    spied("gradients")
    monkeypatch.setattr(engine, "few_rows", lambda layer: None)
    x.requires_grad_(held)
    weight.requires_grad_(held)
    linear_cross_entropy(x, weight, target, reduction=reduction, return_scores=True)
    assert passes == ["gradients" if held and reduction == "mean" else "score"]


@pytest.mark.compiled_only
@pytest.mark.parametrize("held", [False, True])
def test_memory(gen, held):
    """A few numbers a row more."""
    m = 20_000
    x, weight = torch.randn(m, 16, generator=gen), torch.randn(50, 16, generator=gen)
    weight.requires_grad_(held)
    target = torch.randint(50, (m,), generator=gen)
    both = []
    for scores in (False, True):
        linear_cross_entropy(x, weight, target, return_scores=scores)
        both.append(peak(lambda scores=scores: linear_cross_entropy(
            x, weight, target, return_scores=scores)))
    assert both[1] - both[0] < 12 * 8 * m


# Tracers, compilers, modules


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_compile(gen, soft, reduction):
    torch._dynamo.reset()
    args, kwargs = case(gen, soft=soft, reduction=reduction)
    kwargs |= {"return_scores": True, "z_loss": 0.1}

    def both(x, *args):
        return linear_cross_entropy(x.tanh(), *args, **kwargs)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    (loss, scores), (expected, others) = compiled(*args), both(*args)
    torch.testing.assert_close(loss, expected)
    assert_scores(scores, others)
    factor = torch.ones_like(loss)
    for a, b in zip(torch.autograd.grad(loss, args[:2], factor),
                    torch.autograd.grad(expected, args[:2], factor), strict=True):
        torch.testing.assert_close(a, b)


def test_tracers_and_transforms(gen):
    args, _ = case(gen)

    def both(*args):
        return linear_cross_entropy(*args, return_scores=True)

    plain = [t.detach() for t in args]
    expected, scores = both(*plain)
    assert_scores(make_fx(both)(*plain)(*plain)[1], scores)
    gradient, (loss, others) = torch.func.grad(
        lambda *args: (lambda found: (found[0], found))(both(*args)), has_aux=True)(*plain)
    assert torch.equal(loss, expected)
    assert_scores(others, scores)
    assert torch.equal(gradient, results(linear_cross_entropy, args, {})[1][0])
    mode = FakeTensorMode()
    fakes = both(*(mode.from_tensor(t) for t in plain))[1]
    assert [(f.shape, f.dtype) for f in fakes] == [(s.shape, s.dtype) for s in scores]


@pytest.mark.parametrize("strict", [False, True])
def test_export(gen, strict):
    module = LinearCrossEntropyLoss(K, C, dtype=F64, return_scores=True)
    (x, _, target), _ = case(gen)
    program = torch.export.export(module, (x.detach(), target), strict=strict)
    loss, scores = program.module()(x.detach(), target)
    expected, others = module(x.detach(), target)
    assert torch.equal(loss, expected)
    assert_scores(scores, others)


def test_module(gen):
    (x, _, target), _ = case(gen)
    module = LinearCrossEntropyLoss(K, C, dtype=F64, return_scores=True)
    expected = linear_cross_entropy(x, module.linear.weight, target, return_scores=True)
    assert list(module.state_dict()) == ["linear.weight"]
    for other in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        loss, scores = other(x, target)
        assert torch.equal(loss, expected[0])
        assert type(scores) is Scores
        assert_scores(scores, expected[1])
    assert "return_scores=True" in repr(module)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_and_checkpoints(gen, reduction):
    args, _ = case(gen, dtype=torch.bfloat16)

    def both(*args):
        return linear_cross_entropy(*args, reduction=reduction, return_scores=True)

    expected = both(*args)
    with torch.autocast("cpu", torch.bfloat16):
        loss, scores = both(*args)
    assert loss.dtype == torch.float32
    assert_scores(scores, expected[1])
    loss, scores = torch.utils.checkpoint.checkpoint(both, *args, use_reentrant=False)
    assert_scores(scores, expected[1])
    assert_same((loss, torch.autograd.grad(loss.sum(), args[:2])),
                results(lambda *a: both(*a)[0], args, {}, torch.ones_like(loss)))
    assert scores.lse.shape == (M,)
