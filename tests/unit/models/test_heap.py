from __future__ import annotations

import subprocess
import sys

import pytest

# Arrays as large as blocks of keys and values, between others that stay, are freed.
SCRIPT = """
import sys
import numpy as np
from sidecar.models.heap import give_back_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if sys.argv[1] == "set":
    give_back_freed_memory()
large = np.ones(2**20)
del large
before = resident()
blocks = [(np.ones(46_080), bytearray(60_000)) for _ in range(300)]
used = resident() - before
others = [other for _, other in blocks]
del blocks
print(used, resident() - before)
"""


def memory(mode: str) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True
    )
    used, kept = map(int, done.stdout.split())
    return used, kept


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator is set")
def test_blocks_that_are_freed_go_back_to_the_system() -> None:
    used, kept = memory("set")
    assert used > 120e6
    assert kept < 40e6
