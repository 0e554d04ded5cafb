"""Sparse class probabilities in PyTorch: losses and gradients of dense ones, never made dense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", minversion="2.13")
F = torch.nn.functional

from support.memory import peak  # noqa: E402
from support.torch_cases import F64, C, K, assert_same, results  # noqa: E402

from logitless.torch import LinearCrossEntropyLoss, _arrays, linear_cross_entropy  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")
LAYOUTS = {torch.sparse_coo: "coo", torch.sparse_csr: "csr"}
OPTIONS = {
    "plain": {},
    "all": {"softcap": 2.0, "temperature": 0.7, "z_loss": 0.1, "label_smoothing": 0.2,
            "weight": torch.tensor([0.5, 1.0, 0.0, 2.0, 1.5], dtype=F64)},
}


def problem(gen, *lead, dtype=F64, n=C):
    """Leaves x and weight, and class probabilities of which half is nothing."""
    x, weight = torch.randn(*lead, K, generator=gen), torch.randn(n, K, generator=gen)
    dense = torch.rand(*lead, n, generator=gen) * (torch.rand(*lead, n, generator=gen) < 0.5)
    return *(t.to(dtype).requires_grad_() for t in (x, weight)), dense.to(dtype)


def sparse(dense, layout):
    return dense.to_sparse(layout=layout).detach()


@given(lead=st.lists(st.integers(0, 3), max_size=3), layout=st.sampled_from(list(LAYOUTS)),
       shift=st.integers(0, 2), reduction=st.sampled_from(["mean", "sum", "none"]),
       options=st.sampled_from(sorted(OPTIONS)), scored=st.booleans(), wanted=st.booleans())
def test_losses_and_gradients_are_those_of_dense_ones(lead, layout, shift, reduction, options,
                                                      scored, wanted):
    gen = torch.Generator().manual_seed(0)
    if layout == torch.sparse_csr:
        lead = [6]
    if lead:
        lead[-1] += shift
    x, weight, dense = problem(gen, *lead)
    kwargs = {"reduction": reduction, "shift": shift if lead else 0, "return_scores": True,
              **OPTIONS[options]}
    target = sparse(dense, layout).requires_grad_(wanted)
    dense = dense.requires_grad_(wanted)
    (loss, scores), (expected, others) = (linear_cross_entropy(x, weight, t, **kwargs)
                                          for t in (target, dense))
    if scored:
        for a, b in zip(scores, others, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    factor = torch.randn(expected.shape, dtype=F64, generator=gen)
    leaves = [x, weight] + [target] * wanted
    ours = loss, torch.autograd.grad(loss, leaves, factor)
    theirs = torch.autograd.grad(expected, [x, weight] + [dense] * wanted, factor)
    if wanted:
        assert ours[1][2].layout == layout
        ours = loss, (*ours[1][:2], ours[1][2].to_dense())
        theirs = *theirs[:2], theirs[2] * (dense != 0)
    assert_same(ours, (expected, theirs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.get)
def test_gradcheck(gen, layout, reduction):
    x, weight, dense = problem(gen, 4)
    target = sparse(dense, layout)

    def loss(x, weight, values):
        if layout == torch.sparse_csr:
            made = torch.sparse_csr_tensor(target.crow_indices(), target.col_indices(), values,
                                           target.shape)
        else:
            made = torch.sparse_coo_tensor(target.indices(), values, target.shape,
                                           is_coalesced=True)
        return linear_cross_entropy(x, weight, made, shift=1, reduction=reduction, softcap=2.0,
                                    label_smoothing=0.1)

    assert torch.autograd.gradcheck(loss, (x, weight, target.values().clone().requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.get)
def test_precisions(gen, layout, dtype):
    x, weight, dense = problem(gen, 6, dtype=dtype)
    target = sparse(dense, layout).requires_grad_()
    loss, gradients = results(
        lambda *args: linear_cross_entropy(*args, loss_dtype=torch.float32),
        (x, weight, target), {})
    wide = [t.detach().to(F64).requires_grad_() for t in (x, weight, dense)]
    exact, expected = results(F.linear_cross_entropy, wide, {})
    torch.testing.assert_close(loss.to(F64), exact, rtol=1e-6, atol=0)
    assert [g.dtype for g in gradients] == [dtype] * 3
    found = *gradients[:2], gradients[2].to_dense()
    expected = *expected[:2], expected[2] * (dense != 0)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.to(F64), theirs, rtol=4 * torch.finfo(dtype).eps,
                                   atol=1e-6)


def test_duplicates_add_up(gen):
    x, weight, _ = problem(gen, 2)
    index = torch.tensor([[1, 0, 1, 0], [3, 2, 3, 0]])
    values = torch.tensor([0.25, 0.5, 0.75, 0.0], dtype=F64)
    target = torch.sparse_coo_tensor(index, values, (2, C)).requires_grad_()
    loss = linear_cross_entropy(x, weight, target)
    torch.testing.assert_close(loss, F.linear_cross_entropy(x, weight, target.to_dense()))
    loss.backward()
    log_prob = (x @ weight.T).log_softmax(1).detach()
    expected = torch.stack([-log_prob[0, 0], -log_prob[0, 2], -log_prob[1, 3]]) / 2
    torch.testing.assert_close(target.grad.coalesce().values(), expected)


def test_top_k_of_a_teacher(gen):
    """As one makes them: the best classes of each row and their probabilities."""
    x, weight, dense = problem(gen, 2, 3)
    best = dense.softmax(-1).topk(2)
    rows = torch.arange(6).repeat_interleave(2)
    index = torch.stack([rows // 3, rows % 3, best.indices.reshape(-1)])
    target = torch.sparse_coo_tensor(index, best.values.reshape(-1), dense.shape)
    loss = linear_cross_entropy(x, weight, target, shift=1)
    log_prob = (x @ weight.T).log_softmax(-1)
    expected = -(log_prob[:, :-1].gather(-1, best.indices[:, 1:]) * best.values[:, 1:])
    torch.testing.assert_close(loss, expected.sum(-1).mean())


def test_small_indices(gen):
    """MKL's 32 bits."""
    x, weight, dense = problem(gen, 6)
    csr = sparse(dense, torch.sparse_csr)
    narrow = torch.sparse_csr_tensor(csr.crow_indices().int(), csr.col_indices().int(),
                                     csr.values(), csr.shape)
    assert linear_cross_entropy(x, weight, narrow) == linear_cross_entropy(x, weight, csr)


