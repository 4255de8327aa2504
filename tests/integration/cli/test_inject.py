"""``embercache inject``: sidecars for manifests on their way to a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner, Result

from sidecar.cli import main

if TYPE_CHECKING:
    from pathlib import Path

DEPLOYMENT = """\
# The shop.
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, embercache.io/inject: "true"}}
    spec: {containers: [{name: app, image: "shop:1"}]}
"""
SERVICE = "---\nkind: Service # of the shop\n"


def inject(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["inject", *arguments], input=stdin)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(DEPLOYMENT + SERVICE)
    return path


def sidecar(output: str, key: str = "initContainers") -> dict[str, object]:
    spec = next(yaml.safe_load_all(output))["spec"]["template"]["spec"]
    (found,) = [each for each in spec[key] if each["name"] == "embercache"]
    return dict(found)


def test_it_prints_the_manifests_with_sidecars_and_says_on_standard_error_what_it_did(
    file: Path,
) -> None:
    result = inject("-f", str(file))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("---\n# The shop.\napiVersion: apps/v1\n")
    assert result.stdout.endswith(SERVICE)
    assert sidecar(result.stdout)["restartPolicy"] == "Always"
    assert result.stderr == f"{file}: document 1 (line 1), Deployment web: injected\n"


def test_it_reads_standard_input_and_leaves_its_own_output_as_it_is(file: Path) -> None:
    once = inject("-f", "-", stdin=file.read_text())
    assert sidecar(once.stdout)
    twice = inject("-f", "-", stdin=once.stdout)
    assert twice.stdout == once.stdout
    assert "document 1 (line 1), Deployment web: has its sidecar already" in twice.stderr


def test_sidecars_are_as_the_injector_s_settings_say(file: Path, tmp_path: Path) -> None:
    config = tmp_path / "injector.yaml"
    config.write_text("image: own:1\nnativeSidecar: 'false'\n")
    result = inject("-f", str(file), "--config", str(config), "--namespace", "shop")
    container = sidecar(result.stdout, "containers")
    assert container["image"] == "own:1"
    assert {"name": "EMBERCACHE_CACHE_NAMESPACE", "value": "shop"} in container["env"]  # type: ignore[operator]
    native = inject("-f", str(file), "--config", str(config), "--native-sidecar", "auto")
    assert sidecar(native.stdout)["image"] == "own:1"


def test_the_help_says_where_the_injector_s_own_settings_are() -> None:
    text = " ".join(inject("--help").stdout.split())
    assert "in the cluster, the key config.yaml of its ConfigMap" in text
    assert "kubectl get configmap RELEASE-injector" in text
    assert r"jsonpath='{.data.config\.yaml}'" in text


def test_all_is_for_pods_that_are_not_labelled(file: Path) -> None:
    file.write_text(DEPLOYMENT.replace(', embercache.io/inject: "true"', ""))
    left = inject("-f", str(file))
    assert left.stdout == file.read_text()
    assert 'left as it is: it is not labelled embercache.io/inject: "true"' in left.stderr
    assert sidecar(inject("-f", str(file), "--all").stdout)


def test_a_file_without_pods_is_printed_as_it_is_with_a_remark(file: Path) -> None:
    file.write_text(SERVICE)
    result = inject("-f", str(file))
    assert result.exit_code == 0
    assert result.stdout == SERVICE
    assert result.stderr == f"{file}: there are no pods in it\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            DEPLOYMENT.replace("app: web, ", "app: web, embercache.io/model: x, "),
            "document 1 (line 1), Deployment web: embercache.io/model is an annotation, not",
        ),
        (f"{DEPLOYMENT}---\na: [\n", "line 12: not YAML"),
        ("a: \x00", "the document at line 1 is not YAML"),
    ],
)
def test_an_error_names_file_document_and_object_and_nothing_is_printed(
    file: Path, text: str, message: str
) -> None:
    file.write_text(text)
    result = inject("-f", str(file))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"Error: {file}: {message}" in result.stderr


def test_a_file_that_is_not_text_is_an_error(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    result = inject("-f", str(file))
    assert result.exit_code == 1
    assert result.stderr == f"Error: {file} is not text in UTF-8\n"


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = inject("-f", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "none.yaml" in result.stderr


def test_wrong_settings_are_an_error_that_names_them(file: Path, tmp_path: Path) -> None:
    config = tmp_path / "injector.yaml"
    config.write_text("prot: 1\n")
    result = inject("-f", str(file), "--config", str(config))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"Error: {config}: prot: there is no such setting\n"
