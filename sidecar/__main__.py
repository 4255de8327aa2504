"""``python -m sidecar`` is the command ``embercache``."""

from sidecar.cli import main

main()
