"""Whether screened heads give the bits of those without a screen, over very many rows.

    python bench/screened.py                 a million rows; minutes
    python bench/screened.py --rows 20000    a look

Each batch of rows has a head of its own: of random kind, size and options, the same for the same
number of the batch. Batches that differ are told by their numbers, and `--only` repeats one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import numpy as np

import logitless as ll

CLASSES, FEATURES, ROWS = (512, 20_000), (1, 1_000), (1, 1_500)
MOST_PRODUCTS = 1 << 30  # of a batch
MOST_BEST = 64


def uniform(rng, m, k, n):
    return rng.random((n, k)) - 0.5, rng.random((m, k)) - 0.5


def normal(rng, m, k, n):
    return rng.standard_normal((n, k)), rng.standard_normal((m, k))


def peaked(rng, m, k, n):
    """Rows beside their classes."""
    weight, x = normal(rng, m, k, n)
    return weight, x + rng.uniform(0.5, 4) * weight[rng.integers(n, size=m)]


def clusters(rng, m, k, n):
    """Many classes that hardly differ."""
    weight, x = normal(rng, m, k, n)
    middle = weight[: max(1, n // 50)]
    return middle[rng.integers(len(middle), size=n)] + 10.0 ** rng.uniform(-7, -1) * weight, x


def copies(rng, m, k, n):
    """Ties."""
    weight, x = normal(rng, m, k, n)
    return weight[rng.integers(max(1, n // rng.integers(2, 40)), size=n)], x


def near_ties(rng, m, k, n):
    """Classes a few roundings from each other."""
    weight, x = copies(rng, m, k, n)
    return weight * (1 + 2.0**-23 * rng.integers(-2, 3, weight.shape)), x


def all_equal(rng, m, k, n):
    return np.full((n, k), rng.choice([0.0, -0.0, 1.0, -0.7])), rng.standard_normal((m, k))


def whole_numbers(rng, m, k, n):
    """Bytes say everything, and logits tie."""
    most = rng.choice([1, 2, 127])
    return (rng.integers(-most, most + 1, s).astype(float) for s in ((n, k), (m, k)))


def halves(rng, m, k, n):
    """Every number halfway between two bytes, all rounded alike."""
    weight, x = (rng.integers(-126, 126, s) + 0.5 for s in ((n, k), (m, k)))
    weight[:, 0] = x[:, 0] = 127
    return weight, x


def aligned_errors(rng, m, k, n):
    """What bytes leave out of a class points along the row: the bounds are nearly reached."""
    weight, x = (rng.integers(-100, 101, s).astype(float) for s in ((n, k), (m, k)))
    sign = np.sign(x[rng.integers(m)])
    weight += rng.uniform(0.4, 0.5, (n, 1)) * rng.choice([-1, 1], (n, 1)) * sign
    weight[:, 0] = x[:, 0] = 127
    return weight, x


def norms_apart(rng, m, k, n):
    """Norms of classes and rows over many orders."""
    weight, x = normal(rng, m, k, n)
    width = rng.uniform(0.5, 10)
    return (weight * 10 ** rng.uniform(-width, width, (n, 1)),
            x * 10 ** rng.uniform(-width, width, (m, 1)))


def outlying_features(rng, m, k, n):
    """A few features far larger than the others, as language models have them."""
    weight, x = normal(rng, m, k, n)
    x[:, rng.integers(k, size=1 + k // 100)] *= rng.uniform(10, 1000)
    return weight, x


def outlying_numbers(rng, m, k, n):
    """A few numbers that take the whole range of bytes."""
    weight, x = normal(rng, m, k, n)
    for a in (weight, x):
        a[rng.random(a.shape) < 1 / k] *= 10 ** rng.uniform(1, 5)
    return weight, x


def features_apart(rng, m, k, n):
    weight, x = normal(rng, m, k, n)
    scale = 10 ** rng.uniform(-6, 6, k)
    return weight * scale, x / scale


def sparse(rng, m, k, n):
    """Zeros, of both signs, and rows and classes of nothing else."""
    weight, x = normal(rng, m, k, n)
    for a in (weight, x):
        a[rng.random(a.shape) < rng.uniform(0.5, 1)] *= 0.0
    return weight, x


def not_negative(rng, m, k, n):
    weight, x = normal(rng, m, k, n)
    return np.abs(weight), np.abs(x)


def cancelling(rng, m, k, n):
    """Logits far smaller than what they sum: bounds are wide."""
    weight, x = normal(rng, m, k, n)
    half = k // 2
    weight[:, half : 2 * half] = weight[:, :half]
    x[:, half : 2 * half] = -x[:, :half] * (1 + 1e-6 * rng.standard_normal((m, half)))
    return weight, x


def few_directions(rng, m, k, n):
    rank = int(rng.integers(1, 1 + min(k, 8)))
    basis = rng.standard_normal((rank, k))
    return rng.standard_normal((n, rank)) @ basis, rng.standard_normal((m, rank)) @ basis


def sorted_classes(rng, m, k, n):
    """The best come last: what is known of a row keeps growing."""
    weight, x = normal(rng, m, k, n)
    x[:, 0] = np.abs(x[:, 0]) + 1
    weight[:, 0] = np.sort(weight[:, 0]) * rng.uniform(1, 20)
    return weight, x


def tiny(rng, m, k, n):
    """Products that underflow."""
    weight, x = normal(rng, m, k, n)
    return weight * 10 ** rng.uniform(-40, -15), x * 10 ** rng.uniform(-25, -5)


def huge(rng, m, k, n):
    """Products that overflow."""
    weight, x = normal(rng, m, k, n)
    return weight * 10 ** rng.uniform(15, 37), x * 10 ** rng.uniform(-5, 25)


def not_finite(rng, m, k, n):
    weight, x = normal(rng, m, k, n)
    for a in (weight, x):
        for bad in (np.nan, np.inf, -np.inf):
            a[rng.integers(len(a), size=rng.integers(3)), rng.integers(k)] = bad
    return weight, x


KINDS = (uniform, normal, peaked, clusters, copies, near_ties, all_equal, whole_numbers, halves,
         aligned_errors, norms_apart, outlying_features, outlying_numbers, features_apart, sparse,
         not_negative, cancelling, few_directions, sorted_classes, tiny, huge, not_finite)


def bias_of(rng, n: int) -> np.ndarray | None:
    """None as often as not; else small, large, or with classes that cannot happen."""
    kind = rng.integers(6)
    if kind < 3:
        return None
    bias = rng.standard_normal(n) * (100.0 if kind == 3 else 1.0)
    if kind == 5:
        bias[rng.random(n) < 0.5] = -np.inf
    return bias


def spread(rng, ends: tuple[int, int]) -> int:
    """A size: its logarithm is uniform."""
    return round(np.exp(rng.uniform(*np.log(ends))))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """To the last bit; a NaN is a NaN."""
    whole = {4: np.int32, 8: np.int64}[a.itemsize]
    equal = a.view(whole) == b.view(whole)
    if a.dtype.kind == "f":
        equal |= np.isnan(a) & np.isnan(b)
    return a.dtype == b.dtype and a.shape == b.shape and bool(equal.all())


def check(batch: int, most_rows: int, seen: Counter) -> str | None:
    """Hold one head against its twin without a screen; what differs, or None."""
    rng = np.random.default_rng([2024, batch])
    make, dtype = KINDS[batch % len(KINDS)], (np.float32, np.float64)[batch // len(KINDS) % 2]
    k, n = spread(rng, FEATURES), spread(rng, CLASSES)
    m = min(spread(rng, ROWS), max(1, MOST_PRODUCTS // (k * n)))
    top = int(rng.integers(1, 1 + min(MOST_BEST, n // 32)))
    options = {
        "softcap": float(rng.uniform(0.5, 50)) if rng.random() < 0.2 else None,
        "temperature": float(rng.uniform(0.1, 5)) if rng.random() < 0.2 else 1.0,
    }
    with np.errstate(all="ignore"):
        weight, x = (a.astype(dtype) for a in make(rng, m, k, n))
        bias = bias_of(rng, n)
        bias = None if bias is None else bias.astype(dtype)
        x = x[:most_rows]
        plain = ll.LinearHead(weight, bias, **options)
        head = ll.LinearHead(weight, bias, screen="int8", **options)
        best, exact = (h.topk(x, top, normalize=False) for h in (head, plain))
        stats = head.screen_stats
        predicted = head.predict(x), plain.predict(x)
    seen.update(rows=len(x), heads=1, screened=stats.rows, fell_back=stats.fell_back)
    wrong = [name for name, a, b in (("predict", *predicted), ("index", best.index, exact.index),
                                     ("logit", best.logit, exact.logit)) if not same(a, b)]
    if not wrong:
        return None
    return (f"batch {batch}: {', '.join(wrong)} of {len(x)} x {k} x {n}, {make.__name__}, "
            f"{np.dtype(dtype)}, top {top}, {options}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", type=int, help="this batch alone")
    args = parser.parse_args()
    seen, differing, begun = Counter(), 0, time.perf_counter()
    batch = args.only or 0
    while seen["rows"] < args.rows:
        told = check(batch, args.rows - seen["rows"], seen)
        if told:
            differing += 1
            print(told, flush=True)
        batch += 1
        if args.only is not None:
            break
    print(f"{differing} of {seen['heads']:,} heads differ: {seen['rows']:,} rows, "
          f"{seen['screened']:,} of them screened, {seen['fell_back']:,} given up, of {len(KINDS)} "
          f"kinds in float32 and float64, by {ll.active_isa()}; "
          f"{time.perf_counter() - begun:.0f} s")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
