"""Values that settings and annotations have in common."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.injector.values import (
    parse_cpu,
    parse_memory,
    parse_packs,
    parse_port,
    parse_quantity,
    parse_secret_key,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"),
        ("+1", "1"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("5.", "5"),
        ("100n", "0.0000001"),
        ("3u", "0.000003"),
        ("250m", "0.25"),
        ("2k", "2000"),
        ("3M", "3000000"),
        ("1G", "1e9"),
        ("1T", "1e12"),
        ("1P", "1e15"),
        ("1E", "1e18"),
        ("1Ki", "1024"),
        ("64Mi", "67108864"),
        ("1.5Gi", "1610612736"),
        ("1Ti", "1099511627776"),
        ("1Pi", "1125899906842624"),
        ("1Ei", "1152921504606846976"),
        ("1e3", "1000"),
        ("12E-1", "1.2"),
        ("1E+2", "100"),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "m",
        "-1",
        "1 Gi",
        "1gi",
        "1K",
        "1MB",
        "0x10",
        "1e",
        "1_000",
        "\u0661",
        "1e999",
        "Mi",
    ],
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write a quantity such as 250m, 1\.5 or 64Mi"):
        parse_quantity(text)


@given(st.decimals(min_value=0, max_value=10**9, places=3))
def test_a_thousandth_is_the_same_with_and_without_its_suffix(number: Decimal) -> None:
    assert parse_quantity(f"{number * 1000:f}m") == parse_quantity(f"{number:f}")


def test_memory_of_a_fraction_of_a_byte_which_is_a_common_slip_is_refused() -> None:
    with pytest.raises(ValueError, match="write at least 16Mi, as in 512Mi or 1Gi, not '512m'"):
        parse_memory("512m")


def test_less_cpu_than_kubernetes_counts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 1m, a thousandth of a CPU, not '0\.1m'"):
        parse_cpu("0.1m")


@pytest.mark.parametrize(
    "text",
    ["0", "80", "1023", "65536", "http", "-1", "", "5_0000", "\uff15\uff10\uff15\uff15\uff11"],
)
def test_a_port_is_one_that_needs_no_privileges(text: str) -> None:
    with pytest.raises(ValueError, match="write a number from 1024 to 65535"):
        parse_port(text)


def test_the_key_of_a_secret_is_url_unless_it_is_named() -> None:
    assert parse_secret_key("redis") == ("redis", "url")
    assert parse_secret_key("redis.shop/REDIS_URL") == ("redis.shop", "REDIS_URL")


@pytest.mark.parametrize("text", ["", "Redis", "a/", "/a", "a/b/c", "redis://:secret@host:6379/0"])
def test_a_secret_that_is_written_where_its_name_belongs_is_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="write NAME or NAME/KEY of a Secret") as caught:
        parse_secret_key(text)
    assert "secret@host" not in str(caught.value)


def test_spaces_between_model_packs_are_left_out() -> None:
    assert parse_packs("minilm, /models/own") == "minilm,/models/own"


def test_a_model_pack_may_be_pinned() -> None:
    pinned = f"/models/own@sha256:{'0' * 64}"
    assert parse_packs(pinned) == pinned


@pytest.mark.parametrize("text", ["", ",", "minilm,", "mini lm", "a;b", "minilm@sha256:0"])
def test_what_names_no_model_packs_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write names of model packs with commas between"):
        parse_packs(text)
