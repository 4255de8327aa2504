"""What the Dockerfile says, and what its locks hold."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sidecar
from bench.image.dockerfile import read_context, read_dockerfile, substitute

ROOT = Path(__file__).parents[3]


def pins(path: Path) -> dict[str, str]:
    """Names and versions in a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", path.read_text("utf-8"), re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    """The names in requirements like ``redis[hiredis]>=6.0``."""
    matches = (re.match(r"[a-zA-Z0-9-]+", requirement) for requirement in requirements)
    return {match[0].lower() for match in matches if match}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run(
        [hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_only_what_is_copied_reaches_a_build() -> None:
    paths = {file.relative_to(ROOT).as_posix() for file in read_context(ROOT)}
    tops = {"LICENSE", "README.md", "clients", "docker", "native", "pyproject.toml", "sidecar"}
    assert {path.partition("/")[0] for path in paths} == tops
    assert "clients/python/embercache/client.py" in paths
    assert "native/src/lib.rs" in paths
    assert not [path for path in paths if "__pycache__" in path or "tests" in path]
    assert not [path for path in paths if path.startswith("native/target/")]


def test_the_version_is_the_sidecars() -> None:
    instructions = read_dockerfile((ROOT / "Dockerfile").read_text("utf-8"))
    arguments = [each.value for each in instructions if each.keyword == "ARG"]
    assert f"VERSION={sidecar.__version__}" in arguments


def test_the_models_are_made_again_only_if_a_module_changes_that_makes_them() -> None:
    code = "import sys, sidecar.models.pull; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needed = {name for name in ran.stdout.split() if name.startswith("sidecar.models.")}
    text = (ROOT / "Dockerfile").read_text("utf-8")
    _, _, stage = text.partition("FROM libraries AS models\n")
    copies = [
        each
        for each in read_dockerfile(stage.partition("\nFROM ")[0])
        if each.keyword in ("ADD", "COPY")
    ]
    copied = {source for each in copies for source in each.value.split()[:-1]}
    modules = {f"{name.replace('.', '/')}.py" for name in needed}
    assert copied == modules | {"docker/models.py"}
    assert not [each for each in copies if each.flags]


def test_its_rust_is_as_new_as_the_native_front_door_needs() -> None:
    found = re.search(r"^ARG RUST=(\d+)\.(\d+)\.", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    crate = tomllib.loads((ROOT / "native" / "Cargo.toml").read_text("utf-8"))["package"]
    assert found is not None
    assert tuple(map(int, found.groups())) >= tuple(map(int, crate["rust-version"].split(".")))


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_image_has_the_versions_that_are_tested(variant: str) -> None:
    tested = pins(ROOT / "requirements.lock")
    shipped = pins(ROOT / f"docker/requirements-{variant}.lock")
    shipped["onnxruntime"] = shipped.pop("onnxruntime-gpu", shipped.get("onnxruntime", ""))
    shipped = {name: version for name, version in shipped.items() if "nvidia" not in name}
    assert shipped
    assert shipped == {name: tested[name] for name in shipped}


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_image_has_all_that_the_project_asks_for(variant: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = names(project["dependencies"]) - {"embercache"}
    for extra in (variant, "openai", "tracing", "pgvector"):
        wanted |= names(extras[extra])
    assert wanted <= pins(ROOT / f"docker/requirements-{variant}.lock").keys()


def test_instructions_are_read_over_several_lines_and_without_comments() -> None:
    text = '# syntax\nFROM a AS b\nRUN x \\\n# why\n    && y\nCOPY --from=b --link=true /c "/d e"\n'
    instructions = list(read_dockerfile(text))
    assert [each.keyword for each in instructions] == ["FROM", "RUN", "COPY"]
    assert instructions[1].value.split() == ["x", "&&", "y"]
    assert instructions[2].flags == {"from": "b", "link": "true"}
    assert instructions[2].value == '/c "/d e"'


def test_variables_are_replaced() -> None:
    assert substitute("a-${B}/$C-${D}", {"B": "1", "C": "2"}) == "a-1/2-"


def test_the_last_line_of_dockerignore_that_matches_decides(tmp_path: Path) -> None:
    for path in ("a/b.txt", "a/c/b.txt", "a/c/d.py", "e.txt", "f/g/h.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / ".dockerignore").write_text("# all\n*\n!a\n!f/*/h.txt\n**/c/*.txt\n")
    found = {file.relative_to(tmp_path).as_posix() for file in read_context(tmp_path)}
    assert found == {"a/b.txt", "a/c/d.py", "f/g/h.txt"}


def test_without_root_the_tests_of_the_image_fail_rather_than_pass_unnoticed() -> None:
    code = (
        "import os, sys, pytest\n"
        "os.geteuid = lambda: 1000\n"
        "sys.exit(pytest.main(['-q', 'tests/cluster/image/test_image.py', '-k', 'version']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "only root may build the image" in ran.stdout
