"""The loss for JAX: its values, its derivatives, the memory it works on, its errors."""

from __future__ import annotations

import numpy as np
import pytest

import logitless as ll

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

from jax import numpy as jnp  # noqa: E402

from logitless.jax import _call, linear_cross_entropy  # noqa: E402

NAMES = ("x", "weight", "bias")


class Problem:
    """Rows (2, 3, 5) against 7 classes."""

    def __init__(self, dtype="float32"):
        rng = np.random.default_rng(20240229)
        self.x, self.weight, self.bias = (
            jnp.asarray(rng.standard_normal(shape), dtype)
            for shape in ((2, 3, 5), (7, 5), (7,)))
        self.target = jnp.asarray(rng.integers(0, 7, (2, 3)))
        self.soft = jnp.asarray(rng.dirichlet(np.ones(7), (2, 3)), dtype)
        self.class_weight = jnp.asarray(rng.random(7), dtype)
        self.sample_weight = jnp.asarray(rng.random((2, 3)), dtype)
        self.temperatures = jnp.asarray(rng.uniform(0.5, 2, (2, 3)), dtype)
        self.primals = self.x, self.weight, self.bias

    def loss(self, **options):
        """A function of what can be differentiated by."""
        target = options.pop("target", self.target)
        return lambda x, w, b: linear_cross_entropy(x, w, target, b, **options)


@pytest.fixture(scope="module")
def p():
    return Problem()


@pytest.fixture(params=["eager", "jit"])
def jit(request):
    return jax.jit if request.param == "jit" else lambda function: function


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)


def gradients(function, p):
    return dict(zip(NAMES, jax.grad(function, (0, 1, 2))(*p.primals), strict=True))


# Values and derivatives


def test_a_row_by_hand(jit):
    loss = jit(linear_cross_entropy)(jnp.array([1.0, 2.0, 3.0]), jnp.eye(3), jnp.array(2))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, -np.log(np.exp(3) / np.exp([1, 2, 3]).sum()), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batch_mean"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_loss_and_gradients_are_those_of_optax(p, jit, reduction, soft):
    theirs_of = (optax.softmax_cross_entropy if soft
                 else optax.softmax_cross_entropy_with_integer_labels)
    target = p.soft if soft else p.target
    factor = jnp.arange(1.0, 7.0).reshape(2, 3)
    of_rows = {"none": lambda rows: rows, "sum": jnp.sum}.get(reduction, jnp.mean)

    def theirs(x, w, b):
        return of_rows(theirs_of(x @ w.T + b, target))

    ours = jit(p.loss(reduction=reduction, target=target))
    close(ours(*p.primals), theirs(*p.primals))
    one = (lambda loss: (factor * loss).sum()) if reduction == "none" else (lambda loss: 3 * loss)
    found = gradients(lambda *a: one(ours(*a)), p)
    for name, expected in gradients(lambda *a: one(theirs(*a)), p).items():
        close(found[name], expected)


OPTIONS = {
    "ignore_index": 3, "class_weight": ..., "sample_weight": ..., "label_smoothing": 0.1,
    "z_loss": 0.01, "entropy_weight": -0.1, "shift": 1, "softcap": 2.0, "temperature": 0.7,
    "temperatures": ..., "filter_eps": 0.2, "n_threads": 1,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", OPTIONS)
def test_bits_are_those_of_numpy(name, dtype):
    """Of the loss, and of gradients before they are rounded."""
    p = Problem(dtype)
    value = getattr(p, name) if OPTIONS[name] is ... else OPTIONS[name]
    options = {"temperature" if name == "temperatures" else name: value}
    arrays = *map(np.asarray, (p.x, p.weight, p.target)), np.asarray(p.bias)
    plain = {key: np.asarray(o) if hasattr(o, "shape") else o for key, o in options.items()}
    loss, grad = ll.linear_cross_entropy_value_and_grad(*arrays, **plain)
    ours, found = jax.value_and_grad(p.loss(**options), (0, 1, 2))(*p.primals)
    assert ours.dtype == jnp.float32
    assert float(ours) == float(loss)
    for of, got in zip(NAMES, found, strict=True):
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, getattr(grad, of).astype(got.dtype))
    plain.pop("filter_eps", None)
    rows = linear_cross_entropy(p.x, p.weight, p.target, p.bias, reduction="none", **options)
    np.testing.assert_array_equal(rows, ll.linear_cross_entropy(*arrays, **plain))


def test_mixed_precisions(p):
    loss, grad = jax.value_and_grad(linear_cross_entropy, (0, 1))(
        p.x, p.weight.astype("bfloat16"), p.target)
    assert loss.dtype == grad[0].dtype == jnp.float32
    assert grad[1].dtype == jnp.bfloat16


