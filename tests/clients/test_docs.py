"""The code that the documentation of the clients shows is code that is tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    "go": "clients/go/**/*.go",
    "java": "clients/java/[es]*/**/*.java",
    "rust": "clients/rust/[et]*/*.rs",
    "ts": "clients/node/[et]*/**/*.ts",
}
PAGES = (
    "docs/clients.md",
    *(f"clients/{each}/README.md" for each in ("go", "java", "node", "rust")),
)


def _lines(code: str) -> str:
    """The code without empty lines, whatever the depth at which it stands."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_is_part_of_a_program_or_test(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"^```(go|ts|java|rust)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for language, code in blocks:
        sources = [_lines(path.read_text("utf-8")) for path in ROOT.glob(SOURCES[language])]
        assert any(_lines(code) in source for source in sources), code
