"""How gradients are cut: rows of a block, what threads share out, and logits that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .plan import FLOPS_PER_THREAD, round_up
from .scratch import KEPT_BYTES

if TYPE_CHECKING:
    from ._core import Kernels

BLOCK_BYTES = 3 << 20  # of rows and logits, where these are few: they stay in the caches
APART_BYTES = KEPT_BYTES - 128  # of gradients of groups that wait to be added
THREAD_ROWS = 1920  # of a block, for each thread: weights are packed on the way for so many
LEAST_ROWS = 96  # for fewer they are not


@dataclass(frozen=True, slots=True)
class GradientPlan:
    """Blocks of rows of one call.

    Attributes
    ----------
    n_threads : int
        Threads that take part.
    group : int
        Rows that a gradient of the weights sums before it adds them.
    step : int
        Rows of a block, whole groups.
    by_block : bool
        Threads share out blocks, up to `at_once` of which wait to be added.
    by_row : bool
        Threads share out the rows of a block, then its classes.
    window : int
        Classes whose logits are kept at a time: all, or whole blocks of them.
    kept_reals : int
        Size of these logits, of each head.
    """

    n_threads: int
    group: int
    step: int
    by_block: bool
    at_once: int
    by_row: bool
    window: int
    kept_reals: int


def plan_gradients(kernels: Kernels, m: int, n: int, k: int, *, heads: int, columns: bool,
                   workspace_bytes: int, n_threads: int) -> GradientPlan:
    """Cut m rows by n classes of k features; results do not depend on it.

    Parameters
    ----------
    kernels : Kernels
        The kernels in use.
    m, n, k : int
        Rows, at least 1, classes, features.
    heads : int
        Of which logits are kept.
    columns : bool
        Rows are packed for gradients of the weights.
    workspace_bytes : int
        For logits that are kept.
    n_threads : int
        Threads the call may use.
    """
    item, group = kernels.itemsize, kernels.group(n)
    row_bytes = heads * item * kernels.keep_size(1, n)
    held = row_bytes + item * round_up(k, kernels.lanes) * columns
    n_threads = max(1, min(n_threads, 6 * m * n * max(k, 16) // FLOPS_PER_THREAD))
    # Groups of rows which, with their logits, the workspace holds, and a thread's cache.
    fitting = max(1, workspace_bytes // held // group)
    cached = max(1, BLOCK_BYTES // ((item * 2 * k + row_bytes) * group))

    # Small gradients of the weights may wait for their turn, a group each.
    step, by_row = min(fitting, cached), False
    at_once = APART_BYTES // (item * n * (k + 1) * step) // n_threads * n_threads
    by_block = (n_threads > 1 and group * row_bytes <= BLOCK_BYTES
                and min(at_once, -(-m // (step * group))) >= 2 * n_threads)
    if not by_block:
        # With fewer rows than classes, packing weights takes longer than packing rows.
        own = max(cached * group, min(2 * n, THREAD_ROWS))
        step = min(fitting, max(1, own * n_threads // group), -(-m // group))
        rows = min(step * group, m)
        by_row = group * row_bytes <= workspace_bytes and (
            rows >= LEAST_ROWS * n_threads if n_threads > 1 else own > cached * group)
        if not by_row:
            step = min(fitting, cached * n_threads)
    step = _equal(-(-m // group), step, 1) * group  # as many in each block
    if by_block:
        at_once = _equal(-(-m // step), at_once, n_threads)

    rows = min(step, m)
    window, kept_reals = n, rows * kernels.keep_size(1, n)
    if rows * row_bytes > workspace_bytes:
        of_block = rows * kernels.keep_size(1, min(n, kernels.block))
        blocks = max(1, workspace_bytes // (heads * item * of_block))
        window, kept_reals = blocks * kernels.block, of_block * blocks
    return GradientPlan(n_threads, group, step, by_block, at_once, by_row, window, kept_reals)


def _equal(count: int, most: int, multiple: int) -> int:
    """Of `count` as many at a time as others, a multiple, no more than `most`, which is one."""
    times = -(-count // most)
    return round_up(-(-count // times), multiple)
