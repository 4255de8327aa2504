"""``embercache serve`` with one service more, that of the tests: to be run as a module."""

from __future__ import annotations

from typing import Any

import sidecar.app
from sidecar.cli import main
from tests.integration.transport.interop.probe_service import Probe

_handlers = sidecar.app.handlers


def _with_probe(*arguments: Any) -> list[Any]:
    return [*_handlers(*arguments), Probe().handlers()]


sidecar.app.handlers = _with_probe
main()
