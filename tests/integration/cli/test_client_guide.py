"""The code of the client's guide against a real sidecar, not only against its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@pytest.fixture
def run(address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[str]], dict[str, Any]]:
    """Runs blocks one after the other, as one program; gives its names."""
    monkeypatch.setenv("EMBERCACHE_ADDRESS", address)

    def run_blocks(blocks: Iterable[str]) -> dict[str, Any]:
        names: dict[str, Any] = {}
        try:
            for block in blocks:
                exec(block, names)  # noqa: S102 - our own page
        finally:
            names["client"].close()
        return names

    return run_blocks


def test_the_code_of_the_guide_runs_from_top_to_bottom(
    run: Callable[[Iterable[str]], dict[str, Any]],
    blocks_of: Callable[[str, str], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The others are for a model that takes tensors, and for a sidecar with TLS: see
    # tests/integration/tls/test_python_client.py.
    blocks = blocks_of("docs/python-client.md", "python")
    run(block for block in blocks if "np.zeros" not in block and "tls://" not in block)
    said = capsys.readouterr().out.splitlines()
    assert "manual created 1 0" in said
    assert any(line.endswith(" manual  An ember is glowing coal.") for line in said)
    assert any(line.startswith("switched ") for line in said)


def test_so_does_the_code_of_the_readme(
    run: Callable[[Iterable[str]], dict[str, Any]],
    blocks_of: Callable[[str, str], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = run(blocks_of("clients/python/README.md", "python"))
    assert names["vectors"].shape == (2, 384)
    generated = names["stream"].result
    assert generated.text.strip()
    lines = capsys.readouterr().out.removesuffix(f"{generated.text}{generated.tier} {{}}\n")
    known, found = lines.splitlines()
    assert known.startswith("['hot', 'hot'] ")
    assert found.endswith(" manual An ember is glowing coal.")
