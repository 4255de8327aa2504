"""The Rust client against a real sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def program(built: Callable[[str], Path]) -> Path:
    """The example."""
    return built("rust/target/debug/examples/embed")


def test_the_example_gets_the_vectors_of_python_bit_for_bit_cold_and_from_every_tier(
    program: Path, compare_with_python: Callable[..., None]
) -> None:
    compare_with_python([program])


def test_the_example_names_the_variable_that_holds_a_wrong_address(
    program: Path, run: Callable[..., str]
) -> None:
    assert 'EMBERCACHE_ADDRESS is "localhost"' in run(
        program, "a text", address="localhost", code=1
    )


def test_it_embeds_searches_and_generates(
    program: Path, run: Callable[..., str], address: str
) -> None:
    assert program
    command = ["cargo", "test", "-q", "--offline", "--locked", "--test", "sidecar"]
    said = run(*command, "--", "--ignored", address=address, folder="rust")
    assert " 0 passed" not in said