CHECK_GRADS = """
import jax, numpy as np
from jax import numpy as jnp
from jax.test_util import check_grads
from logitless.jax import linear_cross_entropy
rng = np.random.default_rng(0)
x, weight, bias = (jnp.asarray(rng.standard_normal(s)) for s in ((4, 3), (5, 3), (5,)))
target, soft = jnp.array([0, 4, 2, 2]), jnp.asarray(rng.dirichlet(np.ones(5), 4))
assert linear_cross_entropy(x, weight, target).dtype == jnp.float64
cases = [{"reduction": r} for r in ("none", "sum", "mean", "batch_mean")]
cases += [{"softcap": 2.0, "temperature": 0.7, "z_loss": 0.1, "label_smoothing": 0.2},
          {"ignore_index": 2, "class_weight": jnp.arange(1.0, 6.0)},
          {"shift": 1, "sample_weight": jnp.arange(4.0)}]
for options in cases:
    for labels in (target, soft)[: 1 if "ignore_index" in options else 2]:
        check_grads(lambda *a: linear_cross_entropy(*a[:2], labels, a[2], **options),
                    (x, weight, bias), order=1, modes=["rev"], eps=1e-6, atol=1e-8, rtol=1e-7)
print("checked")
"""


@pytest.mark.slow
def test_gradients_by_differences_in_float64(run_python):
    assert run_python(CHECK_GRADS, JAX_ENABLE_X64="1") == "checked\n"


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_vmap(p, reduction):
    """Over rows and targets, and over heads; and derivatives of it."""
    def rows(x, t):
        return linear_cross_entropy(x, p.weight, t, p.bias, reduction=reduction)

    expected = jnp.stack([rows(*pair) for pair in zip(p.x, p.target, strict=True)])
    np.testing.assert_array_equal(jax.vmap(rows)(p.x, p.target), expected)
    heads = jnp.stack([p.weight, -p.weight])
    np.testing.assert_array_equal(
        jax.vmap(linear_cross_entropy, (None, 0, None))(p.x, heads, p.target),
        jnp.stack([linear_cross_entropy(p.x, w, p.target) for w in heads]))

    def total(x, w, b):
        return (jax.vmap(lambda x, t: linear_cross_entropy(x, w, t, b, reduction=reduction))(
            x, p.target)).sum()

    found = gradients(total, p)
    expected = gradients(p.loss(reduction="sum"), p)
    for name in NAMES:
        close(found[name], expected[name] / (1 if reduction == "none" else 3))


@pytest.mark.slow
def test_within_other_transformations(p):
    def scanned(w):
        return jax.lax.scan(lambda carry, pair: (
            carry + linear_cross_entropy(pair[0], w, pair[1], reduction="sum"), None),
            0.0, (p.x, p.target))[0]

    whole = jax.grad(lambda w: linear_cross_entropy(p.x, w, p.target, reduction="sum"))(p.weight)
    close(jax.grad(scanned)(p.weight), whole)
    kept = jax.checkpoint(lambda w: linear_cross_entropy(p.x, w, p.target, reduction="sum"))
    close(jax.jit(jax.grad(kept))(p.weight), whole)


def test_mean_of_no_rows_is_nan(p):
    with pytest.warns(RuntimeWarning, match="mean of no rows that count is NaN"):
        loss = linear_cross_entropy(p.x, p.weight, p.target * 0 - 100).block_until_ready()
    assert np.isnan(loss)


# How it is computed


@pytest.fixture
def calls(monkeypatch):
    """Arguments of the functions that programs call."""
    seen = []

    class Noted:
        def __getattr__(self, name):
            def noted(**arguments):
                seen.append(arguments)
                return getattr(ll, name)(**arguments)

            return noted

    monkeypatch.setattr(_call, "functional", Noted())
    return seen


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("wrt", [(0,), (1,), (0, 1, 2)], ids=str)
def test_one_pass_finds_what_is_asked_for(p, calls, reduction, wrt):
    """With "none" it takes another one, once the factors are known."""
    jax.block_until_ready(jax.grad(lambda *a: p.loss(reduction=reduction)(*a).sum(), wrt)(
        *p.primals))
    names = {NAMES[i] for i in wrt}
    assert [set(call.get("wrt", ())) for call in calls] == (
        [names] if reduction == "mean" else [set(), names])


