"""A sidecar as a process: what it writes of TLS."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HANG_GUARD = 30.0


def command(pack: Path, tls: dict[str, Any]) -> list[str]:
    words = [sys.executable, "-m", "sidecar", "serve", "--server-address", "127.0.0.1:0"]
    words += ["--model-packs", str(pack), "--log-format", "json", "--server-drain-delay", "0"]
    return words + [f"--tls-{name.replace('_', '-')}={path}" for name, path in tls.items()]


async def test_callers_without_tls_do_not_fill_the_log_and_each_line_is_json(
    pack: Path, tls: dict[str, Any], connect: Callable[..., Any]
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    process = await asyncio.create_subprocess_exec(
        *command(pack, tls), stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(HANG_GUARD):
        while not lines or lines[-1]["event"] != "serving":
            lines.append(json.loads(await process.stderr.readline()))
        for _ in range(3):
            await connect(lines[-1]["addresses"][0]).failure()
        process.terminate()
        rest = (await process.communicate())[1].splitlines()
    assert [json.loads(line)["event"] for line in rest] == ["draining", "stopped"]
