"""What calls take and return, apart from vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta
    from os import PathLike

    from embercache._generate_requests import Generation
    from embercache._search_requests import Search

InputType: TypeAlias = Literal["query", "document"]
Encoding: TypeAlias = Literal["float32", "float16", "int8"]
Truncation: TypeAlias = Literal["end", "error"]
CacheMode: TypeAlias = Literal["default", "refresh", "bypass", "no_store", "only_if_cached"]
OnError: TypeAlias = Literal["raise", "return"]
Tier: TypeAlias = Literal["unspecified", "hot", "disk", "warm", "computed", "coalesced"]
FlushableTier: TypeAlias = Literal["hot", "disk"]
Kind: TypeAlias = Literal["embed", "search", "rerank", "generate", "prefix"]
EventType: TypeAlias = Literal["created", "updated", "deleted"]
MigrationStage: TypeAlias = Literal["unspecified", "documents", "queries", "switched"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A text that has a name.

    It is cached under its name, and embedded again only when its text differs from the one
    that was embedded last. ``id`` has 1 to 1024 bytes; ``chunk_id`` names a part of the entity,
    empty for the whole. The text plays no part in `Client.invalidate`.
    """

    id: str
    text: str = ""
    chunk_id: str = ""


class CredentialFiles(TypedDict, total=False):
    """Files, in PEM, by which a client and a sidecar know each other. All may be left out.

    One that is left out is that of the environment, which has the name in capitals behind
    ``EMBERCACHE_``. Certificates are for addresses like ``tls://host:port``.

    - ``token_file``: a token, which every call carries; read again when it is older than 10 s. It
      is not sent to other machines without TLS.
    - ``ca_file``: the authorities that the sidecar's certificate may be of, in place of those that
      gRPC comes with.
    - ``cert_file``, ``key_file``: the certificate that is shown to the sidecar, and its key. They
      are read once: a client that lives longer than its certificate has to be made anew.
    """

    token_file: str | PathLike[str] | None
    ca_file: str | PathLike[str] | None
    cert_file: str | PathLike[str] | None
    key_file: str | PathLike[str] | None


EmbedInput: TypeAlias = str | Entity | NDArray[np.generic]
"""A text, a named text, or one tensor without batch dimension."""


class EmbedOptions(TypedDict, total=False):
    """The options of ``embed`` and ``embed_stream``. All may be left out.

    - ``model``: a name from ``models()``; without it the sidecar's first model.
    - ``model_version``: refuse to answer (`VersionMismatchError`) with any other version.
    - ``namespace``: letters, digits, ``.``, ``_`` and ``-``, at most 64.
    - ``input_type``: chooses the model's prompt prefix, where it has one, and the default
      lifetime of what is stored.
    - ``encoding``: how vectors travel. ``vectors`` are float32 whichever is chosen; ``float16``
      and ``int8`` are smaller on the wire and less exact.
    - ``truncation``: what to do with a text longer than the model takes: embed its beginning
      (``"end"``, the default) or fail it (``"error"``).
    - ``mode``: ``"refresh"`` computes anew and replaces what is stored, ``"bypass"`` neither
      reads nor stores, ``"no_store"`` reads only, ``"only_if_cached"`` fails an input that is
      missing (`NotCachedError`).
    - ``ttl``: lifetime of what this call stores, in seconds or as a `timedelta`.
    - ``tags``: invalidating one of them later removes all that this call read or stored.
    """

    model: str
    model_version: str
    namespace: str
    input_type: InputType | None
    encoding: Encoding
    truncation: Truncation
    mode: CacheMode
    ttl: float | timedelta | None
    tags: Sequence[str]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the sidecar answers for.

    ``max_tokens`` is the longest text in tokens, 0 for models of tensors. ``runs_on`` is
    ``"cpu"``, ``"cuda"`` or the address of an encoder. ``prompts`` maps ``"query"`` and
    ``"document"`` to what is put in front of a text of that input type.
    """

    name: str
    version: str
    dimensions: int
    max_tokens: int
    accepts_text: bool
    accepts_tensor: bool
    runs_on: str
    prompts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """Documents that changed outside of the sidecar.

    After ``"created"`` any answer of the collection may be another; after ``"updated"`` and
    ``"deleted"`` those that list the documents ``ids``. ``tags`` are invalidated with them.
    """

    type: EventType
    ids: Sequence[str] = ()
    collection: str = ""
    namespace: str = ""
    tags: Sequence[str] = ()


class InvalidateTarget(TypedDict, total=False):
    """What `Client.invalidate` makes invalid. Exactly one of these:

    - ``tags``: every entry that carries one of them;
    - ``inputs``: the entries of these inputs, for ``model``, ``input_type`` and ``tags`` as in
      the calls that stored them;
    - ``documents``: every answer that lists one of these ids of the ``collection``;
    - ``searches``: the answers to these searches, as in the calls that stored them;
    - ``generations``: the answers to these prompts, as in the calls that stored them;
    - ``kind``: every entry of a kind; ``"prefix"`` is what generators keep of prompts;
    - ``model_version``: every entry of that version of ``model``, a reranker's too; empty for
      the version that is loaded;
    - ``whole_namespace``: everything, if true.
    """

    tags: Sequence[str] | None
    inputs: Iterable[EmbedInput] | None
    documents: Iterable[str] | None
    searches: Iterable[str | Search] | None
    generations: Iterable[str | Generation] | None
    kind: Kind | None
    model_version: str | None
    whole_namespace: bool
    model: str
    input_type: InputType | None
    collection: str


@dataclass(frozen=True, slots=True)
class WarmProgress:
    """How far a warming is: of ``total`` items, those that were cached already, were computed,
    and failed."""

    total: int
    cached: int
    computed: int
    failed: int

    @property
    def done(self) -> int:
        """Items that are dealt with."""
        return self.cached + self.computed + self.failed


@dataclass(frozen=True, slots=True)
class MigrateModelProgress:
    """How far a migration is: ``done`` and ``failed`` of the ``total`` items of its stage.

    ``total`` is 0 if not known. At ``"switched"``, the name means the other model.
    """

    stage: MigrationStage
    done: int
    total: int
    failed: int
