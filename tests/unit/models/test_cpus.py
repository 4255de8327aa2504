"""How many threads a container's limit leaves us."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sidecar.models.cpus import usable_cpus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def cpus(root: Path, own: str) -> int:
    write(root / "own", own)
    return usable_cpus(root / "cgroup", root / "own")


def test_without_cgroups_the_affinity_mask_decides(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path / "none") == 8


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("max 100000", 8),
        ("1600000 100000", 8),
    ],
)
def test_version_2_limits_count_in_whole_cpus(tmp_path: Path, limit: str, expected: int) -> None:
    write(tmp_path / "cgroup/cpu.max", f"{limit}\n")
    assert cpus(tmp_path, "0::/\n") == expected


def test_the_lowest_limit_of_all_ancestors_holds(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/pods/cpu.max", "300000 100000\n")
    write(tmp_path / "cgroup/pods/one/cpu.max", "max 100000\n")
    assert cpus(tmp_path, "0::/pods/one\n") == 3


def test_limits_of_other_cgroups_do_not_hold(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/pods/two/cpu.max", "100000 100000\n")
    assert cpus(tmp_path, "0::/pods/one\n") == 8


def test_version_1_limits_hold(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us", "400000\n")
    write(tmp_path / "cgroup/cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n")
    assert cpus(tmp_path, "4:memory:/pod\n1:cpu,cpuacct:/pod\n0::/\n") == 4


def test_version_1_without_a_limit_says_minus_one(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cpus(tmp_path, "1:cpu:/\n") == 8
