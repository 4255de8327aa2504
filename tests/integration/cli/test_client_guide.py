"""The code of the client's guide against a real sidecar, not only against its contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "python-client.md"
README = ROOT / "clients" / "python" / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_code_of_the_guide_runs_from_top_to_bottom(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMBERCACHE_ADDRESS", address)
    names: dict[str, Any] = {}
    try:
        for block in BLOCK.findall(GUIDE.read_text()):
            # Those are for a model that takes tensors, and for a sidecar with TLS: see
            # tests/integration/tls/test_python_client.py.
            if "np.zeros" not in block and "tls://" not in block:
                exec(block, names)  # noqa: S102 - our own page
    finally:
        names["client"].close()
    said = capsys.readouterr().out.splitlines()
    assert "manual created 1 0" in said
    assert any(line.endswith(" manual  An ember is glowing coal.") for line in said)
    assert any(line.startswith("switched ") for line in said)


def test_so_does_the_code_of_the_readme(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMBERCACHE_ADDRESS", address)
    names: dict[str, Any] = {}
    try:
        for block in BLOCK.findall(README.read_text()):
            exec(block, names)  # noqa: S102 - our own page
    finally:
        names["client"].close()
    assert names["vectors"].shape == (2, 384)
    generated = names["stream"].result
    assert generated.text.strip()
    lines = capsys.readouterr().out.removesuffix(f"{generated.text}{generated.tier} {{}}\n")
    known, found = lines.splitlines()
    assert known.startswith("['hot', 'hot'] ")
    assert found.endswith(" manual An ember is glowing coal.")
