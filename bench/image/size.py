"""What the container image holds, by part: ``python -m bench.image.size``; as root.

The image is built for this, by following the Dockerfile. Sizes are those of the files, before
compression. The base image is not at hand; its size is the one that engines show for it.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from pathlib import Path

from bench.image.engine import Engine

ROOT = Path(__file__).parents[2]
BASE_BYTES = 125_000_000
LARGEST = 12


def main() -> None:
    """Builds, sums and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--models", default="minilm smollm2-135m", help="the argument MODELS")
    options = parser.parse_args()
    arguments = {"VARIANT": options.variant, "MODELS": options.models}
    with tempfile.TemporaryDirectory() as folder:
        image = Engine(Path(folder), ROOT, arguments).build(ROOT / "Dockerfile")
        sizes = sum((_sizes(layer) for layer in image.layers[1:]), Counter())
    models = {name: size for name, size in sizes.items() if name.startswith("/models")}
    parts = {name: size for name, size in sizes.items() if name not in models}
    largest = dict(Counter(parts).most_common(LARGEST))
    print(f"| part of the image ({options.variant}) | MB |\n|---|---:|")
    print(f"| `python` slim, the base (given) | {BASE_BYTES / 1e6:.0f} |")
    for name, size in largest.items():
        print(f"| {name} | {size / 1e6:.1f} |")
    others = sum(parts.values()) - sum(largest.values())
    print(f"| {len(parts) - LARGEST} others | {others / 1e6:.1f} |")
    total = BASE_BYTES + sum(parts.values())
    print(f"| **without models** | **{total / 1e6:.0f}** |")
    for name, size in models.items():
        print(f"| `{name}` | {size / 1e6:.1f} |")
    if models:
        print(f"| **with them** | **{(total + sum(models.values())) / 1e6:.0f}** |")


def _sizes(layer: Path) -> Counter[str]:
    """Bytes by part: a Python package with the libraries and the metadata it came with."""
    sizes: Counter[str] = Counter()
    for file in layer.rglob("*"):
        if file.is_file() and not file.is_symlink():
            sizes[_part(file.relative_to(layer).as_posix())] += file.stat().st_size
    return sizes


def _part(path: str) -> str:
    if match := re.match(r"models/([^/]+)/", path):
        return f"/models/{match[1]}"
    if match := re.search(r"site-packages/([^/]+)", path):
        return f"`{re.split(r'[.-]', match[1])[0].lstrip('_').lower()}`"
    return "the rest"


if __name__ == "__main__":
    main()
