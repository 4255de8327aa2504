"""One call again and again with ghz, as `bench.load.drive` does it with h2load."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.ghz.files import delimited
from bench.ghz.tool import ghz, read
from bench.load import Load, LoadError

if TYPE_CHECKING:
    from bench.contenders import Call

_HANG = 120.0
# Sent before those that count: the first ones connect.
_SKIPPED = 100


def drive(address: str, call: Call, *, calls: int, connections: int, streams: int) -> Load:
    """Sends ``calls`` calls over ``connections``, ``streams`` at a time on each.

    Raises `LoadError` if ghz gives up, or if one call fails.
    """
    with tempfile.TemporaryDirectory(prefix="embercache-ghz-") as name:
        folder = Path(name)
        (folder / "call.protoset").write_bytes(call.protoset)
        (folder / "call.bin").write_bytes(delimited([call.request]))
        command = [str(ghz()), "--insecure", f"--protoset={folder}/call.protoset"]
        command += [f"--call={call.method.removeprefix('/')}", f"--binary-file={folder}/call.bin"]
        command += ["--disable-template-data", "--disable-template-functions"]
        command += [f"--connections={connections}", f"--concurrency={connections * streams}"]
        command += [f"--total={calls + _SKIPPED}", "--skipFirst=0", "--format=json"]
        command += [f"--output={folder}/report.json", address]
        environment = {"TZ": "UTC"}  # in which its times end in Z
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_HANG
        )
        if done.returncode != 0:
            raise LoadError(f"ghz failed: {done.stderr.strip()}")
        report = json.loads((folder / "report.json").read_text("utf-8"))
    run = read(report["details"], _SKIPPED, None, 0.0)
    if not run.succeeded.all():
        raise LoadError(f"not all calls succeeded: {dict(run.statuses)}")
    p50, p99 = np.percentile(run.latency_ms, (50, 99))
    return Load(run.answered_per_second, float(p50), float(p99))
