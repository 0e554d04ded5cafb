"""The loss for PyTorch on tensors of any leading shape, of many kinds and in many surroundings."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", minversion="2.13")
F = torch.nn.functional

from support.oracle import says  # noqa: E402
from support.torch_cases import F64, OPTIONS, C, K, assert_same, case, results  # noqa: E402
from torch.testing._internal.two_tensor import TwoTensor  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import logitless as ll  # noqa: E402
from logitless._arrays import rows as row_arrays  # noqa: E402
from logitless.torch import LinearCrossEntropyLoss, linear_cross_entropy  # noqa: E402

# Leading shapes


@given(lead=st.lists(st.integers(1, 3), max_size=3), form=st.sampled_from(["rows", "1-d", "2-d"]),
       soft=st.booleans(), reduction=st.sampled_from(["mean", "sum", "none"]),
       options=st.sampled_from(sorted(OPTIONS)), permuted=st.booleans())
def test_leading_shapes(lead, form, soft, reduction, options, permuted):
    """The loss of the rows one after the other, with their shape where it is not reduced."""
    if not lead and form != "rows":
        lead = [2]
    gen = torch.Generator().manual_seed(0)
    rows = torch.Size(lead).numel()
    args, kwargs = case(gen, form, soft, m=rows, reduction=reduction, **OPTIONS[options])
    if soft:
        args[2].requires_grad_()

    def shaped(x, linear_weight, target, **kwargs):
        x, target = (t.reshape((*lead, *t.shape[1:])) for t in (x, target))
        if permuted and len(lead) > 1:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        loss = linear_cross_entropy(x, linear_weight, target, **kwargs)
        if reduction != "none":
            assert loss.shape == ()
            return loss
        places = linear_weight.shape[1:-1]
        assert loss.shape == (*lead, *places)
        return loss.reshape(rows, *places)

    factor = torch.randn(F.linear_cross_entropy(*args, **kwargs).shape, dtype=F64, generator=gen)
    assert_same(results(shaped, args, kwargs, factor),
                results(F.linear_cross_entropy, args, kwargs, factor), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("soft", [False, True])
def test_leading_axes_are_read_where_they_are(gen, monkeypatch, soft):
    """Of axes that cannot be one, a block at a time is copied."""
    x = torch.randn(40, 30, K, generator=gen).transpose(0, 1).requires_grad_()
    weight = torch.randn(C, K, generator=gen, requires_grad=True)
    target = torch.rand(30, 40, C, generator=gen) if soft else torch.zeros(30, 40, dtype=int)
    monkeypatch.setattr(row_arrays, "_BLOCK_BYTES", 64 * K * 4)
    sizes, getitem = [], row_arrays.Rows.__getitem__

    def spy(rows, block):
        part = getitem(rows, block)
        if rows.n == K:
            sizes.append(len(part))
        return part

    monkeypatch.setattr(row_arrays.Rows, "__getitem__", spy)
    loss = linear_cross_entropy(x.detach(), weight.detach(), target)
    assert max(sizes) <= 64
    assert sum(sizes) == 1200
    flat = x.detach().flatten(0, 1), weight.detach(), target.flatten(0, 1)
    torch.testing.assert_close(loss, F.linear_cross_entropy(*flat))


def test_leading_shape_without_rows(gen):
    args, kwargs = case(gen, reduction="none")
    x, weight, _ = args
    loss = linear_cross_entropy(x[None, :0], weight, torch.zeros(1, 0, dtype=int), **kwargs)
    assert loss.shape == (1, 0)
    assert not torch.autograd.grad(loss.sum(), weight)[0].any()


@pytest.mark.parametrize("shape", [(6,), (2, 3, 1), (3, 2), (2, 3, C + 1)])
def test_targets_that_do_not_fit(gen, shape):
    args, _ = case(gen)
    x = args[0].reshape(2, 3, K)
    with pytest.raises(ValueError, match=r"must have shape \(2, 3\) for .* or \(2, 3, 5\)"):
        linear_cross_entropy(x, args[1], torch.zeros(shape, dtype=int))


# Kinds of tensors


class Tagged(torch.Tensor):
    pass


KINDS = {
    "parameter": torch.nn.Parameter,
    "buffer": torch.nn.Buffer,
    "subclass": lambda t: t.as_subclass(Tagged),
    "expanded": lambda t: t[:1].expand(t.shape),
    "imaginary": lambda t: torch.complex(t, -t).conj().imag,
    "inference": lambda t: _inference(t),
}


def _inference(t):
    with torch.inference_mode():
        return t.clone()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("soft", [False, True])
def test_kinds_of_tensors(gen, kind, soft):
    args, _ = case(gen, soft=soft)
    made = [KINDS[kind](t.detach()) for t in (args if soft else args[:2])] + [args[2]] * (not soft)
    plain = [t.detach().clone() for t in made]
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(*made).as_subclass(torch.Tensor),
                                   F.linear_cross_entropy(*plain))


def test_subclasses_that_dispatch(gen):
    """They see the operator and do with it what they do with any."""
    (x, weight, target), _ = case(gen)
    weights = weight.detach(), -weight.detach()
    both = TwoTensor(*(w.clone() for w in weights)).requires_grad_()
    loss = linear_cross_entropy(x.detach(), both, target)
    assert type(loss) is TwoTensor
    loss.sum().backward()
    for part, gradient, weight in zip((loss.a, loss.b), (both.grad.a, both.grad.b), weights,
                                      strict=True):
        leaf = weight.clone().requires_grad_()
        expected = linear_cross_entropy(x.detach(), leaf, target)
        expected.backward()
        assert torch.equal(part, expected)
        assert torch.equal(gradient, leaf.grad)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize(("make", "message"), [
    (lambda t: t.to_sparse_csr(), "must be dense, got layout torch.sparse_csr"),
    (lambda t: torch.nested.nested_tensor([t]), "must be dense, got a nested tensor"),
    (lambda t: torch.nested.nested_tensor([t], layout=torch.jagged), "got a nested tensor"),
    (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8), "must be of one of .*quint8"),
    (lambda t: torch.complex(t, t), "must be of one of .*complex"),
    (lambda t: t.to("meta"), "must be on the CPU.*meta"),
])
def test_kinds_that_are_refused(gen, make, message):
    args, _ = case(gen, dtype=torch.float32)
    with pytest.raises(TypeError, match=message):
        linear_cross_entropy(make(args[0].detach()), *args[1:])


# Surroundings


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_default_device_has_no_say(gen, reduction, device):
    args, kwargs = case(gen, soft=True, reduction=reduction)
    args[2].requires_grad_()
    factor = torch.ones(() if reduction == "mean" else len(args[0]), dtype=F64)
    expected = results(linear_cross_entropy, args, kwargs, factor)
    with torch.device(device):
        assert_same(results(linear_cross_entropy, args, kwargs, factor), expected)


def test_deterministic_algorithms(gen):
    args, kwargs = case(gen, soft=True)
    args[2].requires_grad_()
    expected = results(linear_cross_entropy, args, kwargs)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(results(linear_cross_entropy, args, kwargs), expected, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_checkpoints(gen, reentrant, reduction):
    args, _ = case(gen)

    def loss(x, weight, target):
        return linear_cross_entropy(x.tanh(), weight, target, reduction=reduction).sum()

    _, expected = results(loss, args, {})
    checkpoint(loss, *args, use_reentrant=reentrant).backward()
    for leaf, gradient in zip(args, expected, strict=False):
        torch.testing.assert_close(leaf.grad, gradient)


def test_saved_tensors_may_be_stored_elsewhere(gen):
    args, kwargs = case(gen, reduction="none")
    factor = torch.ones(6, dtype=F64)
    expected = results(linear_cross_entropy, args, kwargs, factor)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        assert_same(results(linear_cross_entropy, args, kwargs, factor), expected)


def test_threads(gen):
    """One module, used by several threads at once, as `DataParallel` does."""
    torch.manual_seed(0)
    module = LinearCrossEntropyLoss(K, C, dtype=F64)
    batches = [case(gen)[0] for _ in range(8)]
    expected = [module(x, target) for x, _, target in batches]
    losses = [None] * len(batches)

    def work(i):
        x, _, target = batches[i]
        losses[i] = module(x, target)
        losses[i].backward()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses == expected
    (gradient,) = torch.autograd.grad(sum(expected), module.linear.weight)
    torch.testing.assert_close(module.linear.weight.grad, gradient)


def test_modules_are_copied_and_pickled(gen):
    (x, _, target), _ = case(gen)
    module = LinearCrossEntropyLoss(K, C, bias=True, dtype=F64, softcap=2.0,
                                    weight=torch.rand(C, dtype=F64, generator=gen))
    expected = module(x, target)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other(x, target) == expected


def test_a_loss_that_is_dropped_leaves_nothing(gen):
    """No cycle keeps the gradients that are held for a backward pass that never comes."""
    args, _ = case(gen)
    gc.collect()
    gc.disable()
    try:
        loss = linear_cross_entropy(*args)
        held = weakref.ref(loss.grad_fn.held["weight"])
        assert held() is not None
        del loss
        assert held() is None
    finally:
        gc.enable()


def test_gradients_share_no_memory(gen):
    """Not with each other, not with what went in, even where that is one tensor."""
    x = torch.randn(C, C, dtype=F64, generator=gen).requires_grad_()
    target = torch.arange(C)
    ours, theirs = (torch.autograd.grad(f(x, x, target), x)[0]
                    for f in (linear_cross_entropy, F.linear_cross_entropy))
    torch.testing.assert_close(ours, theirs)
    loss = linear_cross_entropy(x, x.clone(), target)
    gradient = torch.autograd.grad(loss, x)[0]
    before = x.detach().clone()
    gradient.fill_(7)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_that_has_been_freed_is_not_read(gen, dtype):
    """As that of parameters between the uses of those who shard them."""
    x, w = torch.randn(4, 8, generator=gen).to(dtype), torch.randn(5, 8, generator=gen).to(dtype)
    target = torch.tensor([0, 1, 2, 3])
    for name, tensor in (("input", x), ("linear_weight", w)):
        for left in (0, tensor.nbytes - 1):
            broken = tensor.clone()
            broken.untyped_storage().resize_(left)
            arguments = {"input": x, "linear_weight": w, "target": target} | {name: broken}
            with says(ValueError, "memory", tensor.nbytes, f"got {left}", "freed"):
                linear_cross_entropy(**arguments)
    part = torch.randn(9, 8, generator=gen).to(dtype)[5:]
    assert torch.isfinite(linear_cross_entropy(part, w, target))
    broken = w.clone()
    broken.untyped_storage().resize_(0)
    for make in (ll.LinearHead, lambda weight: ll.LinearHead(np.eye(8)).loss(weight, [0] * 5)):
        with says(ValueError, "memory", "freed"):
            make(broken)
