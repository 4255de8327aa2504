"""Opens an ONNX Runtime session on the CPU or a CUDA GPU."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sidecar.models.cpus import usable_cpus
from sidecar.models.errors import SetupError
from sidecar.models.niceness import call_giving_way

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime as ort  # type: ignore[import-untyped]
    from numpy.typing import NDArray

Provider: TypeAlias = Literal["auto", "cpu", "cuda"]

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# With TensorFloat-32 a GPU's vectors differ from a CPU's by 1e-3, under the same model version.
_CUDA_OPTIONS = {"use_tf32": "0"}
# Idle threads wait this long for the next operator of a run. By default they go on spinning when
# the run is over: 25 ms of CPU time for a run of 2 ms, taken from the application next door.
_SPIN_MICROSECONDS = 50

_log = logging.getLogger(__name__)


def _runtime() -> Any:
    """ONNX Runtime; a sidecar whose model runs elsewhere does without it."""
    # From 1.31 on it reports its use to its maker, unless told not to before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise SetupError(
            f"ONNX Runtime cannot be used ({error}); install embercache-sidecar[cpu] or [cuda]"
        ) from error
    return onnxruntime


def open_session(
    path: Path, provider: Provider, threads: int | None
) -> tuple[ort.InferenceSession, Literal["cpu", "cuda"]]:
    """Returns a session and what it runs on.

    ``auto`` takes CUDA where it works, and says so in the log where it does not. ``threads``
    compute one run; None stands for all CPUs that this process may use. Raises `SetupError` if
    ``cuda`` is asked for and does not work, or if the graph does not load.
    """
    if provider != "cpu":
        session, reason = _open_cuda(path, threads)
        if session is not None:
            return session, "cuda"
        if provider == "cuda":
            raise SetupError(
                f"provider 'cuda' does not work here: {reason}; install"
                " embercache-sidecar[cuda] in place of [cpu], and an NVIDIA driver"
            )
        _log.warning("no CUDA (%s): %s runs on the CPU", reason, path)
    return _open(path, threads, [_CPU]), "cpu"


def new_value(array: NDArray[Any], device: str) -> ort.OrtValue:
    """The array as ONNX Runtime has it: the same memory on "cpu", a copy on "cuda"."""
    return _runtime().OrtValue.ortvalue_from_numpy(array, device, 0)


def _open_cuda(path: Path, threads: int | None) -> tuple[ort.InferenceSession | None, str]:
    ort = _runtime()
    if _CUDA not in ort.get_available_providers():
        return None, "this ONNX Runtime is built without it"
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that came as Python packages
    session = _open(path, threads, [(_CUDA, _CUDA_OPTIONS), _CPU])
    # ONNX Runtime goes on with the CPU if CUDA cannot be initialised.
    if _CUDA not in session.get_providers():
        return None, "CUDA cannot be initialised"
    return session, ""


def _open(path: Path, threads: int | None, providers: list[Any]) -> ort.InferenceSession:
    ort = _runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; they come back as exceptions, too
    # A memory plan is kept for each input shape, and every batch has another shape.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
    try:
        return call_giving_way(ort.InferenceSession, path, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise SetupError(f"{path}: ONNX Runtime cannot load it ({error})") from error
