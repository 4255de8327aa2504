from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.keys import KeySpace, canonical, digest

PARTS = st.lists(st.binary(max_size=12), max_size=5)


def space(**changes: object) -> KeySpace:
    values = {
        "prefix": "embercache",
        "kind": "embed",
        "namespace": "default",
        "model": "minilm",
        "version": "1",
        "salt": b"",
    }
    return KeySpace(**(values | changes))


@given(PARTS, PARTS)
def test_two_inputs_never_have_the_same_canonical_form(one: list[bytes], two: list[bytes]) -> None:
    assert (canonical(one) == canonical(two)) == (one == two)


@given(PARTS, PARTS)
def test_two_inputs_never_share_a_key(one: list[bytes], two: list[bytes]) -> None:
    keys = space()
    assert (keys.key(1, *one) == keys.key(1, *two)) == (one == two)


def test_parts_that_join_to_the_same_bytes_have_different_keys() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc") != digest(b"abc")


def test_a_key_names_where_it_belongs_and_hides_what_it_is_of() -> None:
    key = space(namespace="shop", version="v7").key(255, b"text", b"secret plans")
    assert key.startswith(b"embercache:embed:shop:minilm:v7:ff:")
    assert len(key.rpartition(b":")[2]) == 32
    assert b"secret" not in key
    assert b" " not in key


def test_everything_a_vector_depends_on_changes_the_key() -> None:
    keys = {
        space().key(1, b"x"),
        space().key(2, b"x"),
        space(prefix="other").key(1, b"x"),
        space(kind="search").key(1, b"x"),
        space(namespace="other").key(1, b"x"),
        space(model="other").key(1, b"x"),
        space(version="2").key(1, b"x"),
    }
    assert len(keys) == 7


def test_equal_inputs_of_two_namespaces_have_unrelated_digests() -> None:
    ends = {space(namespace=name).key(1, b"x").rpartition(b":")[2] for name in ("a", "b")}
    assert len(ends) == 2


def test_a_salt_makes_digests_unguessable_without_it() -> None:
    ends = {space(salt=salt).key(1, b"x").rpartition(b":")[2] for salt in (b"", b"s1", b"s2")}
    assert len(ends) == 3
