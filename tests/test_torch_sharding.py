"""The loss for PyTorch on parameters that are sharded: in pieces, or freed between their uses."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", minversion="2.13")

from support.torch_cases import C, case  # noqa: E402

from logitless.torch import linear_cross_entropy  # noqa: E402

GLOO = torch.distributed.is_available() and torch.distributed.is_gloo_available()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_storages_stay_resizable(dtype, soft, reduction):
    """Those of all that goes in, after the loss as after its gradients."""
    gen = torch.Generator().manual_seed(0)
    args, options = case(gen, soft=soft, dtype=dtype, reduction=reduction, linear_bias=True,
                         weight=True)
    given = (*args, options["linear_bias"], options["weight"])
    factor = torch.ones((6,) if reduction == "none" else (), dtype=dtype)
    if soft:
        args[2].requires_grad_()
    linear_cross_entropy(*args, **options).backward(factor)
    for tensor in (*given, factor):
        tensor.untyped_storage().resize_(0)


def test_gradients_outlive_what_they_were_found_from():
    gen = torch.Generator().manual_seed(0)
    args, _ = case(gen)
    loss = linear_cross_entropy(*args)
    found = torch.autograd.grad(loss, args[:2], retain_graph=True)
    again = torch.autograd.grad(loss, args[:2])
    for tensor in (*args[:2], args[2]):
        tensor.data.untyped_storage().resize_(0)
    for a, b in zip(found, again, strict=True):
        torch.testing.assert_close(a, b)
        assert a.isfinite().all()


# A process ends as soon as it has said so: threads of the process group may outlive it, and at the
# interpreter's exit they sometimes abort the process, whoever computed the loss.
TRAIN = """
import os
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from logitless.torch import LinearCrossEntropyLoss, linear_cross_entropy

rank, world, store, reduction = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)


class Model(torch.nn.Module):
    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(8, 8)
        self.head = make(8, 20, bias=True, reduction=reduction)

    def forward(self, x, target):
        return self.head(torch.tanh(self.layer(x)), target).sum()


def curve(make):
    model = Model(make)
    for module in (model.layer, model.head, model):
        fully_shard(module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(5):
        x = torch.randn(16, 8, generator=generator)
        target = torch.randint(20, (16,), generator=generator)
        optimizer.zero_grad()
        loss = model(x, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses), model


ours, model = curve(LinearCrossEntropyLoss)
torch.testing.assert_close(ours, curve(torch.nn.LinearCrossEntropyLoss)[0])
assert ours.unique().numel() == 5

weight, x, target = model.head.linear.weight, torch.randn(2, 8), torch.tensor([3, 4])
try:
    linear_cross_entropy(x, weight, target)
except TypeError as error:
    assert "`linear_weight` must be a tensor in one piece, got a DTensor" in str(error), error
    assert "`linear_weight.full_tensor()`" in str(error), error
else:
    raise AssertionError("a DTensor was taken")
linear_cross_entropy(x, weight.full_tensor(), target).backward()
assert weight.grad.full_tensor().any()
dist.destroy_process_group()
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLOO, reason="needs torch.distributed with gloo")
@pytest.mark.parametrize(("world", "reduction"), [(1, "none"), (2, "mean")])
def test_fully_sharded_training(tmp_path, world, reduction):
    """The curve of the loss is that of PyTorch's own; a DTensor is refused by name."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(rank), str(world), str(tmp_path / "store"),
             reduction],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, output in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, output
        assert output.strip().endswith("done")


def test_distributed_tensors_are_refused():
    tensor = torch.zeros(2, 3)

    class Sharded(torch.Tensor):
        def full_tensor(self):
            return tensor

    for name in ("input", "linear_weight"):
        args = {"input": tensor, "linear_weight": torch.zeros(C, 3),
                "target": torch.zeros(2, dtype=torch.int64)}
        args[name] = args[name].as_subclass(Sharded)
        with pytest.raises(TypeError, match=rf"`{name}` must be a tensor in one piece"):
            linear_cross_entropy(**args)
