"""The module for PyTorch is one of PyTorch's own; wrong arguments of it and of the function."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", minversion="2.13")

from support.torch_cases import F64, PLACES, C, K, calls, case  # noqa: E402

from logitless.torch import LinearCrossEntropyLoss, linear_cross_entropy  # noqa: E402


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
    options = {"softcap": 2.0, "temperature": 0.5, "z_loss": 0.1, "entropy_weight": 0.3}
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
    (ValueError, "`entropy_weight` must be finite, got inf",
     changed(entropy_weight=lambda t: float("inf"))),
    (TypeError, "`entropy_weight` must be a number", changed(entropy_weight=lambda t: "1")),
    (ValueError, r"`temperature` must have shape \(6,\), got \(5,\)",
     changed(temperature=lambda t: torch.ones(5))),
    (ValueError, "`temperature` of row 2 must be within .* got 0.0",
     changed(temperature=lambda t: torch.tensor([1.0, 1, 0, 1, 1, 1]))),
    (TypeError, "`temperature` must be of one of .* got torch.int64",
     changed(temperature=lambda t: torch.ones(6, dtype=int))),
    (TypeError, "`temperature` requires grad, but gets no gradient",
     changed(temperature=lambda t: torch.ones(6, requires_grad=True))),
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
