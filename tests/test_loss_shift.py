"""A shift pairs rows with later targets, as if both had been cut."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import assert_same, assert_same_bits

import logitless as ll


@pytest.mark.parametrize("shift", [1, 2, 5])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
def test_shift_pairs_rows_with_later_targets(shift, soft, rng, dtype):
    lead, n, k = (3, 5), 7, 4
    x = rng.standard_normal((*lead, k)).astype(dtype)
    head = ll.LinearHead(rng.standard_normal((n, k)).astype(dtype))
    t = rng.dirichlet(np.ones(n), lead) if soft else rng.integers(0, n, lead)
    s = rng.random(lead)
    if not soft:
        t[1, 3] = -100
    cut_x, cut_t, cut_s = x[:, : 5 - shift], t[:, shift:], s[:, shift:]
    temperature = rng.uniform(0.5, 2, lead)
    paired = {"sample_weight": s, "temperature": temperature}
    cut_paired = {"sample_weight": cut_s, "temperature": temperature[:, shift:]}
    options = {"class_weight": rng.random(n), "label_smoothing": 0.1, "z_loss": 0.1}
    ours = head.loss(x, t, shift=shift, **paired, **options)
    assert ours.shape == (3, 5 - shift)
    assert_same(ours, head.loss(cut_x, cut_t, **cut_paired, **options), "loss")
    score = head.score(x, t, shift=shift, k=2, **paired, **options)
    cut = head.score(cut_x, cut_t, k=2, **cut_paired, **options)
    assert_same(head.score(x, shift=shift, temperature=temperature).lse, cut.lse, "without target")
    for name in "loss", "lse", "predicted", "max_logit", "target_logit", "target_rank":
        a, b = getattr(score, name), getattr(cut, name)
        if a is not None:
            assert_same(a, b, name)
    assert score.top.index.shape == (3, 5 - shift, 2)
    z = head.logits(x)
    assert_same(ll.cross_entropy(z, t, shift=shift, **paired, **options), ours, "logits")
    assert_same(
        ll.linear_cross_entropy(x, head.logits(np.eye(k)).T.astype(dtype), t, shift=shift,
                                **paired, **options), ours, "linear_cross_entropy")
    if shift < 5:
        mean = head.loss(x, t, shift=shift, reduction="mean", **paired, **options)
        cut = head.loss(cut_x, cut_t, reduction="mean", **cut_paired, **options)
        assert_same(mean, cut, "mean")
        out = np.empty((3, 5 - shift), dtype)
        assert head.loss(x, t, shift=shift, out=out, **paired, **options) is out
        assert_same_bits(out, ours)


def test_shift_of_one_sequence(rng):
    x, t = rng.standard_normal((6, 3)), rng.integers(0, 4, 6)
    head = ll.LinearHead(rng.standard_normal((4, 3)))
    assert_same(head.loss(x, t, shift=2), head.loss(x[:-2], t[2:]))
    assert head.loss(x, t, shift=6).shape == (0,)
    # The first target is scored by no row, so it may be anything; but the others may not.
    t[0] = 99
    assert np.isfinite(head.loss(x, t, shift=1)).all()
    with pytest.raises(IndexError, match="99"):
        head.loss(x, t)


def test_shift_without_target_drops_the_last_rows(rng):
    x = rng.standard_normal((6, 3))
    head = ll.LinearHead(rng.standard_normal((4, 3)))
    assert_same(head.score(x, shift=2).lse, head.logsumexp(x[:4]))
