"""``embercache inject``: what the injector does, to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.config_sources import ConfigError
from sidecar.injector.annotations import INJECT_LABEL
from sidecar.injector.manifests import ManifestError, Rules, inject_manifests
from sidecar.injector.settings import InjectorSettings, load_settings

if TYPE_CHECKING:
    from typing import TextIO


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="manifests, YAML or JSON; - for standard input",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="the injector's own file, YAML; in the cluster, the key config.yaml of its ConfigMap",
)
@click.option("--namespace", default="", help="namespace of objects that name none")
@click.option(
    "--native-sidecar",
    type=click.Choice(["auto", "true", "false"]),
    help="kind of the sidecar; auto is true  [default: as in the settings]",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help=f'inject all pods but those labelled {INJECT_LABEL}: "false"',
)
def inject(
    file: TextIO, config: Path | None, namespace: str, native_sidecar: str | None, everything: bool
) -> None:
    """Add the sidecar to pods in FILE as the injector does, and print the manifests.

    Pods, and pod templates of workloads, get it if they have the label embercache.io/inject:
    "true". Everything else is printed as it is, and so are pods that have it already. What was done
    is said on standard error. If a pod cannot be injected, nothing is printed and the exit status
    is 1.

    \b
    Examples:
      embercache inject -f deployment.yaml | kubectl apply -f -
      kubectl get configmap RELEASE-injector --namespace NAMESPACE \\
        --output=jsonpath='{.data.config\\.yaml}' > injector.yaml
      kustomize build . | embercache inject -f - --config injector.yaml
    """
    try:
        settings = InjectorSettings() if config is None else load_settings(config)
        text = file.read()
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{file.name} is not text in UTF-8") from None
    native = (native_sidecar or settings.native_sidecar) != "false"
    try:
        result = inject_manifests(text, Rules(settings, native, namespace, everything))
    except ManifestError as error:
        lines = str(error).splitlines()
        raise click.ClickException("\n".join(f"{file.name}: {line}" for line in lines)) from None
    for line in result.report:
        click.echo(f"{file.name}: {line}", err=True)
    if not result.report:
        click.echo(f"{file.name}: there are no pods in it", err=True)
    click.echo(result.text, nl=False)
