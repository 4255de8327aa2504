"""The policy in force, while its files change."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

import sidecar.access.live
from sidecar.access.live import Access
from sidecar.access.policy import Policy, PolicyError
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

FIRST, SECOND = "the-first-token-of-shop", "the-second-token-of-shop"


class Files:
    """A policy of one caller, and the file of his tokens."""

    def __init__(self, folder: Path) -> None:
        self.policy, self.tokens = folder / "policy.yaml", folder / "tokens"
        self.allow("shop")
        self.tokens.write_text(FIRST)

    def allow(self, *namespaces: str) -> None:
        self.write(
            f"callers: [{{name: shop, token_file: {self.tokens},"
            f" namespaces: [{', '.join(namespaces)}]}}]"
        )

    def write(self, text: str) -> None:
        """As an editor does: never half of it."""
        new = self.policy.with_suffix(".new")
        new.write_text(text)
        new.replace(self.policy)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def names(access: Access, token: str) -> tuple[str, ...]:
    """The namespaces of a token."""
    who = access.table.with_token(token)
    return who.namespaces if who is not None else ()


def test_a_new_token_is_taken_beside_the_old_one_until_that_goes(files: Files) -> None:
    access = Access(files.policy)
    files.tokens.write_text(f"{FIRST}\n{SECOND}")
    access.reload()
    assert names(access, FIRST) == names(access, SECOND) == ("shop",)
    files.tokens.write_text(SECOND)
    access.reload()
    assert names(access, FIRST) == ()


def test_another_policy_is_in_force_at_once(files: Files) -> None:
    access = Access(files.policy)
    files.allow("shop", "shop-staging")
    access.reload()
    assert names(access, FIRST) == ("shop", "shop-staging")


@pytest.mark.parametrize(
    "broken",
    [
        "callers: [",
        "",
        "callers: []",
        "quotas: {shop: {items_per_second: 1}}",
        "quotas: {shop: {items_per_second: !!float ''}}",
    ],
    ids=["no YAML", "empty", "nobody", "only quotas", "odd tag"],
)
def test_a_policy_that_became_unusable_changes_nothing_and_is_logged_once(
    files: Files, broken: str
) -> None:
    access = Access(files.policy)
    files.write(broken)
    with capture_logs() as logs:
        access.reload()
        access.reload()
    assert [log["log_level"] for log in logs] == ["error"]
    assert "policy.yaml" in logs[0]["reason"]
    assert access.failures == {"policy": 1, "tokens": 0}
    assert names(access, FIRST) == ("shop",)
    assert access.tells_callers_apart


def test_a_policy_that_was_repaired_is_in_force(files: Files) -> None:
    access = Access(files.policy)
    files.policy.unlink()
    with capture_logs():
        access.reload()
    files.allow("other")
    access.reload()
    assert names(access, FIRST) == ("other",)


def test_a_failure_that_comes_back_is_logged_again(files: Files) -> None:
    access = Access(files.policy)
    with capture_logs() as logs:
        for text in ("callers: [", None, "callers: ["):
            files.allow("shop") if text is None else files.write(text)
            access.reload()
    assert [log["log_level"] for log in logs] == ["error", "info", "error"]


def test_a_file_of_tokens_that_went_keeps_them_in_force(files: Files) -> None:
    access = Access(files.policy)
    files.tokens.unlink()
    with capture_logs() as logs:
        access.reload()
    assert "caller shop" in logs[0]["reason"]
    assert names(access, FIRST) == ("shop",)


def test_a_bad_file_of_tokens_keeps_nobody_elses_from_being_withdrawn(files: Files) -> None:
    others, third = files.tokens.with_name("others"), "the-only-token-of-bank"
    others.write_text(third)
    files.write(
        f"callers: [{{name: shop, token_file: {files.tokens}, namespaces: [shop]}},"
        f" {{name: bank, token_file: {others}, namespaces: [bank]}}]"
    )
    access = Access(files.policy)
    assert names(access, third) == ("bank",)
    files.tokens.write_text("short")
    others.write_text("")
    with capture_logs() as logs:
        access.reload()
    assert names(access, third) == ()
    assert names(access, FIRST) == ("shop",)
    (error,) = (log for log in logs if log["log_level"] == "error")
    assert access.failures == {"policy": 0, "tokens": 1}
    assert error["reason"].startswith(f"token_file of the caller shop: {files.tokens}: line 1 ")


def test_a_caller_who_is_new_has_no_tokens_while_his_file_is_bad(files: Files) -> None:
    access = Access(files.policy)
    files.tokens.write_text("short")
    files.write(files.policy.read_text().replace("name: shop", "name: bank"))
    with capture_logs():
        access.reload()
    assert names(access, FIRST) == ()


def test_callers_may_be_named_where_there_were_none(files: Files) -> None:
    files.write("quotas: {shop: {items_per_second: 1}}")
    access = Access(files.policy)
    assert not access.tells_callers_apart
    files.allow("shop")
    access.reload()
    assert access.tells_callers_apart


def test_subscribers_are_told_at_once_and_when_the_policy_becomes_another(files: Files) -> None:
    access = Access(files.policy)
    told: list[Policy] = []
    access.subscribe(told.append)
    assert told == [access.policy]
    files.tokens.write_text(SECOND)
    access.reload()
    assert len(told) == 1
    files.allow("other")
    access.reload()
    files.write("callers: [")
    with capture_logs():
        access.reload()
    assert [policy.callers[0].namespaces for policy in told] == [("shop",), ("other",)]


def test_without_a_file_nobody_is_told_apart_and_nothing_is_limited() -> None:
    access = Access(None)
    told: list[Policy] = []
    access.subscribe(told.append)
    access.reload()
    assert told == [Policy()]
    assert not access.tells_callers_apart
    assert not access.is_followed


def test_files_that_cannot_be_used_at_first_are_an_error_that_quotes_no_token(
    files: Files,
) -> None:
    def problem() -> str:
        with pytest.raises(PolicyError) as error:
            Access(files.policy)
        assert FIRST not in str(error.value)
        return str(error.value).replace(str(files.policy.parent), "")

    policy = files.policy.read_text()
    files.tokens.write_text(f"{FIRST}\nshort")
    assert problem().startswith(
        "access.policy_file: /policy.yaml: token_file of the caller shop: /tokens: line 2 is not"
    )
    files.tokens.unlink()
    assert problem() == (
        "access.policy_file: /policy.yaml: token_file of the caller shop: cannot read /tokens:"
        " No such file or directory"
    )
    files.write("")
    assert problem().startswith("access.policy_file: /policy.yaml: it is empty")
    files.tokens.write_text(FIRST)
    more = policy.replace("callers: [", "").removesuffix("]").replace("name: shop", "name: other")
    files.write(policy.removesuffix("]") + f", {more}]")
    assert problem().startswith(
        "access.policy_file: /policy.yaml: the callers shop and other have a token in common"
    )
    files.policy.unlink()
    assert problem().startswith("access.policy_file: cannot read /policy.yaml: No such file")


def test_tokens_are_withdrawn_even_while_the_policy_is_no_good(files: Files) -> None:
    access = Access(files.policy)
    files.write("callers: [")
    files.tokens.write_text(SECOND)
    with capture_logs() as logs:
        access.reload()
    assert names(access, FIRST) == ()
    assert names(access, SECOND) == ("shop",)
    assert access.failures == {"policy": 1, "tokens": 0}
    assert [log["log_level"] for log in logs] == ["error", "info"]


def test_a_token_that_becomes_anothers_too_changes_nothing_until_it_is_his_alone(
    files: Files,
) -> None:
    others = files.tokens.with_name("others")
    others.write_text(SECOND)
    files.write(
        f"callers: [{{name: shop, token_file: {files.tokens}, namespaces: [shop]}},"
        f" {{name: bank, token_file: {others}, namespaces: [bank]}}]"
    )
    access = Access(files.policy)
    others.write_text(f"{SECOND}\n{FIRST}")
    with capture_logs():
        access.reload()
    assert names(access, FIRST) == ("shop",)
    assert access.failures == {"policy": 1, "tokens": 0}
    files.tokens.write_text("the-third-token-of-shop")
    access.reload()
    assert names(access, FIRST) == ("bank",)


async def test_changes_of_the_files_are_followed_also_of_those_that_are_named_later(
    files: Files, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar.access.live, "watch_files", partial(watch_files, seconds=0.001))
    access = Access(files.policy)
    following = asyncio.create_task(access.follow())
    await asyncio.sleep(0)
    try:
        files.tokens.write_text(SECOND)
        await eventually(lambda: names(access, SECOND))
        # He keeps the tokens that he had until the new ones are there.
        files.tokens = files.tokens.with_name("more-tokens")
        with capture_logs() as logs:
            files.allow("other")
            await eventually(lambda: logs)
            files.tokens.write_text(FIRST)
            await eventually(lambda: names(access, FIRST) == ("other",))
        # They are read once more, since other files are looked at: one failure is logged once.
        assert [log["log_level"] for log in logs if log["log_level"] != "info"] == ["error"]
        assert names(access, SECOND) == ()
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_files_are_followed_after_an_unexpected_error_which_is_logged_without_its_words(
    files: Files, eventually: Eventually
) -> None:
    told: list[str] = []

    def changed() -> None:
        told.append(files.tokens.read_text())
        if len(told) == 1:
            raise KeyError(FIRST)

    with capture_logs() as logs:
        following = asyncio.create_task(watch_files(lambda: [files.tokens], changed, seconds=0.001))
        await asyncio.sleep(0)
        try:
            for text in ("one", "another one"):
                files.tokens.write_text(text)
                await eventually(lambda text=text: text in told)  # type: ignore[misc]
        finally:
            following.cancel()
            await asyncio.wait({following})
    assert [log["error"] for log in logs] == ["KeyError"]
    assert FIRST not in str(logs)


async def test_a_file_that_cannot_be_a_path_does_not_end_the_watch(
    files: Files, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar.access.live, "watch_files", partial(watch_files, seconds=0.001))
    access = Access(files.policy)
    following = asyncio.create_task(access.follow())
    await asyncio.sleep(0)
    try:
        with capture_logs() as logs:
            good = files.policy.read_text()
            files.write(good.replace(str(files.tokens), '"a\\0b"'))
            await eventually(lambda: logs)
            files.write(good)
            files.tokens.write_text(SECOND)
            await eventually(lambda: names(access, SECOND))
    finally:
        following.cancel()
        await asyncio.wait({following})
