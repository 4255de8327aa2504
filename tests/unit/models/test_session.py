"""Which provider a model runs on, and what is said where that is not the one asked for."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
import pytest

from sidecar.models.cpus import usable_cpus
from sidecar.models.errors import SetupError
from sidecar.models.session import open_session

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.models.session import Provider


@pytest.fixture
def graph(make_pack: Any) -> Path:
    path: Path = make_pack.text() / "model.onnx"
    return path


@pytest.fixture
def built_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])


@pytest.fixture
def cuda_fails_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build with CUDA on a machine without a GPU: the session falls back by itself."""
    open_real = ort.InferenceSession

    def open_on_cpu(path: Path, options: object, providers: list[Any]) -> ort.InferenceSession:
        return open_real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", open_on_cpu)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_cpu_is_taken_without_a_word(graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    session, device = open_session(graph, "cpu", None)
    assert (device, session.get_providers()) == ("cpu", ["CPUExecutionProvider"])
    assert warnings(caplog) == []


@pytest.mark.parametrize("situation", ["built_without_cuda", "cuda_fails_to_start"])
def test_auto_without_cuda_warns_once_and_takes_the_cpu(
    graph: Path, situation: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    request.getfixturevalue(situation)
    session, device = open_session(graph, "auto", None)
    assert (device, session.get_providers()) == ("cpu", ["CPUExecutionProvider"])
    (warning,) = warnings(caplog)
    assert "no CUDA" in warning
    assert "runs on the CPU" in warning


@pytest.mark.parametrize("situation", ["built_without_cuda", "cuda_fails_to_start"])
def test_cuda_without_cuda_is_an_error_that_says_what_to_install(
    graph: Path, situation: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(situation)
    with pytest.raises(SetupError, match=r"install embercache-sidecar\[cuda\]"):
        open_session(graph, "cuda", None)


def test_a_run_has_as_many_threads_as_there_are_usable_cpus(graph: Path) -> None:
    session, _ = open_session(graph, "cpu", None)
    assert session.get_session_options().intra_op_num_threads == usable_cpus()


def test_the_number_of_threads_can_be_set(graph: Path) -> None:
    session, _ = open_session(graph, "cpu", 3)
    assert session.get_session_options().intra_op_num_threads == 3


def test_a_graph_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(SetupError, match=r"model.onnx: ONNX Runtime cannot load it"):
        open_session(tmp_path / "model.onnx", "cpu", None)


@pytest.mark.parametrize("provider", ["auto", "cpu", "cuda"])
def test_without_onnx_runtime_the_error_says_what_to_install(
    graph: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SetupError, match=r"install embercache-sidecar\[cpu\] or \[cuda\]"):
        open_session(graph, provider, None)
