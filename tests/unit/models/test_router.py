"""Which model a name means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sidecar.models.router import ModelRouter


@dataclass(eq=False)
class Model:
    name: str


@pytest.fixture
def models() -> dict[str, Any]:
    return {name: Model(name) for name in ("first", "second", "third")}


@pytest.fixture
def router(models: dict[str, Any]) -> ModelRouter:
    return ModelRouter(models)


def meant(router: ModelRouter, name: str) -> str | None:
    model: Any = router.resolve(name)
    return None if model is None else model.name


def test_a_name_means_its_own_model(router: ModelRouter) -> None:
    assert [meant(router, name) for name in router.names()] == ["first", "second", "third"]


def test_the_empty_name_means_the_first_model(router: ModelRouter) -> None:
    assert meant(router, "") == "first"


def test_an_unknown_name_means_nothing(router: ModelRouter) -> None:
    assert router.resolve("fourth") is None


def test_a_moved_name_means_the_other_model_and_nothing_else_changes(router: ModelRouter) -> None:
    router.set_moved({"second": "third"})
    assert [meant(router, name) for name in ("first", "second", "third")] == [
        "first",
        "third",
        "third",
    ]
    assert router.moved == {"second": "third"}


def test_the_empty_name_goes_where_the_first_goes(router: ModelRouter) -> None:
    router.set_moved({"first": "second"})
    assert meant(router, "") == "second"


def test_a_move_goes_one_step_so_there_are_no_circles(router: ModelRouter) -> None:
    router.set_moved({"first": "second", "second": "first"})
    assert (meant(router, "first"), meant(router, "second")) == ("second", "first")


def test_a_name_without_a_model_of_its_own_can_be_moved(router: ModelRouter) -> None:
    router.set_moved({"gone": "second"})
    assert meant(router, "gone") == "second"
    assert router.own("gone") is None


def test_moving_back_is_moving_nothing(router: ModelRouter) -> None:
    router.set_moved({"first": "second"})
    router.set_moved({})
    assert meant(router, "first") == meant(router, "") == "first"


def test_the_own_model_of_a_moved_name_can_still_be_had(
    router: ModelRouter, models: dict[str, Any]
) -> None:
    router.set_moved({"first": "second"})
    assert router.own("first") is models["first"]
    assert list(router) == list(models.values())


def test_a_name_cannot_be_moved_to_a_model_that_is_not_here(router: ModelRouter) -> None:
    with pytest.raises(KeyError, match="fourth"):
        router.set_moved({"first": "fourth"})
    assert meant(router, "first") == "first"


def test_there_is_no_router_without_models() -> None:
    with pytest.raises(ValueError, match="no model"):
        ModelRouter({})