def test_programs_give_their_own_memory(calls):
    """Arrays are read where JAX holds them, and gradients written where it gets them from."""
    x, weight = jnp.ones((64, 16)), jnp.ones((128, 16))
    step = jax.jit(jax.value_and_grad(linear_cross_entropy, (0, 1)))
    _, (by_x, by_weight) = jax.block_until_ready(step(x, weight, jnp.zeros(64, int)))
    (seen,) = calls
    out = seen["out"]
    for array, held in ((seen["x"], x), (seen["weight"], weight), (out.x, by_x),
                        (out.weight, by_weight)):
        assert array.ctypes.data == held.unsafe_buffer_pointer()


LARGE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
import jax, numpy as np
from jax import numpy as jnp
from logitless.jax import linear_cross_entropy
devices = jax.devices()
x, weight = jnp.ones((64, 128)), jnp.zeros((50_000, 128))  # 25 MB
if len(devices) > 1:
    mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
    spec = jax.sharding.PartitionSpec("rows")
    x = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
step = jax.jit(jax.value_and_grad(lambda x, w, t: linear_cross_entropy(2 * x, w + w, t), (0, 1)))
for _ in range(3):
    loss, (by_x, by_weight) = step(x, weight, jnp.zeros(64, int))
    weight = weight - by_weight
np.testing.assert_allclose(loss, linear_cross_entropy(
    2 * jnp.ones((64, 128)), 2 * (weight + by_weight), jnp.zeros(64, int)), rtol=1e-6)
print(len(devices))
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_large_arrays_and_a_single_processor_end(run_python, devices):
    """Nothing waits for a thread that waits for it; sharded rows are gathered."""
    out = run_python(LARGE, XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}")
    assert out == f"{devices}\n"


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_gradients_in_shard_map(p, reduction):
    def loss(x, weight, target):
        return linear_cross_entropy(x, weight, target, reduction=reduction)

    rows = jax.P("rows")
    mapped = jax.shard_map(
        loss, mesh=jax.sharding.Mesh(jax.devices()[:1], ("rows",)), in_specs=(rows, jax.P(), rows),
        out_specs=rows if reduction == "none" else jax.P(), check_vma=False)
    ours, theirs = (jax.grad(lambda *args, f=f: f(*args, p.target).sum(), (0, 1))(p.x, p.weight)
                    for f in (mapped, loss))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


MEMORY = """
import pathlib, jax, numpy as np
from jax import numpy as jnp
from logitless.jax import linear_cross_entropy

def peak():
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    return [int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")][0]

m, k, n = 512, 64, 200_000
x, weight, target = jnp.ones((m, k)), jnp.ones((n, k)), jnp.zeros(m, int)
step = jax.jit(jax.value_and_grad(linear_cross_entropy, (0, 1)))
jax.block_until_ready(step(x[:2], weight[:4], target[:2]))
compiled = step.lower(x, weight, target).compile()
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
found = jax.block_until_ready(compiled(x, weight, target))
print(peak() - before - weight.nbytes)
"""