@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.get)
def test_twice_and_for_the_target_alone(gen, monkeypatch, layout):
    """In blocks of two rows."""
    monkeypatch.setattr(_arrays, "WORKSPACE_BYTES", 2 * C * 16)
    x, weight, dense = problem(gen, 5)
    target = sparse(dense, layout).requires_grad_()
    loss = linear_cross_entropy(x.detach(), weight.detach(), target)
    first = torch.autograd.grad(loss, target, retain_graph=True)[0].to_dense()
    again = torch.autograd.grad(loss, target)[0].to_dense()
    assert torch.equal(first, again)
    torch.testing.assert_close(first, -(x @ weight.T).log_softmax(1).detach() * (dense != 0) / 5)


@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.get)
def test_second_derivatives_are_refused(gen, layout):
    x, weight, dense = problem(gen, 5)
    loss = linear_cross_entropy(x, weight, sparse(dense, layout).requires_grad_())
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.sum().backward()


@pytest.mark.compiled_only
@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.get)
@pytest.mark.parametrize("held", [False, True])
def test_memory(gen, layout, held):
    """No row is made dense."""
    m, n = 500, 20_000
    x, weight = torch.randn(m, 4, generator=gen), torch.randn(n, 4, generator=gen)
    weight.requires_grad_(held)
    index = torch.stack([torch.arange(m).repeat_interleave(8),
                         torch.randint(n, (8 * m,), generator=gen)])
    target = torch.sparse_coo_tensor(index, torch.rand(8 * m, generator=gen), (m, n))
    target = target.coalesce().to_sparse(layout=layout)
    args = x, weight, target

    def both():
        linear_cross_entropy(*args, return_scores=True)[0].sum()

    both()
    labels = torch.zeros(m, dtype=int)
    least = peak(lambda: linear_cross_entropy(x, weight, labels, return_scores=True))
    assert peak(both) < least + 2e6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
