"""The policy file: who may call, and how much each namespace may take. YAML, like::

callers:
  - name: shop
    token_file: /etc/embercache/tokens/shop
    namespaces: [shop, shop-staging]
    rights: [read, write]
  - name: platform
    certificates: ["spiffe://cluster.local/ns/platform/sa/admin"]
    namespaces: ["*"]
    rights: [read, write, administer]
quotas:
  shop: {items_per_second: 2000, computations: 256, hot_bytes: 64MiB, share: 2}
  "*": {items_per_second: 500}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sidecar.access.caller import EVERY_NAMESPACE, Right
from sidecar.access.strict_yaml import load_strict
from sidecar.units import NAME_PATTERN, Bytes, OptionalPath

if TYPE_CHECKING:
    from collections.abc import Sequence

_NamespaceName = Annotated[str, StringConstraints(pattern=rf"^({NAME_PATTERN}|\*)$")]
# What no certificate has in a name could not be told to all that compare names.
_CertificateName = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")]


class PolicyError(ValueError):
    """A policy, or what it names, cannot be used. The message says what is wrong, and where."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CallerPolicy(_Part):
    """Somebody who may call, and how he is known: by a token, a certificate or the Unix socket.

    ``token_file`` holds one token a line, so that a new one is taken beside the old one.
    ``certificates`` are names that a client certificate carries: a URI or DNS name, else the common
    name. ``socket`` is for whoever connects over the Unix socket and shows neither.
    """

    name: str = Field(pattern=rf"^{NAME_PATTERN}$")
    token_file: OptionalPath = None
    certificates: tuple[_CertificateName, ...] = ()
    socket: bool = False
    namespaces: tuple[_NamespaceName, ...] = Field(min_length=1)
    rights: tuple[Right, ...] = (Right.READ,)

    @model_validator(mode="after")
    def _can_be_known(self) -> CallerPolicy:
        if self.token_file is None and not self.certificates and not self.socket:
            raise ValueError("say how the caller is known: token_file, certificates or socket")
        return self


class Quota(_Part):
    """What a namespace may take of one sidecar; 0 is without limit.

    ``hot_bytes`` of memory; beyond that its own entries make room. ``items_per_second`` that it
    asks for, with a burst of one second's worth. ``computations`` under way at once. ``share`` is
    its weight where several namespaces wait for a model.
    """

    hot_bytes: Bytes = 0
    items_per_second: float = Field(0.0, ge=0, allow_inf_nan=False)
    computations: int = Field(0, ge=0)
    share: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)


_UNLIMITED = Quota()


class Policy(_Part):
    """The whole file. Without ``callers``, callers are not told apart and may do everything."""

    callers: tuple[CallerPolicy, ...] = ()
    quotas: dict[_NamespaceName, Quota] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_who_is_who(self) -> Policy:
        shown: dict[str, list[str]] = {
            "name": [each.name for each in self.callers],
            "certificate": [name for each in self.callers for name in each.certificates],
            "socket": ["true" for each in self.callers if each.socket],
        }
        for what, values in shown.items():
            if len(set(values)) < len(values):
                raise ValueError(f"two callers have the same {what}: each needs one of its own")
        return self

    def quota(self, namespace: str) -> Quota:
        """The quota of a namespace: its own, else that of ``*``, else none."""
        return self.quotas.get(namespace) or self.quotas.get(EVERY_NAMESPACE) or _UNLIMITED


def read_policy(content: bytes) -> Policy:
    """The policy that a file holds. Raises `PolicyError`."""
    try:
        data = load_strict(content.decode("utf-8"))
    except UnicodeError:
        raise PolicyError("it is not text") from None
    except ValueError as error:
        raise PolicyError(str(error)) from None
    try:
        policy = Policy.model_validate({} if data is None else data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise PolicyError(f"{_place(first['loc'])}: {first['msg']}") from None
    if not policy.callers and not policy.quotas:
        # As it is while somebody writes it: that must not let everybody in.
        raise PolicyError("it is empty: name callers, quotas or both")
    return policy


def _place(parts: Sequence[int | str]) -> str:
    return ".".join(map(str, parts)) or "the file"
