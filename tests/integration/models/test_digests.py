"""Real packs, tampered with: the sidecar does not start, and says which file it was."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.app import App
from sidecar.config import Settings
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.errors import SetupError
from sidecar.models.manifest import write_manifest
from sidecar.models.packs import pinned, resolve

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """A copy of a pack whose files can be replaced, but not written to: they are the same."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)

    def make(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / folder.name, copy_function=link))

    return make


def tamper(path: Path) -> None:
    """Changes one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


async def start(pack: str, folder: Path) -> None:
    """Starts a sidecar with a pack, and stops it."""
    socket = tempfile.mkdtemp() + "/s"  # a path that is short enough
    settings = {"socket": socket, "address": "", "drain_delay": 0, "drain_timeout": 0.1}
    model = {"packs": [pack], "folder": folder}
    async with App(Settings.model_validate({"server": settings, "model": model})):
        pass


async def test_a_whole_pack_is_started(minilm_folder: Path) -> None:
    await start("minilm", minilm_folder.parent)


@pytest.mark.parametrize(
    "name", ["model.onnx", "tokenizer.json", "modules.json", "sentence_bert_config.json"]
)
@pytest.mark.threat("A file of a pack was tampered with")
async def test_a_file_of_a_built_in_pack_that_was_tampered_with_is_named(
    minilm_folder: Path, copy: Callable[[Path], Path], name: str
) -> None:
    folder = copy(minilm_folder)
    tamper(folder / name)
    with pytest.raises(SetupError, match=rf"minilm/{name}: differs from what is listed"):
        await start("minilm", folder.parent)


@pytest.mark.threat("A file of a pack was tampered with")
async def test_who_changes_the_manifest_too_is_found_out(
    minilm_folder: Path, copy: Callable[[Path], Path]
) -> None:
    folder = copy(minilm_folder)
    (folder / "manifest.json").unlink()
    tamper(folder / "tokenizer_config.json")
    write_manifest(folder)
    with pytest.raises(SetupError, match=r"manifest.json: has the sha256 .*models pull minilm"):
        await start("minilm", folder.parent)


async def test_a_file_that_was_put_into_a_pack_is_named(
    minilm_folder: Path, copy: Callable[[Path], Path]
) -> None:
    folder = copy(minilm_folder)
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "evil"}}')
    with pytest.raises(SetupError, match=r"config_sentence_transformers.json: is not listed"):
        await start("minilm", folder.parent)


def test_a_chat_template_that_was_put_into_a_generator_is_named(
    smollm2_folder: Path, copy: Callable[[Path], Path]
) -> None:
    folder = copy(smollm2_folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(SetupError, match=r"chat_template.jinja: is not listed in manifest.json"):
        read_decoder_pack(resolve("smollm2-135m", folder.parent))


def test_weights_beside_the_graph_that_were_tampered_with_are_named(
    smollm2_folder: Path, copy: Callable[[Path], Path]
) -> None:
    folder = copy(smollm2_folder)
    tamper(folder / "model.onnx.data")
    with pytest.raises(SetupError, match=r"model.onnx.data: differs from what is listed"):
        read_decoder_pack(resolve("smollm2-135m", folder.parent))


@pytest.mark.threat("A file of a pack was tampered with")
async def test_a_folder_of_ones_own_is_started_only_as_it_was_pinned(
    minilm_folder: Path, copy: Callable[[Path], Path]
) -> None:
    folder = copy(minilm_folder)
    (folder / "manifest.json").unlink()
    reference = pinned(folder, write_manifest(folder))
    await start(reference, folder)
    tamper(folder / "modules.json")
    with pytest.raises(SetupError, match=r"minilm/modules.json: differs from what is listed"):
        await start(reference, folder)
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    with pytest.raises(SetupError, match=r"manifest.json: has the sha256 .* pinned to"):
        await start(reference, folder)
