"""Settings of encryption, and of who may call."""

from __future__ import annotations

from pydantic import Field, model_validator

from sidecar.config_section import Section
from sidecar.units import OptionalPath


class TlsSettings(Section):
    """TLS of all addresses of this sidecar but the Unix socket; files are read again on change."""

    cert_file: OptionalPath = Field(
        None, description="certificate with its chain, in PEM; empty for no encryption"
    )
    key_file: OptionalPath = Field(None, description="its private key, in PEM")
    client_ca_file: OptionalPath = Field(
        None,
        description="certificates, in PEM, that those of callers are checked with; callers then"
        " have to show one, but for probes",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("set tls.cert_file and tls.key_file, or neither")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("tls.client_ca_file needs tls.cert_file and tls.key_file")
        return self


class UpstreamTlsSettings(Section):
    """TLS towards remote encoders and the semantic verifier; files are read again on change."""

    enabled: bool = Field(False, description="encrypt, and check their certificates")
    ca_file: OptionalPath = Field(
        None, description="certificates that theirs are checked with; empty for the system's"
    )
    cert_file: OptionalPath = Field(None, description="certificate shown to them, in PEM")
    key_file: OptionalPath = Field(None, description="its private key, in PEM")
    server_name: str = Field(
        "", description="name that their certificates have to carry; empty for that of the target"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> UpstreamTlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("set upstream_tls.cert_file and upstream_tls.key_file, or neither")
        if not self.enabled and (self.ca_file or self.cert_file or self.server_name):
            raise ValueError("these files are of no use without upstream_tls.enabled")
        return self


class AccessSettings(Section):
    """Who may call, and how much each namespace may take."""

    policy_file: OptionalPath = Field(
        None,
        description="YAML file of callers and quotas, read again on change; empty for no"
        " authentication and no quotas",
    )


class EncryptionSettings(Section):
    """Encryption of cached values on disk and in Redis."""

    keys_file: OptionalPath = Field(
        None,
        description="file of keys, read again on change: the first encrypts, all decrypt; empty for"
        " no encryption",
    )
