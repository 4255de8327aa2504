"""Who somebody is, by what he shows: for every policy there may be."""

from __future__ import annotations

import string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar.access.caller import Right
from sidecar.access.policy import Policy, PolicyError
from sidecar.access.table import CallerTable, make_table
from sidecar.access.token_files import TokenFiles

TOKENS = st.text(string.ascii_letters + string.digits + "-._~+/", min_size=16, max_size=40)
NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
CERTIFICATES = st.text(string.printable.strip(), min_size=1, max_size=20)
ANYTHING = st.text(max_size=40)
# Each writes files.
EXAMPLES = settings(max_examples=30)


@st.composite
def policies(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Callers that have nothing in common, each with its tokens."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    tokens = draw(st.lists(TOKENS, max_size=12, unique=True))
    certificates = draw(st.lists(CERTIFICATES, max_size=12, unique=True))
    on_socket = draw(st.sampled_from([None, *names]))
    count = len(names)
    return [
        {
            "name": name,
            "tokens": tokens[place::count],
            "certificates": tuple(certificates[place::count]),
            "socket": name == on_socket,
            "namespaces": tuple(draw(st.lists(NAMES | st.just("*"), min_size=1, max_size=3))),
            "rights": tuple(draw(st.sets(st.sampled_from(Right)))),
        }
        for place, name in enumerate(names)
    ]


def read_table(policy: Policy) -> CallerTable:
    """The table of a policy, with the tokens that are in its files."""
    files = TokenFiles()
    assert files.look(policy.callers) == (bool(files.paths), [])
    return make_table(policy, files.digests, CallerTable())


def table_of(callers: list[dict[str, Any]]) -> CallerTable:
    """The table of callers, whose tokens are in files."""
    with TemporaryDirectory() as folder, capture_logs():
        entries = []
        for caller in callers:
            file = Path(folder, caller["name"])
            file.write_text("\n".join(caller["tokens"]))
            entries.append({key: caller[key] for key in caller if key != "tokens"})
            entries[-1]["token_file"] = file
        return read_table(Policy.model_validate({"callers": entries}))


@EXAMPLES
@given(policies())
def test_every_token_is_its_callers_and_has_what_the_policy_gives_him(
    callers: list[dict[str, Any]],
) -> None:
    table = table_of(callers)
    for caller in callers:
        for token in caller["tokens"]:
            who = table.with_token(token)
            assert who is not None
            assert (who.name, who.namespaces) == (caller["name"], caller["namespaces"])
            assert who.rights == set(caller["rights"])


@EXAMPLES
@given(policies(), ANYTHING | TOKENS)
def test_what_is_no_token_is_nobodys(callers: list[dict[str, Any]], shown: str) -> None:
    tokens = {token for caller in callers for token in caller["tokens"]}
    who = table_of(callers).with_token(shown)
    assert (who is not None) == (shown in tokens)


@EXAMPLES
@given(policies(), st.data())
def test_part_of_a_token_is_nobodys(callers: list[dict[str, Any]], data: st.DataObject) -> None:
    tokens = [token for caller in callers for token in caller["tokens"]]
    if not tokens:
        return
    token = data.draw(st.sampled_from(tokens))
    part = token[: data.draw(st.integers(0, len(token) - 1))]
    if part not in tokens:
        assert table_of(callers).with_token(part) is None


@EXAMPLES
@given(policies(), st.lists(ANYTHING | CERTIFICATES, max_size=4))
def test_a_certificate_is_his_whose_name_comes_first_in_it(
    callers: list[dict[str, Any]], names: list[str]
) -> None:
    owners = {name: caller["name"] for caller in callers for name in caller["certificates"]}
    known = [owners[name] for name in names if name in owners]
    who = table_of(callers).with_certificate(names)
    assert (who and who.name) == (known[0] if known else None)


@EXAMPLES
@given(policies())
def test_the_socket_is_his_who_has_it_and_nobodys_else(callers: list[dict[str, Any]]) -> None:
    who = table_of(callers).on_socket
    assert (who and who.name) == next((c["name"] for c in callers if c["socket"]), None)


@EXAMPLES
@given(policies(), NAMES)
def test_a_caller_may_use_his_namespaces_alone(
    callers: list[dict[str, Any]], namespace: str
) -> None:
    for caller in callers:
        for who in table_of([caller]).tokens.values():
            mine = caller["namespaces"]
            assert who.may_use(namespace) == (namespace in mine or "*" in mine)
            assert who.may_use(who.default_namespace("elsewhere"))


@EXAMPLES
@given(policies())
def test_callers_share_a_scope_if_their_namespaces_are_the_same_in_order(
    callers: list[dict[str, Any]],
) -> None:
    found = list(table_of(callers).tokens.values())
    for one in found:
        for other in found:
            assert (one.scope == other.scope) == (one.namespaces == other.namespaces)


def test_a_table_does_not_show_its_tokens(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("a-token-that-is-secret")
    table = read_table(Policy.model_validate({"callers": [entry("shop", tmp_path / "shop")]}))
    assert len(table.tokens) == 1
    assert "secret" not in repr(table.tokens)
    assert "tokens" not in repr(table)


def entry(name: str, file: Path, **fields: Any) -> dict[str, Any]:
    return {"name": name, "token_file": file, "namespaces": ["a"]} | fields


def test_a_token_of_two_callers_is_refused_without_telling_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("the-token-of-both")
    policy = Policy.model_validate(
        {"callers": [entry(name, tmp_path / name) for name in ("one", "two")]}
    )
    with pytest.raises(PolicyError, match="one and two have a token in common") as raised:
        read_table(policy)
    assert "the-token" not in str(raised.value)


def test_a_token_twice_in_the_files_of_one_caller_is_his(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a-token-that-is-long\na-token-that-is-long\n")
    table = read_table(Policy.model_validate({"callers": [entry("one", tmp_path / "one")]}))
    assert len(table.tokens) == 1


def test_an_empty_file_locks_a_caller_out_and_the_log_says_so(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("\n \n")
    with capture_logs() as logs:
        table = read_table(Policy.model_validate({"callers": [entry("shop", tmp_path / "shop")]}))
    assert table.tokens == {}
    assert [(log["log_level"], log["caller"]) for log in logs] == [("warning", "shop")]
