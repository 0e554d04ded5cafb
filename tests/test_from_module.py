"""Heads of other libraries' linear layers, as they are."""

from types import SimpleNamespace

import numpy as np
import pytest

import logitless as ll

torch = pytest.importorskip("torch")


@pytest.fixture
def x(rng):
    return rng.standard_normal((5, 12), np.float32)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_linear_layers_of_torch(x, gen, dtype, bias, pack):
    linear = torch.nn.Linear(12, 30, bias=bias).to(getattr(torch, dtype))
    assert linear.weight.requires_grad
    weight, *offset = (p.detach().double().numpy() for p in linear.parameters())
    head = ll.LinearHead.from_module(linear, pack=pack, temperature=2.0)
    want = (x.astype("f8") @ weight.T + (offset[0] if bias else 0)) / 2
    np.testing.assert_allclose(head.logits(x), want, rtol=1e-5, atol=1e-6)
    assert linear.weight.requires_grad  # as it was


def test_an_unpacked_head_sees_what_an_optimiser_does(x):
    linear = torch.nn.Linear(12, 30)
    head = ll.LinearHead.from_module(linear, pack=False)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(torch.arange(30.0))
    np.testing.assert_array_equal(head.logits(x[0]), np.arange(30))


def test_a_shared_embedding(x):
    table = torch.nn.Embedding(30, 12)
    head = ll.LinearHead.from_module(table)
    np.testing.assert_array_equal(head.predict(x), ll.LinearHead(table.weight.detach()).predict(x))


@pytest.mark.parametrize("module", [
    SimpleNamespace(weight=np.eye(3, 12)),
    SimpleNamespace(weight=np.eye(3, 12).tolist(), bias=None)])
def test_anything_with_a_weight(x, module):
    np.testing.assert_array_equal(ll.LinearHead.from_module(module).logits(x), x[:, :3])


class Quantised:
    def weight(self):
        """As torch.ao.nn.quantized.Linear has it."""


@pytest.mark.parametrize(("module", "error", "message"), [
    (np.eye(3), TypeError, "`linear` must have a `weight` .*, got ndarray, which has none"),
    (torch.nn.ReLU(), TypeError, "got ReLU, which has none"),
    (torch.nn.Linear(3, 4, device="meta"), ValueError, "`weight` .*cannot be read as an array"),
    (Quantised(), TypeError, "got Quantised, which has none"),
    (SimpleNamespace(weight=torch.ones(3, 4, dtype=torch.int8)), TypeError,
     r"floating point numbers, got SimpleNamespace with torch.int8; dequantise it first"),
    (torch.nn.Linear(3, 4).to(torch.float8_e5m2), TypeError, "`weight` .*cannot be read"),
    (torch.nn.LayerNorm(3), ValueError, r"`weight` must have shape .*, got shape \(3,\)"),
    (SimpleNamespace(weight=np.eye(3), bias=np.ones(4)), ValueError, r"`bias` must have shape"),
])
def test_what_is_no_linear_layer(module, error, message):
    with pytest.raises(error, match=message):
        ll.LinearHead.from_module(module)


def test_torch_is_not_imported(run_python):
    code = ("import sys, types, numpy as np, logitless as ll\n"
            "ll.LinearHead.from_module(types.SimpleNamespace(weight=np.eye(3), bias=None))\n"
            "print('torch' in sys.modules)")
    assert run_python(code) == "False\n"
