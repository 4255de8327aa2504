"""Whatever a caller shows of himself, he is known or refused, and his secret is not repeated."""

from __future__ import annotations

from contextvars import Context, copy_context
from dataclasses import dataclass, field

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar.access.caller import Caller, Right, caller
from sidecar.access.live import Access
from sidecar.access.policy import CallerPolicy, Policy
from sidecar.access.table import CallerTable
from sidecar.access.tokens import token_digest
from sidecar.services.errors import CallError
from sidecar.transport.admission import admit, identify

TOKEN = "the-token-of-somebody"  # noqa: S105
BY_TOKEN, BY_NAME, ON_SOCKET = (
    Caller(name, ("a",), frozenset({Right.READ})) for name in ("token", "name", "socket")
)
TABLE = CallerTable({token_digest(TOKEN): BY_TOKEN}, {"a.example": BY_NAME}, ON_SOCKET)
# As HTTP has them: bytes that are no UTF-8 are surrogates.
HEADERS = st.text(st.characters(codec="utf-8") | st.characters(categories=["Cs"])) | st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["Bearer", "bearer", "BEARER", "Basic", ""]),
    st.sampled_from([" ", "  ", "", "\t", ","]),
    st.sampled_from([TOKEN, TOKEN[:-1], TOKEN + "=", TOKEN.upper(), "another-secret"]),
    st.sampled_from(["", " ", "\x00", ","]),
)


@dataclass
class Shown:
    values: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    on_socket: bool = False

    def authorization(self) -> list[str]:
        return self.values

    def certificate_names(self) -> list[str]:
        return self.names

    def is_on_socket(self) -> bool:
        return self.on_socket


def known_as(shown: Shown) -> Caller | None:
    refusal: CallError
    try:
        return identify(TABLE, shown)
    except CallError as error:
        refusal = error
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    secrets = [word for value in shown.values for word in value.split() if len(word) >= 10]
    assert not any(secret in refusal.message for secret in secrets)
    return None


@given(st.lists(HEADERS, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_who_shows_a_token_is_known_by_that_alone(
    values: list[str], has_name: bool, on_socket: bool
) -> None:
    shown = Shown(values, ["a.example"] if has_name else [], on_socket)
    scheme, _, token = values[0].partition(" ")
    is_right = scheme.lower() == "bearer" and token.strip(" ") == TOKEN and len(values) == 1
    assert known_as(shown) == (BY_TOKEN if is_right else None)


@given(st.lists(st.sampled_from(["a.example", "b.example", "A.EXAMPLE", ""])), st.booleans())
def test_else_by_the_names_of_his_certificate_and_else_by_the_socket(
    names: list[str], on_socket: bool
) -> None:
    expected = ON_SOCKET if on_socket else None
    assert known_as(Shown([], names, on_socket)) == (BY_NAME if "a.example" in names else expected)


class _Fixed(Access):
    """A policy that a test has made."""

    def __init__(self) -> None:
        super().__init__(None)
        self.table = TABLE
        somebody = CallerPolicy(name="somebody", socket=True, namespaces=("a",))
        self.policy = Policy(callers=(somebody,))


@pytest.fixture
def call() -> Context:
    """The context of a call; that of these tests is also that of those that follow."""
    return copy_context()


def test_who_is_refused_is_not_entered(call: Context) -> None:
    with pytest.raises(CallError, match="needs the right write, which the caller socket has not"):
        call.run(admit, _Fixed(), Shown(on_socket=True), Right.WRITE, "Upsert")
    assert call.run(caller) is None


def test_who_is_admitted_is_the_caller_from_then_on(call: Context) -> None:
    call.run(admit, _Fixed(), Shown(on_socket=True), Right.READ, "Embed")
    assert call.run(caller) is ON_SOCKET


def test_who_administers_is_logged(call: Context) -> None:
    access = _Fixed()
    admin = Caller("admin", ("*",), frozenset(Right))
    access.table = CallerTable({}, {}, admin)
    with capture_logs() as logs:
        call.run(admit, access, Shown(on_socket=True), Right.READ, "Embed")
        call.run(admit, access, Shown(on_socket=True), Right.ADMINISTER, "Flush")
    assert [(log["caller"], log["method"]) for log in logs] == [("admin", "Flush")]
