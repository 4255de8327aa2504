"""From a GenerateRequest to what the cache and the generator need, and all that can be wrong."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

import grpc

from sidecar.models.generation import Role, Sampling
from sidecar.services.embed_request import check_version
from sidecar.services.errors import CallError, invalid
from sidecar.services.requests import cache_choices, semantic_threshold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embercache.v1 import generate_pb2

    from sidecar.config import SemanticSettings
    from sidecar.models.generation import Generator, GeneratorInfo, Prompt
    from sidecar.services.embed_request import RequestReader
    from sidecar.services.requests import CacheChoices

_ROLES = get_args(Role)
_MAX_MESSAGES = 10_000
_MAX_STOPS = 16
_MAX_STOP_BYTES = 256
# Far below it, logits would become infinite. As a message has it, in float32.
(_LEAST_PENALTY,) = struct.unpack("<f", struct.pack("<f", 0.01))
_NUMBERS = struct.Struct("<IdIdddQ")


@dataclass(frozen=True, slots=True)
class ParsedGeneration:
    """A request whose every part is right.

    ``is_repeatable`` says whether the answer may stand for another call's: it is not drawn at
    random, or the call does not mind. ``semantic`` is the least similarity of another prompt, None
    if only this one's answer will do.
    """

    generator: Generator
    info: GeneratorInfo
    namespace: str
    prompt: Prompt
    sampling: Sampling
    cache: CacheChoices
    semantic: float | None
    is_repeatable: bool

    @property
    def query(self) -> str:
        """What another prompt may word differently: the last message, or the whole text."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1][1]

    def scope_parts(self) -> list[bytes]:
        """Everything that the answer depends on, but for the query."""
        sampling = self.sampling
        # No number says that it is the service's own.
        temperature = math.inf if sampling.temperature is None else sampling.temperature
        parts = [
            _NUMBERS.pack(
                sampling.max_tokens,
                temperature,
                sampling.top_k,
                sampling.top_p,
                sampling.min_p,
                sampling.repetition_penalty,
                sampling.seed or 0,
            ),
            b"" if sampling.seed is None else b"seeded",
            b"%d" % len(sampling.stop),
            *(stop.encode() for stop in sampling.stop),
            b"%d" % len(sampling.stop_tokens),
            *(b"%d" % token for token in sampling.stop_tokens),
            b"%d" % len(self.cache.tags),
            *sorted(self.cache.tags),
        ]
        if isinstance(self.prompt, str):
            return [*parts, b"text"]
        for role, content in self.prompt[:-1]:
            parts += [role.encode(), content.encode()]
        return [*parts, b"chat", self.prompt[-1][0].encode()]


