"""The divergence of two heads in PyTorch, against what eager PyTorch makes of the logits."""

from __future__ import annotations

import numpy as np
import pytest
from support.memory import MIB, peak
from support.oracle import COMPILED, says

torch = pytest.importorskip("torch")
F = torch.nn.functional

from logitless.torch import linear_kl_div, linear_topk_kl_div  # noqa: E402

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BETAS = (0.0, 1.0, 0.5, 0.1)


def heads(gen, dtype=torch.float64, lead=(6,), n=11, k=5, other=4):
    """Input, weight and bias of a student and of a teacher."""
    def head(k):
        return [torch.randn(shape, generator=gen, dtype=torch.float64).to(dtype)
                for shape in ((*lead, k), (n, k), (n,))]

    return [t.requires_grad_() for t in head(k)], head(other)


def by_logits(student, teacher, beta=0.0, temperature=1.0, teacher_temperature=None, softcap=None,
              teacher_softcap=None, sample_weight=None, reduction="mean"):
    """The formula in float64."""
    def log_probs(x, w, b, cap, t):
        z = x.double() @ w.double().T + b.double()
        z = z if cap is None else cap * torch.tanh(z / cap)
        return torch.log_softmax(z / t, -1)

    p = log_probs(*student, softcap, temperature)
    q = log_probs(*teacher, teacher_softcap, teacher_temperature or temperature)
    if beta in (0, 1):
        each = F.kl_div(p, q, reduction="none", log_target=True) if beta == 0 else \
            F.kl_div(q, p, reduction="none", log_target=True)
    else:
        m = torch.logaddexp(q + np.log(beta), p + np.log(1 - beta))
        each = (beta * F.kl_div(m, q, reduction="none", log_target=True)
                + (1 - beta) * F.kl_div(m, p, reduction="none", log_target=True))
    each = each.sum(-1)
    weight = torch.ones_like(each) if sample_weight is None else sample_weight.double()
    each = each * weight
    return {"none": each, "sum": each.sum(), "mean": each.sum() / weight.sum()}[reduction]


def call(student, teacher, **options):
    (x, w, b), (y, v, a) = student, teacher
    return linear_kl_div(x, w, y, v, linear_bias=b, teacher_bias=a, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_gradients(gen, dtype, beta, reduction):
    student, teacher = heads(gen, dtype, lead=(2, 3))
    options = {"temperature": 2.0, "softcap": 3.0, "teacher_softcap": 9.0, "beta": beta,
               "teacher_temperature": 1.5, "reduction": reduction}
    wide = [t.detach().double().requires_grad_() for t in student]
    truth = by_logits(wide, teacher, **options)
    ours = call(student, teacher, **options)
    assert ours.dtype == dtype
    assert ours.shape == truth.shape
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.double(), truth, rtol=8 * eps, atol=8 * eps)
    factor = torch.rand(truth.shape, generator=gen, dtype=torch.float64).to(dtype)
    truth.backward(factor.double())
    ours.backward(factor)
    for a, b in zip(student, wide, strict=True):
        assert a.grad.dtype == dtype
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=16 * eps, atol=16 * eps)


