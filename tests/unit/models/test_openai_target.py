"""Addresses of OpenAI-compatible services, and names of their models."""

from __future__ import annotations

import pytest

from sidecar.models.errors import SetupError
from sidecar.models.openai_target import OpenAITarget, is_openai, parse_names, parse_target


def parse(target: str, *, has_key: bool = False, insecure: bool = False) -> OpenAITarget:
    return parse_target(target, "encoder.target", has_key=has_key, insecure=insecure)


@pytest.mark.parametrize(
    ("target", "base_url", "host"),
    [
        ("openai://api.openai.com/v1", "https://api.openai.com/v1", "api.openai.com"),
        ("openai://Host:8443/v1/", "https://host:8443/v1", "host:8443"),
        ("openai://host:443/a/v1", "https://host/a/v1", "host"),
        ("openai+http://vllm:8000/v1", "http://vllm:8000/v1", "vllm:8000"),
        ("OPENAI+HTTP://localhost:80/", "http://localhost", "localhost"),
        ("openai+http://[::1]:8000/v1", "http://[::1]:8000/v1", "[::1]:8000"),
    ],
)
def test_openai_is_https_and_openai_http_is_plain(target: str, base_url: str, host: str) -> None:
    assert is_openai(target)
    assert parse(target) == OpenAITarget(base_url, host)


@pytest.mark.parametrize("target", ["local", "encoders:50551", "dns:///openai:50551"])
def test_other_targets_are_not_of_this_kind(target: str) -> None:
    assert not is_openai(target)


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("openai://api.openai.com", "needs the path of the API"),
        ("openai:///v1", "no host"),
        ("openai:api.openai.com/v1", "no host"),
        ("openai://one,two/v1", "no host, or not one alone"),
        ("openai://host:99999/v1", "that is no address"),
        ("openai://[::1/v1", "that is no address"),
        ("openai://host/v1?api-version=1", r"leave out what follows \?"),
        ("openai://host/v1#top", "leave out what follows"),
        ("openai://host/v1 and more", "needs the path"),
    ],
)
def test_what_is_no_address_is_refused_and_says_what_to_write(target: str, advice: str) -> None:
    with pytest.raises(SetupError, match=f"^encoder.target: .*{advice}"):
        parse(target)


@pytest.mark.parametrize(
    "target", ["openai://sk-1@host/v1", "openai://:sk-1@host/v1", "openai://host/v1?key=sk-1"]
)
def test_a_key_in_the_address_is_refused_and_not_repeated(target: str) -> None:
    with pytest.raises(SetupError) as refused:
        parse(target)
    assert "sk-1" not in str(refused.value)


@pytest.mark.parametrize(
    ("target", "has_key", "insecure", "is_taken"),
    [
        ("openai+http://vllm:8000/v1", True, False, False),
        ("openai+http://vllm:8000/v1", True, True, True),
        ("openai+http://vllm:8000/v1", False, False, True),
        ("openai+http://127.0.0.1:8000/v1", True, False, True),
        ("openai+http://localhost:8000/v1", True, False, True),
        ("openai+http://[::1]:8000/v1", True, False, True),
        ("openai+http://10.0.0.1:8000/v1", True, False, False),
        ("openai+http://localhost.example:8000/v1", True, False, False),
        ("openai://vllm:8000/v1", True, False, True),
    ],
)
def test_a_key_goes_to_other_machines_with_encryption_only(
    target: str, has_key: bool, insecure: bool, is_taken: bool
) -> None:
    if is_taken:
        parse(target, has_key=has_key, insecure=insecure)
    else:
        with pytest.raises(SetupError, match="without encryption"):
            parse(target, has_key=has_key, insecure=insecure)


def test_a_name_is_ours_and_theirs_or_ours_for_theirs() -> None:
    words = ["gpt-4o-mini", "llama=meta-llama/Llama-3.1-8B", "odd = a=b"]
    assert parse_names(words, "model.packs") == {
        "gpt-4o-mini": "gpt-4o-mini",
        "llama": "meta-llama/Llama-3.1-8B",
        "odd": "a=b",
    }


@pytest.mark.parametrize("word", ["meta-llama/Llama", "a b=c", "=c", "ours=", "..", "", "x" * 65])
def test_a_name_that_cannot_be_ours_is_refused(word: str) -> None:
    with pytest.raises(SetupError, match=r"^generator.packs: .* write OURS=THEIRS"):
        parse_names([word], "generator.packs")


def test_two_models_cannot_have_one_name() -> None:
    with pytest.raises(SetupError, match="two models have the name a"):
        parse_names(["a", "a=b"], "model.packs")