class GenerateReader:
    """Checks requests against the limits and the generators of this sidecar."""

    def __init__(
        self,
        requests: RequestReader,
        generators: Mapping[str, Generator],
        semantic: SemanticSettings,
        max_tokens: int,
    ) -> None:
        self._requests = requests
        self._generators = generators
        self._semantic = semantic
        self._max_tokens = max_tokens

    def read(self, request: generate_pb2.GenerateRequest) -> ParsedGeneration:
        """The request in our terms. Raises `CallError`."""
        generator = self.generator(request.model)
        info = generator.info
        check_version(info, request.model_version)
        sampling = self._sampling(request.sampling, info)
        is_random = sampling.temperature != 0 and sampling.seed is None
        name = self._requests.namespace(request.namespace)
        return ParsedGeneration(
            generator=generator,
            info=info,
            namespace=name,
            prompt=self._prompt(request),
            sampling=sampling,
            cache=cache_choices(self._requests.digests, request.cache),
            semantic=semantic_threshold(request.semantic, name, self._semantic),
            is_repeatable=not is_random or request.store_sampled,
        )

    def generator(self, name: str) -> Generator:
        """The generator of that name, or the first for an empty one. Raises `CallError`."""
        if not self._generators:
            raise CallError(
                grpc.StatusCode.NOT_FOUND,
                "this sidecar generates nothing: set generator.packs, for example to smollm2-135m"
                " after `embercache models pull smollm2-135m`",
            )
        generator = self._generators.get(name or next(iter(self._generators)))
        if generator is None:
            raise CallError(
                grpc.StatusCode.NOT_FOUND,
                f"no such generator here: choose one of {', '.join(self._generators)}, or add it to"
                " generator.packs",
            )
        return generator

    def _prompt(self, request: generate_pb2.GenerateRequest) -> Prompt:
        match request.WhichOneof("prompt"):
            case "text":
                if not request.text:
                    raise invalid("the prompt is empty: there is nothing to go on from")
                self._requests.check_text(request.text)
                return request.text
            case "chat":
                messages = request.chat.messages
                if not 1 <= len(messages) <= _MAX_MESSAGES:
                    raise invalid(f"a chat has 1 to {_MAX_MESSAGES} messages")
                return tuple(
                    (self._role(message.role), self._content(message.content))
                    for message in messages
                )
            case _:
                raise invalid("there is no prompt: set text or chat")

    def _role(self, role: str) -> Role:
        if role not in _ROLES:
            raise invalid(f"the role of a message is one of {', '.join(_ROLES)}")
        return cast("Role", role)

    def _content(self, content: str) -> str:
        self._requests.check_text(content)
        return content

    def _sampling(self, wanted: generate_pb2.Sampling, info: GeneratorInfo) -> Sampling:
        max_tokens = wanted.max_tokens if wanted.HasField("max_tokens") else self._max_tokens
        if max_tokens < 1:
            raise invalid("sampling.max_tokens is 0: ask for at least one, or leave it out")
        temperature = 0.0 if info.is_local else None
        if wanted.HasField("temperature"):
            temperature = _within(wanted.temperature, "temperature", 0, 2)
        top_p = _within(wanted.top_p, "top_p", 0, 1) if wanted.HasField("top_p") else 1.0
        if top_p == 0:
            raise invalid("sampling.top_p is 0: no token would be left; use temperature 0")
        min_p = _within(wanted.min_p, "min_p", 0, 1) if wanted.HasField("min_p") else 0.0
        penalty = 1.0
        if wanted.HasField("repetition_penalty"):
            penalty = _within(wanted.repetition_penalty, "repetition_penalty", _LEAST_PENALTY, 10)
        seed = wanted.seed if wanted.HasField("seed") else None
        top_k = wanted.top_k
        if temperature == 0:
            # Nothing is drawn: calls that differ in these alone have the same answer.
            top_k, top_p, min_p, seed = 0, 1.0, 0.0, None
        return Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=penalty,
            seed=seed,
            stop=_stops(wanted),
            stop_tokens=_stop_tokens(wanted),
        )


def _within(value: float, name: str, least: float, most: float) -> float:
    if not least <= value <= most:
        raise invalid(f"sampling.{name} must be from {least:g} to {most:g}")
    return value


def _stops(wanted: generate_pb2.Sampling) -> tuple[str, ...]:
    if len(wanted.stop) > _MAX_STOPS:
        raise invalid(f"sampling.stop has {len(wanted.stop)} strings, more than {_MAX_STOPS}")
    if not all(1 <= len(stop.encode()) <= _MAX_STOP_BYTES for stop in wanted.stop):
        raise invalid(f"a stop string has 1 to {_MAX_STOP_BYTES} bytes")
    return tuple(sorted(set(wanted.stop)))


def _stop_tokens(wanted: generate_pb2.Sampling) -> tuple[int, ...]:
    if len(wanted.stop_tokens) > _MAX_STOPS:
        raise invalid(f"sampling.stop_tokens has more than {_MAX_STOPS} tokens")
    return tuple(sorted(set(wanted.stop_tokens)))
