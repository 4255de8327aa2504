"""Writes the table of annotations in docs/kubernetes.md from their declarations.

python docs/make_annotations.py
"""

from __future__ import annotations

from pathlib import Path

from sidecar.injector.annotations import markdown_table

FILE = Path(__file__).parent / "kubernetes.md"
_BEGIN, _END = "<!-- annotations:begin -->\n", "<!-- annotations:end -->\n"


def text() -> str:
    """The page with the table as it is now."""
    before, _, rest = FILE.read_text("utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{markdown_table()}\n{_END}{after}"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