@pytest.mark.parametrize("beta", BETAS)
def test_weights_of_samples(gen, beta):
    student, teacher = heads(gen)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0, 1.0])
    wide = [t.detach().clone().requires_grad_() for t in student]
    truth = by_logits(wide, teacher, beta, sample_weight=weight)
    with torch.no_grad():
        student[0][1] = torch.nan
    ours = call(student, teacher, beta=beta, sample_weight=weight)
    torch.testing.assert_close(ours, truth, check_dtype=False)
    truth.backward()
    ours.backward()
    for a, b in zip(student, wide, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for reduction in "mean", "none":
        leaves, _ = heads(gen)
        none = call(leaves, teacher, beta=beta, sample_weight=weight * 0, reduction=reduction)
        none.backward(torch.full_like(none, 1 if reduction == "mean" else torch.inf))
        assert torch.isnan(none).all() == (reduction == "mean")
        assert not any(t.grad.any() for t in leaves)
    assert torch.isnan(call(*heads(gen, lead=(0,))))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(gen, beta, reduction):
    student, teacher = heads(gen, n=5, k=3)

    def of_student(*tensors):
        return call(tensors, teacher, beta=beta, reduction=reduction, softcap=4.0)

    assert torch.autograd.gradcheck(of_student, student)


def test_only_what_is_asked_for_and_twice(gen):
    student, teacher = heads(gen)
    for i, tensor in enumerate(student):
        tensor.requires_grad_(i == 1)
    loss = call(student, teacher)
    first, = torch.autograd.grad(loss, student[1], retain_graph=True)
    again, = torch.autograd.grad(loss, student[1])
    assert torch.equal(first, again)
    assert not call([t.detach() for t in student], teacher).requires_grad
    with torch.no_grad():
        assert not call(student, teacher).requires_grad


def test_no_second_derivative(gen):
    student, teacher = heads(gen)
    for reduction in "mean", "none":
        loss = call(student, teacher, reduction=reduction).sum()
        gradient, = torch.autograd.grad(loss, student[0], create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            gradient.sum().backward()


def test_loss_dtype_and_autocast(gen):
    student, teacher = heads(gen, torch.bfloat16)
    truth = by_logits(student, teacher).detach()
    wide = call(student, teacher, loss_dtype=torch.float32)
    assert wide.dtype == torch.float32
    assert abs(wide.item() - truth.item()) < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert call(student, teacher).dtype == torch.float32
    with says(TypeError, "loss_dtype", "float16"):
        call(student, teacher, loss_dtype=torch.float16)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compilers_and_transforms_see_an_operator(gen, reduction):
    student, teacher = heads(gen, torch.float32)
    expected = torch.autograd.grad(call(student, teacher, beta=0.5, reduction=reduction).sum(),
                                   student)

    def loss(*tensors):
        return call(tensors, teacher, beta=0.5, reduction=reduction).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*student), student)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    constants = [t.detach() for t in student]
    for found in (torch.func.grad(loss, argnums=(0, 1, 2))(*constants),
                  torch.func.vjp(loss, *constants)[1](torch.ones(()))):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    detached = [t.detach() for t in (*student, *teacher)]
    x, w, b, y, v, a = detached
    torch.library.opcheck(torch.ops.logitless.linear_kl_div.default, (
        x, w, b, y, v, a, None, reduction, 0.5, None, None, 1.0, 1.0, torch.float32, "x weight"))
    x, w, b, y, v, a = (t.double() for t in detached)
    torch.library.opcheck(torch.ops.logitless.linear_kl_div.default, (
        x, w, b, y, v, a, None, reduction, 0.5, None, None, 1.0, 1.0, torch.float64, "x"))


@pytest.mark.skipif(not COMPILED, reason="plain NumPy widens what is narrow")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory(gen, dtype):
    """Beside gradients the logits of a few rows, of 3,000 that would take 230 MiB in each head."""
    student, teacher = heads(gen, dtype, lead=(3000,), n=20_000, k=16, other=8)
    with torch.no_grad():
        assert peak(lambda: call(student, teacher)) < 80 * MIB
    sizes = sum(t.numel() * 4 for t in student)
    assert peak(lambda: call(student, teacher)) < sizes + 145 * MIB


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"beta": 2.0}, ValueError, ("beta", "2.0")),
    ({"reduction": "batchmean"}, ValueError, ("reduction", "batchmean")),
    ({"temperature": 0.0}, ValueError, ("temperature", "0")),
    ({"teacher_temperature": -1.0}, ValueError, ("teacher_temperature", "-1")),
    ({"softcap": 0.0}, ValueError, ("softcap", "0")),
    ({"teacher_softcap": -2.0}, ValueError, ("teacher_softcap", "-2")),
    ({"sample_weight": torch.ones(5)}, ValueError, ("sample_weight", "(6,)", "(5,)")),
    ({"sample_weight": torch.ones(6).requires_grad_()}, TypeError, ("sample_weight", "detach")),
    ({"teacher_weight": torch.ones(9, 4)}, ValueError, ("teacher_weight", "(11, 4)", "(9, 4)")),
    ({"teacher_weight": torch.ones(11, 7)}, ValueError, ("teacher_weight", "(n, 4)", "(11, 7)")),
    ({"teacher_weight": torch.ones(11, 4).requires_grad_()}, TypeError,
     ("teacher_weight", "detach")),
    ({"teacher_input": torch.ones(5, 4)}, ValueError, ("teacher_input", "(6, 4)", "(5, 4)")),
    ({"teacher_input": np.ones((6, 4))}, TypeError, ("teacher_input", "Tensor", "ndarray")),
    ({"teacher_input": torch.ones(6, 4, dtype=torch.int64)}, TypeError, ("teacher_input", "int64")),
    ({"input": torch.ones(())}, ValueError, ("input", "(..., k)")),
    ({"weight": torch.ones(11, 4)}, ValueError, ("weight", "(n, 5)", "(11, 4)")),
    ({"linear_bias": torch.ones(4)}, ValueError, ("linear_bias", "(11,)", "(4,)")),
    ({"teacher_bias": torch.ones(4)}, ValueError, ("teacher_bias", "(11,)", "(4,)")),
])
def test_errors_say_what_was_expected(gen, change, error, words):
    (x, w, b), (y, v, a) = heads(gen, torch.float32)
    arguments = {"input": x, "weight": w, "teacher_input": y, "teacher_weight": v,
                 "linear_bias": b, "teacher_bias": a} | change
    with says(error, *words):
        linear_kl_div(**arguments)


