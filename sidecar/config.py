"""Settings: everything that can be set, declared once.

The field ``max_bytes`` of the section ``hot`` is the flag ``--hot-max-bytes``, the environment
variable ``EMBERCACHE_HOT_MAX_BYTES`` and, in YAML, ``hot: {max_bytes: ...}``. A flag wins over
the environment, which wins over the file, which wins over the default.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from sidecar.cache.disk_store import MIN_BYTES
from sidecar.config_section import Section
from sidecar.config_security import (
    AccessSettings,
    EncryptionSettings,
    TlsSettings,
    UpstreamTlsSettings,
)
from sidecar.config_server import ServerSettings
from sidecar.config_telemetry import LogSettings, PriceSettings, TracingSettings
from sidecar.models.openai_target import is_openai
from sidecar.models.packs import default_folder
from sidecar.units import NAME_PATTERN, Bytes, Lifetime, OptionalPath, Seconds, Words

__all__ = ["ServerSettings", "Settings"]


class ModelSettings(Section):
    """The models that are served."""

    packs: Words = Field(
        ("minilm",),
        description="names of packs or paths of folders, with @sha256:DIGEST behind one to pin what"
        " is in it; the first is the default",
    )
    folder: Path = Field(default_factory=default_folder, description="where packs are kept")
    provider: Literal["auto", "cpu", "cuda"] = Field("auto", description="where models run")
    threads: int = Field(0, ge=0, description="threads of one run; 0 for the CPUs available")
    rerankers: Words = Field(
        ("maxsim",),
        description="'maxsim', which is the first model's own token vectors, or names or folders of"
        " cross-encoders, which may be pinned too; the first is the default",
    )
    normalise: Words = Field(
        (), description="changes made to texts before anything else: nfc, strip, lower"
    )

    @field_validator("folder")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser()

    @field_validator("normalise")
    @classmethod
    def _is_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(value) - {"nfc", "strip", "lower"}:
            raise ValueError(f"{min(unknown)!r} is none of nfc, strip, lower")
        return value

    @field_validator("packs")
    @classmethod
    def _is_given(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one pack")
        return value


class EncoderSettings(Section):
    """What computes the misses."""

    target: str = Field(
        "local",
        description="'local'; addresses of other sidecars that encode, with commas between; or an"
        " OpenAI-compatible service: openai://HOST/v1, or openai+http:// without encryption",
    )
    batch_tokens: int = Field(
        0,
        ge=0,
        description="most tokens in one run, padding included; 0 for 512 on a CPU, 16384 on CUDA",
    )
    queue_inputs: int = Field(
        20_000, ge=1, description="most inputs waiting for a model; more are refused"
    )
    timeout: Seconds = Field(30.0, gt=0, description="longest wait for a remote encoder")
    token_file: OptionalPath = Field(
        None, description="file that holds the token that is shown to remote encoders"
    )
    insecure_token: bool = Field(
        False, description="allow that the token goes to other machines without encryption"
    )


class GeneratorSettings(Section):
    """What generates text."""

    packs: Words = Field(
        (),
        description="names of packs or paths of folders, which may be pinned too; with another"
        " target names of its models, or OURS=THEIRS; the first is the default; empty for no"
        " generation",
    )
    target: str = Field(
        "local",
        description="'local', or an OpenAI-compatible service: openai://HOST/v1, or openai+http://"
        " without encryption",
    )
    parallel: int = Field(4, ge=1, description="most generations at work at once")
    queue: int = Field(256, ge=1, description="most generations that wait; more are refused")
    max_tokens: int = Field(
        256, ge=1, description="most tokens of an answer, unless a call says otherwise"
    )

    @field_validator("target")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value != "local" and not is_openai(value):
            raise ValueError("write local, openai://HOST/v1 or openai+http://HOST:PORT/v1")
        return value


class PrefixSettings(Section):
    """Keys and values of prompts, so that the beginning of a prompt is read only once."""

    max_bytes: Bytes = Field(
        512 * 2**20, description="memory of generations at work and of what is kept of prompts"
    )
    block_tokens: int = Field(16, ge=1, le=1024, description="tokens of a block")
    shared: bool = Field(False, description="keep blocks on disk and in Redis too")
    codec: Literal["exact", "float16", "int8"] = Field(
        "exact",
        description="how blocks are kept there: exact is float16 where that loses nothing, else"
        " float32",
    )
    ttl: Lifetime = Field(3600.0, description="lifetime of blocks there; or 'never'")
    disk_bytes: Bytes = Field(
        2 * 2**30,
        ge=MIN_BYTES,
        description="capacity of blocks on disk, beside disk.max_bytes; at least 16 MiB",
    )


class OpenAISettings(Section):
    """OpenAI-compatible services that compute the misses."""

    key: SecretStr = Field(SecretStr(""), description="key that is sent to them")
    key_file: OptionalPath = Field(None, description="file that holds the key, in place of it")
    insecure_key: bool = Field(
        False, description="allow that the key goes to other machines without encryption"
    )
    ca_file: OptionalPath = Field(
        None, description="certificates that theirs are checked with; empty for the system's"
    )
    cert_file: OptionalPath = Field(None, description="certificate shown to them, in PEM")
    cert_key_file: OptionalPath = Field(None, description="its private key")
    timeout: Seconds = Field(60.0, gt=0, description="longest wait for the next byte")
    retries: int = Field(2, ge=0, description="most repetitions of a call that may succeed later")


class CacheSettings(Section):
    """What is stored, and for how long."""

    codec: Literal["float32", "float16", "int8"] = Field(
        "float32", description="how vectors are stored; only float32 is exact"
    )
    query_ttl: Lifetime = Field(
        86400.0, description="lifetime of texts that are not declared documents; or 'never'"
    )
    document_ttl: Lifetime = Field(
        None, description="lifetime of entities, tensors and texts declared documents"
    )
    search_ttl: Lifetime = Field(600.0, description="lifetime of lists of search results")
    empty_search_ttl: Seconds = Field(60.0, gt=0, description="lifetime of those that are empty")
    rerank_ttl: Lifetime = Field(600.0, description="lifetime of a reranker's scores")
    generate_ttl: Lifetime = Field(3600.0, description="lifetime of generated answers")
    ttl_jitter: float = Field(
        0.1, ge=0, lt=1, description="largest share by which a lifetime is shortened at random"
    )
    staleness: Seconds = Field(
        5.0,
        gt=1,
        description="without contact to Redis for so long, what has tags is not served from memory"
        " or disk: others may have invalidated it",
    )
    prefix: str = Field(
        "embercache", pattern=rf"^{NAME_PATTERN}$", description="first part of every key"
    )
    namespace: str = Field(
        "default",
        pattern=rf"^{NAME_PATTERN}$",
        description="namespace of calls that name none; not of events",
    )
    salt: SecretStr = Field(
        SecretStr(""),
        description="secret mixed into every key and tag; the same for all sidecars that share a"
        " Redis",
    )
    salt_file: OptionalPath = Field(None, description="file that holds the salt, in place of it")

    @model_validator(mode="after")
    def _has_one_salt(self) -> CacheSettings:
        if self.salt_file is not None and self.salt.get_secret_value():
            raise ValueError("cache.salt and cache.salt_file are both set: leave one of them out")
        return self


class HotSettings(Section):
    """The hot tier: memory."""

    max_bytes: Bytes = Field(256 * 2**20, description="capacity; 0 for no hot tier")
    policy: Literal["s3fifo", "lru"] = Field(
        "s3fifo", description="what stays when it is full: s3fifo is not emptied by a scan"
    )


class DiskSettings(Section):
    """The disk tier: a folder of this sidecar alone."""

    folder: OptionalPath = Field(None, description="where it is; empty for no disk tier")
    max_bytes: Bytes = Field(4 * 2**30, ge=MIN_BYTES, description="capacity; at least 16 MiB")


class RedisSettings(Section):
    """The warm tier: a Redis that sidecars share."""

    url: SecretStr = Field(
        SecretStr(""),
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://;"
        " empty for no warm tier",
    )
    password_file: OptionalPath = Field(None, description="file that holds the password")
    timeout: Seconds = Field(
        0.1, gt=0, description="longest wait for Redis before the model answers instead"
    )
    queue_bytes: Bytes = Field(
        64 * 2**20, ge=2**20, description="most bytes waiting to be written; more are dropped"
    )


class IndexSettings(Section):
    """Where documents are kept and found."""

    url: SecretStr = Field(
        SecretStr(""),
        description="memory://, memory:///FOLDER, redis:// (Redis 8) or postgresql:// (pgvector);"
        " empty for redis.url, or without that for memory://",
    )
    password_file: OptionalPath = Field(None, description="file that holds the password, of Redis")
    max_bytes: Bytes = Field(
        2**30, ge=1, description="most memory of documents with memory://; more are refused"
    )


class SemanticSettings(Section):
    """Answers given to other queries that mean the same."""

    namespaces: Words = Field((), description="where they are given unless a call declines")
    threshold: float = Field(
        0.95, gt=0, le=1, description="least cosine of two queries, unless a call says otherwise"
    )
    entries: int = Field(20_000, ge=0, description="most queries that are compared with")
    verifier: str = Field(
        "", description="gRPC address of a SemanticVerifier that is asked each time; empty for none"
    )
    verifier_timeout: Seconds = Field(
        0.2, gt=0, description="longest wait for it; then the answer is computed"
    )


class PopularSettings(Section):
    """The queries asked most, for warming."""

    queries: int = Field(
        0,
        ge=0,
        le=100_000,
        description="most queries tracked in a namespace, with their text, here and in Redis; 64"
        " MiB at most of all namespaces; 0 for none",
    )


class WarmingSettings(Section):
    """Warming at a time when there is little to do."""

    window: str = Field("", description="hours in UTC, like 02:00-05:00; empty for never")
    queries: int = Field(1000, ge=1, description="popular queries of each namespace")
    per_second: float = Field(20.0, gt=0, allow_inf_nan=False, description="most queries a second")

    @field_validator("window")
    @classmethod
    def _is_window(cls, value: str) -> str:
        hour = r"([01]\d|2[0-3]):[0-5]\d"
        if value and not re.fullmatch(f"{hour}-{hour}", value):
            raise ValueError("write HH:MM-HH:MM, like 02:00-05:00, or nothing")
        return value


class Settings(Section):
    """Everything that can be set."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    prefix: PrefixSettings = Field(default_factory=PrefixSettings)
    openai: OpenAISettings = Field(default_factory=OpenAISettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    hot: HotSettings = Field(default_factory=HotSettings)
    disk: DiskSettings = Field(default_factory=DiskSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    semantic: SemanticSettings = Field(default_factory=SemanticSettings)
    popular: PopularSettings = Field(default_factory=PopularSettings)
    warming: WarmingSettings = Field(default_factory=WarmingSettings)
    prices: PriceSettings = Field(default_factory=PriceSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)
    tls: TlsSettings = Field(default_factory=TlsSettings)
    upstream_tls: UpstreamTlsSettings = Field(default_factory=UpstreamTlsSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    encryption: EncryptionSettings = Field(default_factory=EncryptionSettings)

    @model_validator(mode="after")
    def _has_room_for_a_batch(self) -> Settings:
        if self.encoder.queue_inputs < self.server.max_batch_items:
            raise ValueError(
                "encoder.queue_inputs must be at least server.max_batch_items, else the largest"
                " batch is always refused"
            )
        return self

    @model_validator(mode="after")
    def _is_private(self) -> Settings:
        if not self.tls.cert_file:
            self.server.refuse_open_addresses()
        return self

    @model_validator(mode="after")
    def _hides_texts(self) -> Settings:
        has_salt = self.cache.salt_file is not None or bool(self.cache.salt.get_secret_value())
        if self.encryption.keys_file is not None and not has_salt:
            raise ValueError(
                "encryption.keys_file needs a salt: without one, who can read Redis or the disk can"
                " test guesses of texts against the keys of entries; put a long random secret into"
                " cache.salt_file, the same for all sidecars that share a Redis"
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_warm(self) -> Settings:
        if self.warming.window and not self.popular.queries:
            raise ValueError(
                "warming.window warms popular queries, which are not tracked: set popular.queries,"
                " or leave the window empty"
            )
        return self

    @model_validator(mode="after")
    def _hears_of_changes(self) -> Settings:
        index = self.index.url.get_secret_value().lower()
        if index and not index.startswith("memory:") and not self.redis.url.get_secret_value():
            raise ValueError(
                "index.url names an index that sidecars share, and without redis.url they do not"
                " hear of each other's changes: set redis.url too, or use memory:///FOLDER"
            )
        return self
