"""Puts packs into a layer of an image: ``python3 models.py FOLDER NAME...``.

Its times are fixed: the same packs make the same layer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sidecar.models.errors import SetupError
from sidecar.models.pull import pull


def put(folder: Path, names: list[str]) -> None:
    """Raises `SetupError` if one of them cannot be had."""
    folder.mkdir(exist_ok=True)
    for name in names:
        print(pull(name, folder, lambda *_: None))
    for lock in folder.glob(".*.lock"):
        lock.unlink()
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (0, 0))


if __name__ == "__main__":
    try:
        put(Path(sys.argv[1]), sys.argv[2:])
    except SetupError as error:
        sys.exit(str(error))
