"""Follows a Dockerfile without a container engine, as far as ours goes; Linux, root only.

A stage is a stack of overlays, and its commands really run in it, in namespaces of their own. The
base image is the Python that runs this, with pip and no other package, on this machine's /usr and
/etc, which cannot be written to; that of `rust` is the same with this machine's Rust on its path.
Nothing else of this machine is seen, but the network is shared.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.image.dockerfile import (
    Instruction,
    assignments,
    read_context,
    read_dockerfile,
    substitute,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEVICES = ("null", "zero", "random", "urandom")
# What a builder passes on without being asked, and where this machine's pip finds packages.
_PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
_PASSED_ON += ("PIP_CERT", "PIP_TRUSTED_HOST", "SSL_CERT_FILE")
_RUST = "/opt/rust"


@dataclass
class Stage:
    """A stage of a build, or an image: what is in it and how it is run.

    ``layers`` are folders, the lowest first; each instruction that changes files adds one.
    """

    layers: list[Path]
    environment: dict[str, str]
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    labels: dict[str, str] = field(default_factory=dict)
    health: list[str] = field(default_factory=list)
    stop_signal: str = ""
    entry_point: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    @property
    def values(self) -> dict[str, str]:
        """What variables in instructions stand for."""
        return self.arguments | self.environment


class Engine:
    """Builds one image in ``folder``, and runs it.

    ``arguments`` are those of ``--build-arg``.
    """

    def __init__(self, folder: Path, context: Path, arguments: Mapping[str, str]) -> None:
        self._folder = folder
        self._context = context
        self._files = read_context(context)
        self._given = dict(arguments)
        self._global: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self._base = _base_layer(folder / "base")
        self._layers = 0

    def build(self, dockerfile: Path) -> Stage:
        """Follows the steps, and returns the last stage, which is the image.

        Raises `subprocess.CalledProcessError` if a step fails.
        """
        stage = None
        for instruction in read_dockerfile(dockerfile.read_text("utf-8")):
            if instruction.keyword == "FROM":
                stage = self._from(instruction.value)
            elif stage is None:
                self._global |= self._argument(instruction.value)
            else:
                getattr(self, f"_{instruction.keyword.lower()}")(stage, instruction)
        if stage is None:
            raise ValueError(f"{dockerfile} has no FROM")
        return stage

    def popen(
        self,
        image: Stage,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[str]:
        """Starts a command as an orchestrator would that is careful: as the image's user, as the
        first process, with nothing that can be written but shared memory, which every orchestrator
        gives, and ``mounts`` (folders to where they are seen).

        The process returned stands for the container; `first_process` is the one inside.
        """
        script = self._mounts(image.layers, None, mounts or {})
        script += self._enter(image, image.environment | dict(environment or {}), command)
        return subprocess.Popen(
            _isolated(script), stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8"
        )

    def _from(self, value: str) -> Stage:
        name, *alias = substitute(value, self._global).split()
        if name in self._stages:
            before = self._stages[name]
            stage = Stage(list(before.layers), dict(before.environment), folder=before.folder)
        else:
            path = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
            if name.startswith("rust:"):
                path = f"{_RUST}/bin:{path}"
            stage = Stage([self._base], {"PATH": path})
        if alias:
            self._stages[alias[-1]] = stage
        return stage

    def _argument(self, value: str) -> dict[str, str]:
        name, has_default, default = value.partition("=")
        if name in self._given:
            return {name: self._given[name]}
        if not has_default:
            return {name: self._global[name]} if name in self._global else {}
        return assignments(f"{name}={default}", self._global)

    def _arg(self, stage: Stage, instruction: Instruction) -> None:
        stage.arguments |= self._argument(instruction.value)

    def _env(self, stage: Stage, instruction: Instruction) -> None:
        stage.environment |= assignments(instruction.value, stage.values)

    def _label(self, stage: Stage, instruction: Instruction) -> None:
        stage.labels |= assignments(instruction.value, stage.values)

    def _workdir(self, stage: Stage, instruction: Instruction) -> None:
        stage.folder = substitute(instruction.value, stage.values)
        self._below(self._new_layer(stage), stage.folder).mkdir(parents=True, exist_ok=True)

    def _user(self, stage: Stage, instruction: Instruction) -> None:
        stage.user = instruction.value

    def _stopsignal(self, stage: Stage, instruction: Instruction) -> None:
        stage.stop_signal = instruction.value

    def _healthcheck(self, stage: Stage, instruction: Instruction) -> None:
        stage.health = json.loads(instruction.value.removeprefix("CMD"))

    def _entrypoint(self, stage: Stage, instruction: Instruction) -> None:
        stage.entry_point = json.loads(instruction.value)

    def _cmd(self, stage: Stage, instruction: Instruction) -> None:
        stage.command = json.loads(instruction.value)

    def _run(self, stage: Stage, instruction: Instruction) -> None:
        lower = list(stage.layers)
        script = self._mounts(lower, self._new_layer(stage), {})
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment = {"HOME": "/root"} | passed_on | stage.values
        script += self._enter(stage, environment, ["/bin/sh", "-c", instruction.value])
        subprocess.run(_isolated(script), check=True, stdin=subprocess.DEVNULL)

    def _copy(self, stage: Stage, instruction: Instruction) -> None:
        *sources, target = shlex.split(substitute(instruction.value, stage.values))
        path = os.path.join(stage.folder, target)
        lower = self._stages[instruction.flags["from"]].layers if instruction.flags else []
        destination = self._below(self._new_layer(stage), path)
        for source in sources:
            if lower:
                self._copy_from_stage(lower, source, destination)
            else:
                is_folder = target.endswith("/") or (self._context / source).is_dir()
                self._copy_from_context(source, destination, is_folder=is_folder)

    def _copy_from_stage(self, layers: Sequence[Path], source: str, destination: Path) -> None:
        destination.mkdir(parents=True, exist_ok=True)
        script = self._mounts(layers, None, {})
        script += f"cp -a {self._mounted}/{source.strip('/')}/. {shlex.quote(str(destination))}"
        subprocess.run(_isolated(script), check=True)

    def _copy_from_context(self, source: str, destination: Path, *, is_folder: bool) -> None:
        top = self._context / source
        files = [file for file in self._files if file == top or top in file.parents]
        if not files:
            raise ValueError(f"COPY {source}: nothing of it is in the context")
        for file in files:
            name = file.relative_to(top) if file != top else file.name
            copy = destination / name if is_folder else destination
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)

    def _new_layer(self, stage: Stage) -> Path:
        self._layers += 1
        layer = self._folder / f"layer-{self._layers}"
        layer.mkdir(mode=0o755)
        stage.layers.append(layer)
        return layer

    @property
    def _mounted(self) -> Path:
        return self._folder / "mounted"

    def _below(self, layer: Path, path: str) -> Path:
        return layer / path.strip("/")

    def _mounts(self, lower: Sequence[Path], upper: Path | None, mounts: Mapping[Path, str]) -> str:
        """Commands that put a stage together; without an upper layer it cannot be written to."""
        root, work = self._mounted, self._folder / "work"
        for folder in (root, work):
            folder.mkdir(exist_ok=True)
        options = f"lowerdir={':'.join(map(str, reversed(lower)))}"
        if upper is not None:
            options += f",upperdir={upper},workdir={work}"
        else:
            options += f":{self._folder / 'empty'}"  # it takes at least two
            (self._folder / "empty").mkdir(exist_ok=True)
        lines = [
            "set -e",
            f"mount -t overlay overlay -o {shlex.quote(options)} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind -o ro /sys {root}/sys",
        ]
        site = f"{root}/usr/local/lib/python3.{sys.version_info.minor}/site-packages"
        shown = {
            "/usr": f"{root}/usr",
            "/etc": f"{root}/etc",
            sys.base_prefix: f"{root}/usr/local",
            f"{sys.base_prefix}/lib": f"{root}{sys.base_prefix}/lib",
            str(self._folder / "base-packages"): site,
            _rust(): f"{root}{_RUST}",
        }
        for here, there in shown.items():
            lines.append(f"mount --bind {here} {there}")
            lines.append(f"mount -o remount,bind,ro {there}")
        lines += [f"mount --bind /dev/{name} {root}/dev/{name}" for name in _DEVICES]
        lines.append(f"mount -t tmpfs -o mode=1777 shm {root}/dev/shm")  # noqa: S108
        for folder, there in mounts.items():
            self._below(self._folder / "empty", there).mkdir(parents=True, exist_ok=True)
            lines.append(f"mount --bind {shlex.quote(str(folder))} {root}{there}")
        return "\n".join(lines) + "\n"

    def _enter(self, stage: Stage, environment: Mapping[str, str], command: Sequence[str]) -> str:
        pairs = [f"{name}={value}" for name, value in environment.items()]
        words = ["exec", "chroot", f"--userspec={stage.user}", "--groups=", str(self._mounted)]
        words += ["env", "-i", f"--chdir={stage.folder}", *pairs, *command]
        return shlex.join(words)


def first_process(container: subprocess.Popen[str]) -> int:
    """The process id, here, of the first process in a container that has started."""
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text("utf-8")
    return int(children.split()[0])


def _isolated(script: str) -> list[str]:
    flags = ["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    return ["unshare", *flags, "/bin/sh", "-c", script]


@functools.cache
def _rust() -> str:
    """The folder of this machine's Rust."""
    command = ["rustc", "--print", "sysroot"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _base_layer(folder: Path) -> Path:
    """What the base image has besides /usr and /etc; its only package is pip, as in `python`."""
    for path in ("proc", "sys", "usr", "etc", "dev/shm", "root", "tmp"):
        (folder / path).mkdir(parents=True)
    (folder / f"{sys.base_prefix}/lib".strip("/")).mkdir(parents=True)
    (folder / _RUST.strip("/")).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    for name in _DEVICES:
        (folder / "dev" / name).touch()
    packages = folder.parent / "base-packages"
    packages.mkdir()
    (theirs,) = Path(sys.base_prefix).glob("lib/python3.*/site-packages")
    for path in theirs.glob("pip*"):
        shutil.copytree(path, packages / path.name)
    return folder
