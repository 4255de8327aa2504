"""Whether the native front door is used, and whom it answers."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from sidecar import __version__, open_front
from sidecar.access.live import Access
from sidecar.config import Settings
from sidecar.models.errors import SetupError
from sidecar.open_front import keep_callers, open_native, with_transport
from sidecar.transport import private_socket

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Open = Callable[[str], Any]

SHOP, ADMIN, OLD = "a-token-of-the-shop", "a-token-of-the-admin", "an-old-token-of-the-shop"


@pytest.fixture
async def choose() -> Any:
    """Opens what a setting asks for: the front door or nothing."""
    async with contextlib.AsyncExitStack() as exits:

        def choose(transport: str) -> Any:
            settings = Settings.model_validate({"server": {"transport": transport}})
            return open_native(settings, None, exits, is_traced=False)

        yield choose


@pytest.fixture
def _is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has installed it."""
    monkeypatch.setitem(sys.modules, "embercache_native", None)


@pytest.fixture
def _is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made for a sidecar of another version."""
    native = pytest.importorskip("embercache_native")
    monkeypatch.setattr(native, "__version__", "0.0.1")


@pytest.fixture
def _has_no_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no folder that can be written to."""
    pytest.importorskip("embercache_native")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(private_socket, "_SHARED_MEMORY", str(tmp_path / "missing"))


def told(choose: Open, transport: str) -> tuple[str, str, str]:
    """What the log says of the choice: which transport, why, and how loud."""
    with capture_logs() as logs:
        choose(transport)
    (log,) = logs
    return log["transport"], log["reason"], log["log_level"]


def test_grpcio_is_used_where_it_is_set(choose: Open) -> None:
    assert told(choose, "grpcio") == ("grpcio", "it is set", "info")
    assert choose("grpcio") is None


@pytest.mark.parametrize(("transport", "reason"), [("auto", "installed"), ("native", "set")])
def test_the_front_door_is_used_where_it_is_installed(
    choose: Open, transport: str, reason: str
) -> None:
    pytest.importorskip("embercache_native")
    assert told(choose, transport) == ("native", f"it is {reason}", "info")


@pytest.mark.usefixtures("_is_missing")
def test_grpcio_is_used_where_the_front_door_is_not_installed(choose: Open) -> None:
    transport, reason, level = told(choose, "auto")
    assert (transport, level) == ("grpcio", "info")
    assert reason.startswith("embercache-native cannot be imported")


@pytest.mark.usefixtures("_is_missing")
def test_one_that_is_set_and_not_installed_is_an_error_that_says_what_to_do(choose: Open) -> None:
    with pytest.raises(SetupError, match=r"transport is native.* install it, or set server\.tr"):
        choose("native")


@pytest.mark.usefixtures("_is_another")
def test_one_of_another_version_is_not_used_and_the_log_warns(choose: Open) -> None:
    transport, reason, level = told(choose, "auto")
    assert (transport, level) == ("grpcio", "warning")
    assert "is 0.0.1, and this sidecar is" in reason
    assert f"install embercache-native=={__version__}" in reason
    with pytest.raises(SetupError, match=r"server\.transport is native.* is 0\.0\.1"):
        choose("native")


@pytest.mark.parametrize(
    ("ours", "native"), [("1.2.0rc1", "1.2.0-rc.1"), ("1.2.0b2", "1.2.0-beta.2")]
)
def test_a_prerelease_is_the_same_in_both_spellings(
    choose: Open, monkeypatch: pytest.MonkeyPatch, ours: str, native: str
) -> None:
    installed = pytest.importorskip("embercache_native")
    monkeypatch.setattr(open_front, "__version__", ours)
    monkeypatch.setattr(installed, "__version__", native)
    assert told(choose, "auto")[0] == "native"
    monkeypatch.setattr(installed, "__version__", "1.2.0-rc.3")
    assert told(choose, "auto")[0] == "grpcio"