@pytest.mark.parametrize("layout", LAYOUTS, ids=LAYOUTS.get)
def test_compilers_leave_it_to_the_eager_call(gen, layout):
    torch._dynamo.reset()
    x, weight, dense = problem(gen, 6)
    target = sparse(dense, layout).requires_grad_()

    def loss(x, weight, target):
        return linear_cross_entropy(x.tanh(), weight, target)

    compiled = torch.compile(loss, backend="aot_eager")
    ours, theirs = (results(f, (x, weight, target), {}) for f in (compiled, loss))
    assert torch.equal(ours[0], theirs[0])
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a.to_dense(), b.to_dense())
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="sparse"):
        torch.compile(loss, backend="aot_eager", fullgraph=True)(x, weight, target)


def test_module(gen):
    x, _, dense = problem(gen, 6)
    module = LinearCrossEntropyLoss(K, C, dtype=F64)
    torch.testing.assert_close(module(x, sparse(dense, torch.sparse_csr)), module(x, dense))


def csr(start, classes, values, shape=(2, C)):
    return torch.sparse_csr_tensor(torch.tensor(start), torch.tensor(classes),
                                   torch.tensor(values, dtype=F64), shape, check_invariants=False)


ERRORS = [
    (TypeError, "dense, sparse COO or sparse CSR, got layout torch.sparse_csc",
     lambda t: t.to_sparse_csc()),
    (TypeError, "dense, sparse COO or sparse CSR, got layout torch.sparse_bsr",
     lambda t: t[:, :4].to_sparse_bsr((1, 2))),
    (ValueError, r"must have shape \(2,\) for .* or \(2, 5\) .* got \(2, 4\)",
     lambda t: t[:, :4].to_sparse()),
    (ValueError, r"must be dense, unless .* got layout torch.sparse_coo of shape \(2,\)",
     lambda t: torch.tensor([0, 1]).to_sparse()),
    (TypeError, "must be class probabilities of one of .* got torch.int64",
     lambda t: t.long().to_sparse()),
    (ValueError, "must have no dense or batch axes .* torch.sparse_coo", lambda t: t.to_sparse(1)),
    (ValueError, "must be finite .* got -1.0 in row 0, class 0", lambda t: -t.to_sparse()),
    (ValueError, "must ascend in each row", lambda t: csr([0, 2, 2], [3, 1], [0.5, 0.5])),
    (ValueError, "must ascend in each row", lambda t: csr([0, 2, 2], [1, 1], [0.5, 0.5])),
    (IndexError, r"in columns \[0, 5\), got 5 in row 1", lambda t: csr([0, 0, 1], [5], [1.0])),
    (IndexError, r"in columns \[0, 5\), got -1 in row 0", lambda t: csr([0, 1, 1], [-1], [1.0])),
    (ValueError, "must not fall", lambda t: csr([0, 2, 1], [1, 2], [0.5, 0.5])),
    (ValueError, "must have the 3 entries", lambda t: csr([0, 2, 3], [1, 2], [0.5, 0.5])),
]


@pytest.mark.parametrize(("error", "message", "change"), ERRORS, ids=[e[1][:40] for e in ERRORS])
def test_errors(gen, error, message, change):
    x, weight, _ = problem(gen, 2)
    with pytest.raises(error, match=message):
        linear_cross_entropy(x, weight, change(torch.ones(2, C, dtype=F64)))


def test_what_does_not_go_together(gen):
    x, weight, dense = problem(gen, 2)
    target = dense.to_sparse()
    with pytest.raises(ValueError, match="`ignore_index` must be None"):
        linear_cross_entropy(x, weight, target, ignore_index=0)
    with pytest.raises(ValueError, match="must be dense, unless"):
        linear_cross_entropy(x, weight[:, None].detach(), dense[..., None].to_sparse())
