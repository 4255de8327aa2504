"""The packages hold their licence, and a fresh project gets them by what their README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Blocks = Callable[[str, str], list[str]]
    Install = Callable[..., None]

ROOT = Path(__file__).parents[2]
HANG_GUARD = 300.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project beside a checkout in which nothing is built."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "clients", "proto"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in files.rstrip("\0").split("\0"):
        copy = tmp_path / "embercache" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture(scope="session")
def blocks(blocks_of: Blocks) -> Blocks:
    """What the README of a client shows in a language."""
    return lambda client, language: blocks_of(f"clients/{client}/README.md", language)


@pytest.fixture(scope="session")
def install(blocks: Blocks) -> Install:
    """Runs the first commands that a README shows, on a machine that has built the clients."""

    def run(project: Path, client: str, **variables: str) -> None:
        sh(project, blocks(client, "sh")[0], **variables)

    return run


def sh(folder: Path, commands: str, **variables: str) -> str:
    cached = {
        "GOPROXY": "off",
        "GOSUMDB": "off",
        "npm_config_prefer_offline": "true",
        "CARGO_NET_OFFLINE": "true",
    }
    ended = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env=os.environ | cached | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize("client", ["go", "java", "node", "python", "rust"])
def test_every_package_has_the_licence(client: str) -> None:
    assert (ROOT / "clients" / client / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_a_fresh_go_module_gets_the_client_by_the_commands_of_its_readme(
    project: Path, install: Install
) -> None:
    sh(project, "go mod init example.test/project")
    install(project, "go")
    shutil.copy(ROOT / "clients/go/examples/embed/main.go", project)
    sh(project, "go build -o embed .")
    assert (project / "embed").exists()


def test_a_fresh_node_project_gets_the_client_by_the_commands_of_its_readme(
    project: Path, install: Install
) -> None:
    sh(project, "npm init -y")
    install(project, "node")
    said = sh(
        project,
        """node --input-type=module -e '
            import { connect } from "embercache";
            import { Metadata } from "@grpc/grpc-js"; // the README says it is there
            const client = connect();
            console.log(typeof client.embed, typeof Metadata);
            client.close();
        '""",
    )
    assert said == "function function\n"
    assert (project / "node_modules/embercache/LICENSE").exists()


@pytest.mark.timeout(HANG_GUARD)
def test_a_fresh_cargo_package_gets_the_client_by_the_lines_of_its_readme(
    project: Path, blocks: Blocks
) -> None:
    sh(project, "cargo init --quiet --vcs none --name project")
    manifest = project / "Cargo.toml"
    (lines,) = blocks("rust", "toml")
    manifest.write_text(manifest.read_text().partition("[dependencies]")[0] + lines)
    (project / "src/main.rs").write_text(
        """\
        #[tokio::main]
        async fn main() -> Result<(), Box<dyn std::error::Error>> {
            embercache::Embercache::connect(None)?;
            Ok(())
        }
        """
    )
    # The versions that this machine has.
    shutil.copy(ROOT / "clients/rust/Cargo.lock", project)
    try:
        sh(project, "cargo check --quiet -j2")
    finally:
        shutil.rmtree(project / "target", ignore_errors=True)  # some 180 MB


@pytest.mark.timeout(HANG_GUARD)
def test_a_fresh_maven_project_gets_the_client_by_what_its_readme_says(
    project: Path, blocks: Blocks, install: Install
) -> None:
    # Not the repository of whoever runs the tests, where the client would stay.
    repository = project / "repository"
    shutil.copytree(Path.home() / ".m2/repository", repository)
    there = {"MAVEN_OPTS": f"-Dmaven.repo.local={repository}"}
    try:
        install(project.parent / "embercache", "java", **there)
        (dependency,) = blocks("java", "xml")
        (project / "pom.xml").write_text(
            f"""\
            <project xmlns="http://maven.apache.org/POM/4.0.0">
              <modelVersion>4.0.0</modelVersion>
              <groupId>example</groupId> <artifactId>project</artifactId> <version>1</version>
              <properties>
                <maven.compiler.release>11</maven.compiler.release>
                <project.build.sourceEncoding>UTF-8</project.build.sourceEncoding>
              </properties>
              <dependencies>{dependency}</dependencies>
            </project>
            """
        )
        source = project / "src/main/java"
        source.mkdir(parents=True)
        shutil.copy(ROOT / "clients/java/examples/Embed.java", source)
        # With the compiler plugin that is here already, and is not what Maven takes by itself.
        pom = (ROOT / "clients/java/pom.xml").read_text("utf-8")
        plugin = re.search(r"maven-compiler-plugin</artifactId>\s*<version>(.+?)<", pom)
        assert plugin
        goal = f"org.apache.maven.plugins:maven-compiler-plugin:{plugin[1]}:compile"
        sh(project, f"mvn -q -B {goal}", **there)
    finally:
        shutil.rmtree(repository)
    assert (project / "target/classes/Embed.class").exists()


def test_a_fresh_environment_of_python_gets_the_client_by_the_command_of_its_readme(
    project: Path, install: Install
) -> None:
    # It has all that is installed here but the client, so that nothing is fetched.
    packages = project / "packages"
    packages.mkdir()
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if "embercache" not in each.name and each.suffix != ".pth":
            (packages / each.name).symlink_to(each)
    sh(project, f"{sys.executable} -m venv environment")
    environment = project / "environment"
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(str(packages))
    path = {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    # To pip, 0 means that there is no isolation.
    install(project, "python", **path, PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0")
    said = sh(project, "python -c 'import embercache; print(embercache.__file__)'", **path)
    assert said == f"{site}/embercache/__init__.py\n"


@pytest.mark.parametrize("client", ["java", "rust"])
def test_the_commands_at_the_end_of_a_readme_build_the_client_and_run_its_example(
    client: str, blocks: Blocks, sidecar: Any, run: Callable[..., str]
) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    *built, example = blocks(client, "sh")[-1].splitlines()
    # Make has done it, before these tests.
    assert all(command in makefile for command in built)
    said = run("bash", "-euc", example, address=sidecar.tcp, folder=client)
    assert len(said.splitlines()) == 2
