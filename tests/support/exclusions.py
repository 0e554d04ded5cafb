"""Classes that rows exclude, in every form, and what is then best by a plain look at all logits."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def masks(m, n, seed, part):
    """Which classes are excluded, (m, n): a part of them, or nearly all, or in some rows all."""
    rng = np.random.default_rng(seed)
    mask = rng.random((m, n)) < (part if part < 1 else 1 - 2 / n)
    if part >= 1:
        mask[::3] = True
    return mask


PARTS = st.sampled_from([0.0, 0.01, 0.5, 0.95, 1.0])
FORMS = st.sampled_from(["csr", "csc", "coo", "untidy", "alike"])


def as_form(mask, form):
    """What a caller gives for a mask, and the mask that it then is."""
    from scipy import sparse

    if form == "alike":
        return mask[0], np.broadcast_to(mask[0], mask.shape)
    if form != "untidy":
        return sparse.csr_array(mask).asformat(form), mask
    row, column = np.nonzero(mask)
    twice = np.concatenate([column[::-1], column[:3]]), np.concatenate([row[::-1], row[:3]])
    order = np.argsort(twice[1], kind="stable")  # columns of a row descend, and some come twice
    start = np.append(0, np.cumsum(np.bincount(twice[1], minlength=len(mask))))
    zeros = np.zeros(len(order), np.float32)  # which are stored
    csr = sparse.csr_array((zeros, twice[0][order].astype(np.int32), start.astype(np.int32)),
                           shape=mask.shape)
    return csr, mask


def ranked(z, mask, classes):
    """Classes that are left, best first: NaN, then the largest, the lowest of equals."""
    left = classes[(classes >= 0) & ~mask[classes]]
    values = np.where(np.isnan(z[left]), 0, z[left])
    return left[np.lexsort((left, -values, ~np.isnan(z[left])))]


def best(z, mask, k, candidates=None):
    """Index and logit (m, k) of the best; -1 and -inf where none is left."""
    index, logit = np.full((len(z), k), -1), np.full((len(z), k), -np.inf, z.dtype)
    for i, row in enumerate(z):
        classes = np.arange(len(row)) if candidates is None else np.unique(candidates[i])
        found = ranked(row, mask[i], classes)[:k]
        index[i, : len(found)], logit[i, : len(found)] = found, row[found]
    return index, logit


def ranks(z, mask, target):
    """Classes that are left and come before the target: all of them where it is excluded."""
    rank = np.full(len(z), -1)
    for i, row in enumerate(z):
        order = ranked(row, mask[i], np.arange(len(row)))
        if len(order) and np.isfinite(row[order[0]]):
            at = np.flatnonzero(order == target[i])
            rank[i] = at[0] if len(at) else len(order)
    return rank
