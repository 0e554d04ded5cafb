"""Cores that this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable


def usable_cores() -> int:
    """Cores by affinity and by the quota of the control group, whichever is less."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota() or cores))


def _quota() -> int | None:
    """Cores that the control group grants, rounded up; None where there is no limit."""
    try:
        groups = _read("/proc/self/cgroup").splitlines()
    except OSError:
        return None
    quotas = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += _walk("/sys/fs/cgroup", path, _quota_v2)
        elif "cpu" in controllers.split(","):
            quotas += _walk(f"/sys/fs/cgroup/{controllers}", path, _quota_v1)
    return min(quotas, default=None)


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def _walk(root: str, path: str, read: Callable[[str], list[int]]) -> list[int]:
    """Quotas of a group and of all groups above it; in a container the root is its own."""
    parts = [part for part in path.split("/") if part]
    found = []
    for depth in range(len(parts), -1, -1):
        try:
            found += read("/".join([root, *parts[:depth]]))
        except (OSError, ValueError):
            continue
    return found


def _quota_v2(group: str) -> list[int]:
    quota, period = _read(f"{group}/cpu.max").split()
    return [] if quota == "max" else [-(-int(quota) // int(period))]


def _quota_v1(group: str) -> list[int]:
    quota = int(_read(f"{group}/cpu.cfs_quota_us"))
    period = int(_read(f"{group}/cpu.cfs_period_us"))
    return [] if quota <= 0 else [-(-quota // period)]
