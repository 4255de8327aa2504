"""What the log says of a policy and settings that do not go together."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from sidecar.config import Settings
from sidecar.open_access import open_access
from sidecar.telemetry.reload_metrics import ReloadCollector

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("known", "sections", "setting"),
    [
        ("certificates: [a]", {}, "tls.client_ca_file"),
        ("socket: true", {}, "server.socket"),
        ("socket: true", {"server": {"socket": "/tmp/embercache.sock"}}, None),  # noqa: S108
    ],
)
async def test_a_caller_whom_nobody_can_be_is_warned_of(
    tmp_path: Path, known: str, sections: dict[str, Any], setting: str | None
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"callers: [{{name: shop, {known}, namespaces: [shop]}}]")
    settings = Settings.model_validate({"access": {"policy_file": policy}} | sections)
    async with contextlib.AsyncExitStack() as exits:
        with capture_logs() as logs:
            open_access(settings, ReloadCollector(), exits)
    warnings = [(log["caller"], log["event"]) for log in logs if log["log_level"] == "warning"]
    assert len(warnings) == (setting is not None)
    assert all(who == "shop" and f"set {setting} " in event for who, event in warnings)