def test_a_stale_build_of_the_same_version_is_not_used_and_the_log_warns(
    choose: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = pytest.importorskip("embercache_native")
    monkeypatch.setattr(native, "Front", lambda hot, backend: None)
    transport, reason, level = told(choose, "auto")
    assert (transport, level) == ("grpcio", "warning")
    assert "another build" in reason
    assert "install it anew" in reason


@pytest.mark.usefixtures("_has_no_place")
def test_without_a_place_for_its_socket_grpcio_is_used_and_the_log_warns(choose: Open) -> None:
    transport, reason, level = told(choose, "auto")
    assert (transport, level) == ("grpcio", "warning")
    assert "let this user write to /tmp or to the folder that TMPDIR names" in reason


@pytest.mark.usefixtures("_has_no_place")
def test_one_that_is_set_and_has_no_place_is_an_error(choose: Open) -> None:
    with pytest.raises(SetupError, match=r"transport is native: there is no folder"):
        choose("native")


def test_what_auto_has_become_is_in_the_settings() -> None:
    settings = Settings.model_validate({"server": {"address": "127.0.0.1:0"}})
    native: Any = object()
    assert with_transport(settings, None).server.transport == "grpcio"
    assert with_transport(settings, native).server.transport == "native"


def test_each_connection_of_the_front_door_counts_with_the_one_behind_it() -> None:
    settings = Settings.model_validate({"server": {"address": "127.0.0.1:0"}})
    native: Any = object()
    most = with_transport(settings, native).server.most_connections
    assert most == with_transport(settings, None).server.most_connections // 3


class Front:
    """A front door that was told of callers."""

    def __init__(self) -> None:
        self.tokens: dict[bytes, bytes] | None = None
        self.certificates: dict[str, bytes] = {}
        self.on_socket: bytes | None = None

    def set_callers(
        self, tokens: dict[bytes, bytes], certificates: dict[str, bytes], on_socket: bytes | None
    ) -> None:
        self.tokens, self.certificates, self.on_socket = tokens, certificates, on_socket


class Policy:
    """A policy of a shop, known by token, certificate and socket, and of one who may not read."""

    def __init__(self, folder: Path) -> None:
        self.file, self.tokens = folder / "policy.yaml", folder / "tokens"
        self.tokens.write_text(f"{SHOP}\n{OLD}")
        other = folder / "other"
        other.write_text(ADMIN)
        self.file.write_text(
            "callers:\n"
            f"- {{name: shop, token_file: {self.tokens}, certificates: [shop.example],"
            " socket: true, namespaces: [shop]}\n"
            f"- {{name: writer, token_file: {other}, certificates: [writer.example],"
            " namespaces: [shop], rights: [write]}\n"
        )


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(tmp_path)


@pytest.fixture
def known(policy: Policy) -> tuple[Access, Any]:
    access, front = Access(policy.file), Front()
    told: Any = front
    keep_callers(told, access)
    return access, front


def test_the_front_door_knows_by_what_callers_are_known(known: tuple[Access, Any]) -> None:
    access, front = known
    scope = access.table.on_socket.scope if access.table.on_socket else b""
    digests = access.table.digests_of("shop")
    assert len(scope) == 16
    assert [front.tokens[digest] for digest in digests] == [scope, scope]
    assert (front.certificates["shop.example"], front.on_socket) == (scope, scope)


def test_callers_without_the_right_to_read_are_left_to_who_refuses_them(
    known: tuple[Access, Any],
) -> None:
    access, front = known
    (digest,) = access.table.digests_of("writer")
    assert digest not in front.tokens
    # The name is there all the same: else the next name in his certificate would count.
    assert front.certificates["writer.example"] == b""


def test_a_token_that_was_withdrawn_is_unknown_at_once(
    known: tuple[Access, Any], policy: Policy
) -> None:
    access, front = known
    policy.tokens.write_text(SHOP)
    access.reload()
    assert front.tokens.keys() == set(access.table.digests_of("shop"))
    assert len(front.tokens) == 1


def test_without_callers_in_the_policy_nobody_is_told_apart(tmp_path: Path) -> None:
    file, front = tmp_path / "policy.yaml", Front()
    file.write_text("quotas: {shop: {share: 2}}")
    access, told = Access(file), front
    seen: Any = told
    keep_callers(seen, access)
    keep_callers(seen, Access(None))
    assert front.tokens is None
    tokens = tmp_path / "tokens"
    tokens.write_text(SHOP)
    file.write_text(f"callers: [{{name: shop, token_file: {tokens}, namespaces: [shop]}}]")
    access.reload()
    assert len(front.tokens or {}) == 1


class Certificate:
    """A certificate that the front door cannot use."""

    def share(self, _use: Callable[..., None]) -> None:
        raise ValueError("the key is of a kind that is not known")


@pytest.mark.parametrize("transport", ["auto", "native"])
async def test_a_certificate_that_it_cannot_use_is_left_to_grpcio(transport: str) -> None:
    pytest.importorskip("embercache_native")
    settings = Settings.model_validate({"server": {"transport": transport}})
    certificate: Any = Certificate()
    reason = "section tls: the key is of a kind that is not known: use other files, or"
    async with contextlib.AsyncExitStack() as exits:
        with capture_logs() as logs:
            if transport == "native":
                with pytest.raises(SetupError, match=reason):
                    open_native(settings, certificate, exits, is_traced=False)
                return
            assert open_native(settings, certificate, exits, is_traced=False) is None
    assert (logs[0]["log_level"], logs[0]["transport"]) == ("warning", "grpcio")
    assert reason in logs[0]["reason"]