# A few probabilities of a teacher


def top(gen, lead=(2, 3), n=11, j=4, dtype=torch.float64):
    order = torch.rand(*lead, n, generator=gen).argsort(-1)
    prob = torch.rand(*lead, j + 1, generator=gen, dtype=torch.float64)
    return order[..., :j], (prob / prob.sum(-1, keepdim=True))[..., :j].to(dtype)


def lumped(student, index, prob, beta, softcap=None, temperature=1.0):
    """The formula in float64: the classes of a sample, and all others as one."""
    x, w, b = (t.double() for t in student)
    z = x @ w.T + b
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    p = torch.softmax(z / temperature, -1).gather(-1, index)
    p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
    q = torch.cat([prob.double(), 1 - prob.double().sum(-1, keepdim=True)], -1)
    m = beta * q + (1 - beta) * p
    forward, reverse = (q * (q / m).log()).sum(-1), (p * (p / m).log()).sum(-1)
    return forward if beta == 0 else reverse if beta == 1 else beta * forward + (1 - beta) * reverse


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_few_probabilities(gen, dtype, beta, reduction):
    student, _ = heads(gen, dtype, lead=(2, 3))
    index, prob = top(gen, dtype=torch.float32 if dtype.itemsize == 2 else dtype)
    wide = [t.detach().double().requires_grad_() for t in student]
    options = {"softcap": 5.0, "temperature": 1.5}
    truth = lumped(wide, index, prob, beta, **options)
    truth = truth.mean() if reduction == "mean" else truth
    x, w, b = student
    ours = linear_topk_kl_div(x, w, index, prob, linear_bias=b, beta=beta, reduction=reduction,
                              **options)
    eps = torch.finfo(dtype).eps
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), truth, rtol=16 * eps, atol=16 * eps)
    factor = torch.rand(truth.shape, generator=gen, dtype=torch.float64).to(dtype)
    truth.backward(factor.double())
    ours.backward(factor)
    for a, c in zip(student, wide, strict=True):
        torch.testing.assert_close(a.grad.double(), c.grad, rtol=32 * eps, atol=32 * eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_probabilities_of_16_bits_may_add_up_to_a_little_more_or_less(dtype):
    below = 1 - torch.finfo(dtype).eps / 2  # 1 rounded down is that, 1 rounded up 1 and eps
    for rest in 1 - below, 3 * (1 - below):
        prob = torch.tensor([[below, rest]], dtype=dtype)
        loss = linear_topk_kl_div(torch.zeros(1, 2), torch.eye(2), torch.tensor([[0, 1]]), prob)
        assert torch.isfinite(loss)


@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck_of_a_few(gen, beta):
    student, _ = heads(gen, n=5, k=3)
    index, prob = top(gen, (6,), 5, 2)
    index[0, 1] = -1

    def loss(x, w, b):
        return linear_topk_kl_div(x, w, index, prob, linear_bias=b, beta=beta)

    assert torch.autograd.gradcheck(loss, student)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*student), loss(*student))


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"index": torch.ones(2, 2)}, TypeError, ("index", "int64", "float32")),
    ({"index": torch.tensor([[1, 9], [1, 2]])}, IndexError, ("index", "[0, 4)", "9")),
    ({"index": torch.tensor([[1, 1], [1, 2]])}, ValueError, ("index", "once", "row 0")),
    ({"index": torch.tensor([1, 2])}, ValueError, ("index", "(2,) + (j,)", "(2,)")),
    ({"prob": torch.ones(2, 3) / 3}, ValueError, ("prob", "(2, 2)", "(2, 3)")),
    ({"prob": torch.ones(2, 2)}, ValueError, ("prob", "at most 1")),
    ({"prob": torch.full((2, 2), 0.1).requires_grad_()}, TypeError, ("prob", "detach")),
    ({"prob": torch.ones(2, 2, dtype=torch.int64)}, TypeError, ("prob", "int64")),
    ({"sample_weight": torch.ones(3)}, ValueError, ("sample_weight", "(2,)", "(3,)")),
    ({"reduction": "batchmean"}, ValueError, ("reduction", "batchmean")),
    ({"beta": 7}, ValueError, ("beta", "7")),
    ({"input": torch.ones(())}, ValueError, ("input", "()")),
])
def test_errors_of_a_few_say_what_was_expected(change, error, words):
    arguments = {"input": torch.ones(2, 3), "weight": torch.ones(4, 3),
                 "index": torch.tensor([[1, 2], [0, 3]]), "prob": torch.full((2, 2), 0.25)} | change
    with says(error, *words):
        linear_topk_kl_div(**arguments)
