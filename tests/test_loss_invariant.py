"""What must not matter to the loss does not: neutral options, layouts, types, one-hot rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.layouts import LAYOUTS, as_layout
from support.losses import OPTIONS, losses, with_weights
from support.oracle import assert_same, assert_same_bits

import logitless as ll


@given(losses())
def test_neutral_options_change_no_bit(case):
    (x, w, bias), target, of_head, _ = case
    m, n, dtype = len(x), len(w), x.dtype
    ignored = {"ignore_index": 10**6} if target.ndim == 1 else {}
    head = ll.LinearHead(w, bias, **of_head)
    target = np.where(target < 0, 0, target) % n if target.ndim == 1 else target
    plain = head.loss(x, target, **ignored)
    for neutral in (
        {"class_weight": np.ones(n, dtype)},
        {"class_weight": np.ones(n, np.int8)},
        {"sample_weight": np.ones(m, dtype)},
        {"sample_weight": [1] * m},
        {"label_smoothing": 0.0, "z_loss": 0},
        {"class_weight": [1.0] * n, "sample_weight": np.ones(m), "label_smoothing": 0},
        {"shift": 0},
    ):
        assert_same_bits(head.loss(x, target, **ignored, **neutral), plain, str([*neutral]))
    twice = head.loss(x, target, sample_weight=np.full(m, 2.0), **ignored)
    assert_same_bits(twice, 2 * plain, "doubled")


@given(losses())
def test_one_hot_rows_are_indices(case):
    """Bit for bit, with all options and beside rows that are not one-hot."""
    (x, w, bias), _, of_head, options = case
    options.pop("ignore_index", None)
    m, n, dtype = len(x), len(w), x.dtype
    head = ll.LinearHead(w, bias, **of_head)
    index = np.arange(m) * 7 % n
    one_hot = np.eye(n, dtype=dtype)[index]
    loss = head.loss(x, index, **options)
    for kind in dtype, np.dtype(np.float16), np.dtype(np.float64):
        ours = head.loss(x, one_hot.astype(kind), **options)
        assert_same_bits(ours, loss, f"one-hot {kind}")
    mixed = one_hot.copy()
    mixed[1::3] = 0.75 / n
    ours, rows = head.loss(x, mixed, **options), np.arange(m) % 3 != 1
    assert_same_bits(ours[rows], loss[rows], "beside others")
    z = head.logits(x)
    assert_same_bits(
        ll.cross_entropy(z, one_hot, **options), ll.cross_entropy(z, index, **options), "logits"
    )
    a, b = head.score(x, one_hot, **options), head.score(x, index, **options)
    assert_same_bits(a.loss, b.loss, "score")
    assert_same_bits(a.target_rank, b.target_rank, "rank")


@given(losses(), st.sampled_from([*LAYOUTS, "lead"]))
def test_layouts(case, layout):
    (x, w, bias), target, of_head, options = case
    head = ll.LinearHead(w, bias, **of_head)
    plain = head.loss(x, target, **options)

    def lay(a):
        if layout == "lead":
            return a.reshape((1, len(a), 1, *a.shape[1:]))
        return as_layout(a, layout)

    laid = dict(options)
    for name in {"sample_weight", "temperature"} & options.keys():
        laid[name] = lay(options[name])
    if "class_weight" in options and layout != "lead":
        laid["class_weight"] = lay(options["class_weight"])
    ours = head.loss(lay(x), lay(target), **laid)
    assert_same(ours.reshape(-1), plain, layout)
    z = head.logits(x)
    ours = ll.cross_entropy(lay(z), lay(target), **laid)
    assert_same(ours.reshape(-1), ll.cross_entropy(z, target, **options), layout)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64,
                                  bool])
def test_types_of_weights(kind, rng, dtype):
    z = rng.standard_normal((6, 5)).astype(dtype)
    t = rng.integers(0, 5, 6)
    w, s = np.array([1, 0, 1, 1, 0], kind), np.array([0, 1, 1, 1, 0, 1], kind)
    plain = ll.cross_entropy(z, t)
    assert_same_bits(ll.cross_entropy(z, t, class_weight=w), (plain * w[t]).astype(dtype))
    assert_same_bits(ll.cross_entropy(z, t, sample_weight=s), (plain * s).astype(dtype))


def test_numbers_of_numpy_as_options():
    z = np.log([[1.0, 2.0, 3.0]])
    ours = ll.cross_entropy(z, [1], label_smoothing=np.float32(0.5), z_loss=np.int64(2))
    assert_same_bits(ours, ll.cross_entropy(z, [1], label_smoothing=0.5, z_loss=2))


def test_inputs_are_left_alone(rng):
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    arrays = {
        "x": x, "w": w, "target": rng.integers(0, 5, 4), "class_weight": rng.random(5),
        "sample_weight": rng.random(4), "temperature": rng.random(4) + 0.5,
        "soft": rng.random((4, 5)),
    }
    before = {name: a.copy() for name, a in arrays.items()}
    for a in arrays.values():
        a.flags.writeable = False
    options = {name: arrays[name] for name in ("class_weight", "sample_weight", "temperature")}
    for target in arrays["target"], arrays["soft"]:
        for shift in 0, 1:
            ll.linear_cross_entropy(
                x, w, target, label_smoothing=0.1, z_loss=0.1, shift=shift, **options)
    for name, a in arrays.items():
        assert_same_bits(a, before[name], name)


def test_score_keeps_what_options_do_not_change(rng, dtype):
    x = rng.standard_normal((9, 6)).astype(dtype)
    t = rng.integers(0, 20, 9)
    head = ll.LinearHead(rng.standard_normal((20, 6)).astype(dtype))
    options = with_weights(OPTIONS["all"], 9, 20, dtype)
    plain = head.score(x, t, k=3, entropy=True, temperature=options["temperature"])
    ours = head.score(x, t, k=3, entropy=True, **options)
    for name in ("lse", "target_logit", "target_rank", "predicted", "max_logit", "entropy"):
        assert_same(getattr(ours, name), getattr(plain, name), name)
    assert_same(ours.top.log_prob, plain.top.log_prob)
    assert ours.accuracy == plain.accuracy
    assert_same(ours.loss, head.loss(x, t, **options))


def test_perplexity_is_exp_of_the_mean_loss(rng):
    x, t = rng.standard_normal((9, 6)), rng.integers(0, 20, 9)
    t[[2, 5]] = -100
    head = ll.LinearHead(rng.standard_normal((20, 6)))
    for options in {}, {"label_smoothing": 0.1}, {"z_loss": 0.01}:
        mean = head.loss(x, t, reduction="mean", **options)
        assert head.score(x, t, **options).perplexity == pytest.approx(np.exp(mean), rel=1e-14)
