"""The programs of docs/openai.md with LangChain and LlamaIndex, against a real sidecar."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HANG_GUARD = 100.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("package", ["langchain_openai", "llama_index"])
def test_a_framework_gets_answers_and_vectors_which_are_cached(
    package: str,
    blocks_of: Callable[[str, str], list[str]],
    python_of: Callable[[str], str],
    common_sidecar: Any,
    addresses: Any,
    tmp_path: Path,
) -> None:
    python = python_of("openai-frameworks")
    programs = blocks_of("docs/openai.md", "python")
    (program,) = [each for each in programs if f"from {package}" in each]
    addresses.set("127.0.0.1:50552", common_sidecar.openai)

    def run() -> str:
        done = subprocess.run(
            [python, "-c", addresses(program)],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=HANG_GUARD,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    common_sidecar.forget()
    before = common_sidecar.computed()
    said = run()
    computed = common_sidecar.computed()
    assert [now - then for now, then in zip(computed, before, strict=True)] == [1, 1]
    answer, _, dimensions = said.strip().rpartition("\n")
    assert answer.strip()
    assert dimensions == "384"
    assert run() == said
    assert common_sidecar.computed() == computed
