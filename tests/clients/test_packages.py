"""The packages hold their licence, and a fresh project gets them by what their README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HANG_GUARD = 300.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project beside a checkout in which nothing is built."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "clients"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in files.rstrip("\0").split("\0"):
        copy = tmp_path / "embercache" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def install(project: Path, page: str) -> None:
    """Runs the first commands that a README shows, on a machine that has built the clients."""
    readme = (ROOT / "clients" / page / "README.md").read_text("utf-8")
    block = re.search(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block
    sh(project, block[1])


def sh(folder: Path, commands: str) -> str:
    cached = {"GOPROXY": "off", "GOSUMDB": "off", "npm_config_prefer_offline": "true"}
    ended = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env=os.environ | cached,
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


def test_a_fresh_go_module_gets_the_client_by_the_commands_of_its_readme(project: Path) -> None:
    sh(project, "go mod init example.test/project")
    install(project, "go")
    shutil.copy(ROOT / "clients/go/examples/embed/main.go", project)
    sh(project, "go build -o embed .")
    assert (project / "embed").exists()


def test_a_fresh_node_project_gets_the_client_by_the_commands_of_its_readme(project: Path) -> None:
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
