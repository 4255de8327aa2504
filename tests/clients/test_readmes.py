"""What the clients' README files show is what runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CLIENTS = Path(__file__).parents[2] / "clients"


def _lines(text: str) -> str:
    """The text without empty lines and indentation."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


@pytest.mark.parametrize(
    ("language", "patterns"),
    [
        ("java", ["examples/*.java", "src/test/**/*.java"]),
        ("rust", ["examples/*.rs", "tests/*.rs"]),
    ],
)
def test_every_block_of_code_is_part_of_an_example_or_a_test(
    language: str, patterns: list[str]
) -> None:
    folder = CLIENTS / language
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    sources = [_lines(path.read_text("utf-8")) for path in files]
    readme = (folder / "README.md").read_text("utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)
    assert blocks
    for block in blocks:
        assert any(_lines(block) in source for source in sources), block