@pytest.mark.slow
def test_memory_of_a_step(run_python):
    """Logits would take 390 MiB, another copy of the weights or their gradient 49."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pytest.skip("the system does not start its peak again")
    assert int(run_python(MEMORY, LOGITLESS_NUM_THREADS="1")) < 80 << 20


# Errors


@pytest.mark.parametrize(("change", "error", "match"), [
    ({"weight": jnp.ones((7, 4))}, ValueError, r"`weight.shape\[1\]` must equal `x.shape\[-1\]`"),
    ({"weight": jnp.ones(5)}, ValueError, r"`weight` must have shape \(n_classes, n_features\)"),
    ({"bias": jnp.ones(3)}, ValueError, r"`bias` must have shape .* \(7,\), got \(3,\)"),
    ({"x": jnp.ones(())}, ValueError, r"`x` must have shape \(..., 5\), got a scalar"),
    ({"x": jnp.ones((2, 3, 5), int)}, TypeError, r"`x` must be of one of .*float16.*, got int32"),
    ({"target": jnp.ones(3, int)}, ValueError,
     r"`target` of class indices must have shape \(2, 3\), got \(3,\)"),
    ({"target": jnp.ones((2, 3, 6))}, ValueError,
     r"`target` of class probabilities must have shape \(2, 3, 7\), got \(2, 3, 6\)"),
    ({"target": jnp.ones((2, 3))}, TypeError, "must be integer class indices, got float32"),
    ({"target": jnp.ones((2, 3), bool)}, TypeError, "`target` must .* integer dtype, got bool"),
    ({"target": jnp.ones((2, 3, 7)), "ignore_index": 3}, ValueError, "`ignore_index` must be left"),
    ({"class_weight": jnp.ones(6)}, ValueError, r"`class_weight` must have shape \(7,\)"),
    ({"sample_weight": jnp.ones(6)}, ValueError, r"`sample_weight` must have shape \(2, 3\)"),
    ({"temperature": jnp.ones(6)}, ValueError, r"`temperature` must have shape \(2, 3\)"),
    ({"entropy_weight": np.inf}, ValueError, "`entropy_weight` must be"),
    ({"shift": 4}, ValueError, "`shift` must be at most the length"),
    ({"shift": 1.5}, TypeError, "`shift` must be an integer, got float"),
    ({"reduction": "avg"}, ValueError, "`reduction` must be one of .*, got 'avg'"),
    ({"softcap": 0.0}, ValueError, "`softcap` must be positive"),
    ({"temperature": -1}, ValueError, "`temperature` must be positive"),
    ({"label_smoothing": 2}, ValueError, "`label_smoothing` must be between 0 and 1"),
    ({"z_loss": -1}, ValueError, "`z_loss` must be at least 0"),
    ({"z_loss": "1"}, TypeError, "`z_loss` must be a number, got str"),
    ({"filter_eps": 1}, ValueError, r"`filter_eps` must be in \[0, 1\)"),
    ({"n_threads": 0}, ValueError, "`n_threads` must be at least 1"),
    ({"ignore_index": 0.5}, TypeError, "`ignore_index` must be an integer"),
])
def test_errors_of_shapes_and_options_come_while_tracing(p, change, error, match):
    given = {"x": p.x, "weight": p.weight, "target": p.target, "bias": p.bias} | change
    arrays = {name: given.pop(name) for name in list(given) if hasattr(given[name], "shape")}
    with pytest.raises(error, match=match):
        jax.eval_shape(lambda arrays: linear_cross_entropy(**arrays, **given), arrays)


def test_options_are_static(p):
    with pytest.raises(TypeError, match=r"`temperature` must be a number, got .*Tracer"):
        jax.jit(lambda t: linear_cross_entropy(p.x, p.weight, p.target, temperature=t))(0.7)


@pytest.mark.parametrize(("change", "says"), [
    ({"target": 7}, "OUT_OF_RANGE: IndexError: `target` must hold classes in [0, 7) or "
                    "ignore_index (-100), got 7 in row (1, 2)"),
    ({"soft": -0.5}, "INVALID_ARGUMENT: ValueError: `target` entries must be finite (in float32) "
                     "and >= 0, got -0.5 in row 5, class 6"),
    ({"class_weight": np.inf}, "INVALID_ARGUMENT: ValueError: `class_weight` must be finite"),
    ({"sample_weight": np.nan}, "INVALID_ARGUMENT: ValueError: `sample_weight` must be finite"),
    ({"temperatures": 0.0}, "INVALID_ARGUMENT: ValueError: `temperature` of row 5 must be"),
], ids=str)
def test_errors_of_contents_come_with_the_result(p, jit, change, says):
    """And the next call is a good one."""
    ((name, value),) = change.items()
    bad = getattr(p, name)
    bad = bad.at[(-1,) * bad.ndim].set(value)
    options = {{"soft": "target", "temperatures": "temperature"}.get(name, name): bad}
    # What JAX makes of it, sooner or later, depends on where the program runs.
    with pytest.raises((RuntimeError, IndexError, ValueError)) as raised:
        jax.block_until_ready(jit(p.loss(**options))(*p.primals))
    assert says in str(raised.value)
    assert np.isfinite(jit(p.loss())(*p.primals))


@pytest.mark.parametrize("name", ["target", "class_weight", "sample_weight", "temperature"])
def test_what_gets_no_gradient_is_named(p, name):
    value = getattr(p, {"target": "soft", "temperature": "temperatures"}.get(name, name))
    given = {"x": p.x, "weight": p.weight, "target": p.target}
    with pytest.raises(TypeError, match=f"`{name}` gets no gradient .*stop_gradient"):
        jax.grad(lambda v: linear_cross_entropy(**given | {name: v}))(value)
    jax.grad(lambda v: linear_cross_entropy(**given | {name: jax.lax.stop_gradient(v)}))(value)


def test_there_is_no_second_derivative(p):
    with pytest.raises(NotImplementedError, match="has no second derivative"):
        jax.hessian(lambda x: linear_cross_entropy(x, p.weight, p.target))(p.x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: linear_cross_entropy(x, p.weight, p.target), (p.x,), (p.x,))


def test_without_jax(run_python):
    done = run_python("import sys; sys.modules['jax'] = None; import logitless.jax", check=False)
    assert done.stderr.strip().endswith(
        'ImportError: logitless.jax needs jax: pip install "logitless[jax]"')
