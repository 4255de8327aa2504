"""The commands of docs/kubernetes.md, one after the other, against a real control plane."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def test_the_commands_of_the_guide_run(
    cluster: Any,
    tool: Callable[[str], Path],
    tmp_path: Path,
    blocks_of: Callable[[str, str], list[str]],
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").write_text(f'#!/bin/sh\nexec {tool("kube")} kubectl "$@"\n')
    (programs / "kubectl").chmod(0o755)
    (programs / "helm").symlink_to(tool("helm"))
    (tmp_path / "helm").symlink_to(ROOT / "helm")
    path = f"{programs}:{Path(sys.executable).parent}:{cluster.environment['PATH']}"

    def run(script: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=cluster.environment | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{script}{done.stderr}"

    blocks = blocks_of("docs/kubernetes.md", "sh")
    (removal,) = [block for block in blocks if "helm uninstall" in block]
    try:
        for block in blocks:
            if block != removal:
                run(block)
        injected = cluster.get("deployment", "search", "--namespace=shop")
        config = cluster.get("configmap", "embercache-injector", "--namespace=embercache")
        (pool,) = cluster.get("deployment", "embercache-encoder", "--namespace=embercache")["spec"][
            "template"
        ]["spec"]["containers"]
        there = {
            namespace: {
                each["metadata"]["name"]
                for each in cluster.get("secrets", f"--namespace={namespace}")["items"]
            }
            for namespace in ("shop", "embercache")
        }
    finally:
        # Else its webhook is called in other tests.
        run(removal)
        run("kubectl delete namespace shop --wait=false")
    names = [each["name"] for each in injected["spec"]["template"]["spec"]["initContainers"]]
    assert names == ["embercache"]
    # The section on security has made all that it lets sidecars and the pool mount.
    assert pool["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    mounts = yaml.safe_load(config["data"]["config.yaml"])["secretMounts"]
    assert {each["secret"] for each in mounts} == there["shop"] != set()
    assert {"pool-tls", "pool-policy", "embercache-client"} <= there["embercache"]
