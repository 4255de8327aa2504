"""What is known of the caller of a call that the front door handed over."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.transport.shown import FrontCall


class Call:
    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Any:
        return self._metadata or None


def shown(*metadata: tuple[str, str | bytes]) -> FrontCall:
    call: Any = Call(*metadata)
    return FrontCall(call)


def test_names_of_a_certificate_come_in_their_order() -> None:
    call = shown(("embercache-certificate-bin", b"spiffe://a/b\0shop.example"))
    assert call.certificate_names() == ["spiffe://a/b", "shop.example"]


def test_a_name_that_is_no_text_is_none_that_a_policy_could_have() -> None:
    call = shown(("embercache-certificate-bin", b"\xff"))
    assert call.certificate_names() == ["\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(("peer", "is_on_socket"), [("unix", True), ("tcp", False)])
def test_who_comes_over_the_unix_socket_is_known_for_it(peer: str, is_on_socket: bool) -> None:
    assert shown(("embercache-peer", peer)).is_on_socket() == is_on_socket


def test_every_authorization_is_told() -> None:
    call = shown(("authorization", "Bearer a"), ("authorization", "Bearer b"))
    assert call.authorization() == ["Bearer a", "Bearer b"]


def test_without_metadata_a_call_shows_nothing() -> None:
    call = shown()
    assert (call.authorization(), call.certificate_names(), call.is_on_socket()) == ([], [], False)
