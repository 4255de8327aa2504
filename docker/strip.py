"""Removes from an environment what a sidecar never uses: ``python3 strip.py FOLDER``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

UNUSED = {
    "numpy/**/tests": "its tests",
    "onnx/backend/test": "its tests",
    "onnxruntime/capi/libonnxruntime.so.*": "a second copy, for programs in C",
    "onnxruntime/quantization": "changes models; a sidecar runs them",
    "onnxruntime/tools": "changes models; a sidecar runs them",
    "onnxruntime/transformers": "changes models; a sidecar runs them",
    "**/*.pyi": "for type checkers",
}
"""What goes, as globs under site-packages, and what it is."""


def strip(site_packages: Path) -> None:
    """Removes it. Raises `LookupError` if something is not there: then the list is out of date."""
    for pattern in UNUSED:
        found = list(site_packages.glob(pattern))
        if not found:
            raise LookupError(f"there is no {pattern} in {site_packages}: change {__file__}")
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


if __name__ == "__main__":
    (folder,) = Path(sys.argv[1]).glob("lib/python3.*/site-packages")
    strip(folder)
