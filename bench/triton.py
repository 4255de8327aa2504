"""NVIDIA Triton with its response cache, as nvidia-pytriton ships it, in front of a small model."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_MODEL = Path(__file__).with_name("triton_model.py")
_CACHE_BYTES = 64 << 20

_CONFIG = """\
name: "embed"
backend: "python"
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "vector" data_type: TYPE_FP32 dims: [ 384 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
response_cache { enable: true }
"""

# Run by the Python that has nvidia-pytriton: where it is, and what a call of its server looks like.
_ASK = """\
import importlib.util, json, sys, sysconfig
found = importlib.util.find_spec("pytriton")
if found is None:
    sys.exit("nvidia-pytriton is not installed in " + sys.executable)
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import service_pb2 as grpc
text = sys.argv[1].encode()
request = grpc.ModelInferRequest(model_name="embed")
tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
files = FileDescriptorSet()
for file in (*grpc.DESCRIPTOR.dependencies, grpc.DESCRIPTOR):
    files.file.add().ParseFromString(file.serialized_pb)
print(json.dumps({
    "package": found.submodule_search_locations[0],
    "python": "{}.{}".format(*sys.version_info),
    "python_library": sysconfig.get_config_var("LIBDIR"),
    "request": request.SerializeToString().hex(),
    "protoset": files.SerializeToString().hex(),
}))
"""


class NoTritonError(Exception):
    """It is not there. The message says where it was looked for."""


class Triton:
    """What a Python's nvidia-pytriton has, and a call for the vector of a text.

    ``config`` and ``model`` are what it serves under the name ``embed``. Raises `NoTritonError` if
    that Python has none.
    """

    def __init__(
        self, python: str, text: str, *, config: str = _CONFIG, model: Path = _MODEL
    ) -> None:
        self._config = config
        self._model = model
        try:
            command = [python, "-c", _ASK, text]
            asked = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise NoTritonError(f"{python}: {error.strerror}") from None
        if asked.returncode != 0:
            raise NoTritonError(asked.stderr.strip().splitlines()[-1])
        found = json.loads(asked.stdout)
        self.request = bytes.fromhex(found["request"])
        self.protoset = bytes.fromhex(found["protoset"])
        self._package = Path(found["package"])
        self._python = found["python"]
        self._python_library = found["python_library"]

    @contextlib.contextmanager
    def serving(self, address: str) -> Iterator[subprocess.Popen[bytes]]:
        """The server; ended when the context is left."""
        server = self._package / "tritonserver"
        host, port = address.split(":")
        with tempfile.TemporaryDirectory(prefix="embercache-triton-") as name:
            folder = Path(name)
            self._write(folder)
            command = [str(server / "bin" / "tritonserver"), f"--model-repository={folder}/models"]
            command += [f"--backend-directory={folder}/backends"]
            command += [f"--cache-directory={server / 'caches'}"]
            command += [f"--cache-config=local,size={_CACHE_BYTES}", "--log-warning=false"]
            command += ["--allow-http=false", "--allow-metrics=false", "--log-info=false"]
            command += [f"--grpc-address={host}", f"--grpc-port={port}"]
            libraries = f"{self._site}/nvidia_pytriton.libs:{self._python_library}"
            with running(command, address, {"LD_LIBRARY_PATH": libraries}) as process:
                yield process

    @property
    def _site(self) -> Path:
        return self._package.parent

    def _write(self, folder: Path) -> None:
        """The model, and the backend with the program that runs models on that Python."""
        server = self._package / "tritonserver"
        version = folder / "models" / "embed" / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(self._config, "utf-8")
        path = f"import sys\nsys.path.insert(0, {str(self._site)!r})\n"
        (version / "model.py").write_text(path + self._model.read_text("utf-8"), "utf-8")
        backend = folder / "backends" / "python"
        shutil.copytree(server / "backends" / "python", backend)
        stub = server / "python_backend_stubs" / self._python / "triton_python_backend_stub"
        shutil.copy(stub, backend)
