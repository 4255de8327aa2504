"""A model has the name of its folder, by which calls, keys and metrics tell it from others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import embed_pb2

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]

# Nobody has to listen there.
POOL = "127.0.0.1:1"


@pytest.mark.parametrize("name", ["my model", "mod\N{LATIN SMALL LETTER E WITH ACUTE}le", "a:b"])
async def test_a_folder_whose_name_is_none_for_a_model_is_refused(
    name: str, start: Start, make_pack: Callable[..., Path]
) -> None:
    with pytest.raises(SetupError, match=r"rename the folder, or link to it") as error:
        await start(packs=[make_pack("packs", name)])
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("path", [".", "..", "sub/.."])
async def test_a_path_that_does_not_end_with_a_name_is_refused(
    path: str, start: Start, make_pack: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = make_pack("packs")
    (pack / "sub").mkdir()
    monkeypatch.chdir(pack / "sub" if path == ".." else pack)
    with pytest.raises(SetupError, match=r"rename the folder, or link to it"):
        await start(model={"packs": [path]})


async def test_a_link_gives_a_model_its_name(
    start: Start, make_pack: Callable[..., Path], tmp_path: Path
) -> None:
    link = tmp_path / "a-model_1.0"
    link.symlink_to(make_pack("packs", "a model"))
    sidecar = await start(packs=[link])
    (model,) = (await sidecar.embeds.ListModels(embed_pb2.ListModelsRequest())).models
    assert model.name == "a-model_1.0"


async def test_two_folders_of_the_same_name_are_refused(
    start: Start, tiny_pack: Path, other_tiny_pack: Path
) -> None:
    with pytest.raises(SetupError, match=r"two models have the name tiny: leave one out"):
        await start(packs=[tiny_pack, other_tiny_pack])


@pytest.mark.parametrize("packs", [["./tiny"], ["tiny", "tiny"], ["a b"], ["."]])
async def test_the_models_of_a_pool_have_such_names_too(start: Start, packs: list[str]) -> None:
    with pytest.raises(SetupError, match=r"model\.packs"):
        await start(model={"packs": packs}, encoder={"target": POOL, "timeout": 0.1})
