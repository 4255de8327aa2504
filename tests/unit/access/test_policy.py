"""The policy file."""

from __future__ import annotations

import pytest

from sidecar.access.caller import Right
from sidecar.access.policy import PolicyError, read_policy

SHOP = "{name: shop, socket: true, namespaces: [shop]}"


def test_a_caller_may_read_unless_more_is_said() -> None:
    (shop,) = read_policy(f"callers: [{SHOP}]".encode()).callers
    assert shop.rights == (Right.READ,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty: name callers, quotas or both"),
        ("callers: []", "it is empty"),
        ("callers: [", "it is not YAML at line 1, column 11"),
        ("quotas:\n  a: b: c", "it is not YAML at line 2, column 7"),
        ("quotas: !!float ''", "it is not YAML: a value is not what its tag says"),
        ("quotas: !!int ''", "it is not YAML: a value"),
        ("quotas: !!bool x", "it is not YAML: a value"),
        ("quotas: !!timestamp x", "it is not YAML: a value"),
        (f"callers: [{SHOP}]\ncallers: []", "a key is written twice at line 2, column 1"),
        ("quotas: {a: {share: 1, 'share': 2}}", "a key is written twice at line 1, column 24"),
        ("- shop", "the file: Input should be a valid dictionary"),
        ("caller: []", "caller: Extra inputs"),
        (f"callers: [{SHOP}, {SHOP}]", "two callers have the same name"),
        (f"callers: [{SHOP}, {SHOP.replace('name: shop', 'name: b')}]", "the same socket"),
        (
            f"callers: [{SHOP}, {{name: b, certificates: [x, y, x], namespaces: [a]}}]",
            "two callers have the same certificate",
        ),
        (
            'callers: [{name: a, certificates: ["\\uD800x"], namespaces: [a]}]',
            r"callers\.0\.certificates\.0",
        ),
        (
            'callers: [{name: a, certificates: [""], namespaces: [a]}]',
            r"callers\.0\.certificates\.0",
        ),
        ("callers: [{name: a, namespaces: [a]}]", "say how the caller is known"),
        ("callers: [{name: a, socket: true}]", r"callers\.0\.namespaces: Field required"),
        ("callers: [{name: a, socket: true, namespaces: []}]", r"callers\.0\.namespaces: "),
        ("callers: [{name: a, socket: true, namespaces: ['a b']}]", r"callers\.0\.namespaces\.0"),
        ("callers: [{name: a, socket: true, namespaces: ['a*']}]", r"callers\.0\.namespaces\.0"),
        (
            "callers: [{name: a, socket: true, namespaces: [a], rights: [root]}]",
            r"callers\.0\.rights\.0",
        ),
        ("callers: [{name: a, socket: true, namespaces: [a], token: abc}]", "Extra inputs"),
    ],
)
def test_what_is_wrong_is_told_with_the_field(text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        read_policy(text.encode())


def test_what_is_wrong_is_told_without_quoting_it() -> None:
    with pytest.raises(PolicyError) as raised:
        read_policy(b"quotas: {secret: *secret}")
    assert "secret" not in str(raised.value)


def test_a_key_may_override_one_that_is_merged() -> None:
    text = "quotas: {a: &a {share: 2, computations: 3}, b: {<<: *a, share: 4}}"
    quota = read_policy(text.encode()).quota("b")
    assert (quota.share, quota.computations) == (4, 3)


def test_a_policy_may_have_quotas_alone() -> None:
    policy = read_policy(b"quotas: {'*': {items_per_second: 5}}")
    assert policy.callers == ()
    assert policy.quota("any").items_per_second == 5
