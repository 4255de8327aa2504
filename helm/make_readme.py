"""Writes helm/embercache/README.md from the comments in values.yaml: python -m helm.make_readme."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from helm.values_file import CHART, read_values

if TYPE_CHECKING:
    from helm.values_file import Value

FILE = CHART / "README.md"

_HEAD = """\
# The chart of Embercache

An injector, which adds the sidecar to pods that ask for one, a pool of encoders, and what it takes
to watch them. Kubernetes 1.25 or newer.

    helm install embercache helm/embercache --namespace embercache --create-namespace \\
      --set image.repository=REGISTRY/embercache --set redis.enabled=true
    helm test embercache --namespace embercache
    kubectl label namespace YOURS embercache.io/inject=true

This installs a small Redis for trying out. In production name yours: `redis.existingSecret`.
`values-ha.yaml` is for clusters that refuse pods that ask for a sidecar while no injector answers.

- Errors in values are told before anything is installed: `helm lint --strict helm/embercache
  --values YOURS.yaml`.
- Argo CD, Flux and others that render the chart anew each time would make another certificate each
  time. Set `injector.certificate.source` to `certManager` or `existingSecret`. Where they do not
  see what the cluster knows, set `enabled` of `serviceMonitor`, `podMonitor` and `prometheusRule`
  to `true` or `false`.
- Calls to the encoder pool are not encrypted, and nobody is asked who he is, unless `encoder.tls`
  and `encoder.policy` name Secrets. `sidecar.secretMounts` gives sidecars keys and tokens.
- A cluster has one injector, and a second is refused. Further releases, as for an encoder pool with
  another model, set `injector.enabled` to `false`.

More is in `docs/kubernetes.md`.

## Values

This is made from the comments in `values.yaml` by `python -m helm.make_readme`.
"""
_TABLE = ["", "| value | default | meaning |", "|---|---|---|"]


def text() -> str:
    """The whole page."""
    values = list(read_values())
    single = [value for value in values if len(value.path) == 1 and not value.is_section]
    lines = [_HEAD.rstrip(), "", "### General", *_TABLE, *map(_row, single)]
    for value in values:
        if len(value.path) > 1:
            lines.append(_row(value))
        elif value.is_section:
            lines += ["", f"### {value.path[0]}", "", value.comment, *_TABLE]
    return "\n".join(lines) + "\n"


def _row(value: Value) -> str:
    default = "" if value.is_section else f"`{json.dumps(value.default)}`"
    meaning = value.comment.replace("|", "\\|")
    return f"| `{'.'.join(value.path)}` | {default} | {meaning} |"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
