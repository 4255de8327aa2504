"""How many CPUs this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def usable_cpus(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """CPUs in the affinity mask, or the CPU limit of a cgroup where that is lower; at least 1.

    A limit of 1.5 CPUs counts as 1: with two threads the kernel would stop both for a part of
    each period.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, int(min([affinity or 1, *_limits(cgroups, own)])))


def _limits(cgroups: Path, own: Path) -> Iterator[float]:
    """The limits of our cgroups and all their ancestors, versions 1 and 2."""
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = cgroups / controllers / path.lstrip("/")
        for folder in (group, *group.parents):
            quota, period = _quota(folder)
            if quota.isdigit() and period.isdigit() and int(period) > 0:
                yield int(quota) / int(period)
            if folder == cgroups:
                break


def _quota(folder: Path) -> tuple[str, str]:
    """Microseconds of CPU time in each period, and the period; version 2 has one file for both."""
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if quota:
        return quota, period
    return _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
