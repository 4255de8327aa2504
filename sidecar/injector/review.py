"""Answers an AdmissionReview: what becomes of one pod. Knows nothing of HTTP.

Whatever goes wrong in here lets the pod pass without a sidecar: a webhook must never be why a
cluster cannot start pods. Only a pod that is addressed to us is denied if its author can put it
right: that of another, in a namespace that asks, comes up without.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from sidecar.injector.annotations import INJECT_LABEL, asks_for_sidecar, is_addressed_to_us
from sidecar.injector.errors import InjectionError
from sidecar.injector.pod import inject
from sidecar.injector.shape import mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sidecar.injector.metrics import Outcome
    from sidecar.injector.settings import InjectorSettings

_API_VERSION = "admission.k8s.io/v1"
_KIND = "AdmissionReview"
_UNPROCESSABLE = 422
_MOST_METADATA = 2**18  # What the API server allows for annotations.
# Of names in characters, which keeps what is no name out of logs and answers.
_LONGEST_NAME = 253
_LONGEST_MESSAGE = 2000

_log = structlog.get_logger()


class BadRequestError(Exception):
    """What came is no AdmissionReview that can be answered. The message says why."""


class Answer(NamedTuple):
    """An answered review: what came of it, and the AdmissionReview to send back."""

    outcome: Outcome
    review: dict[str, Any]


class Verdict(NamedTuple):
    """What becomes of a pod: a JSON Patch that changes it, or why it is denied.

    ``warnings`` are for the author of a pod that is let in.
    """

    outcome: Outcome
    patch: str = ""
    denial: str = ""
    warnings: tuple[str, ...] = ()


class Reviewer:
    """Decides on pods.

    ``settings`` are those of the sidecars, ``own_namespace`` is never touched, ``native`` tells
    which kind of sidecar a pod gets whose annotations leave that open.
    """

    def __init__(
        self, settings: InjectorSettings, *, own_namespace: str, native: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._own_namespace = own_namespace
        self._native = native

    def answer(self, body: bytes, *, namespace_asks: bool) -> Answer:
        """The answer to an AdmissionReview in JSON. Raises `BadRequestError`.

        ``namespace_asks``: pods without a label of ours get a sidecar, too, as the API server has
        found the label on their namespace; a review does not show it.
        """
        request = _request_of(body)
        try:
            verdict = self._judge(request, namespace_asks=namespace_asks)
        except Exception:
            # By now nothing but a fault of ours is left.
            _log.exception("review failed", **_identity(request))
            verdict = _without_sidecar("failed", "the injector failed, see its log")
        _tell(verdict, request)
        return Answer(verdict.outcome, _review(request["uid"], verdict))

    def _judge(self, request: dict[str, Any], *, namespace_asks: bool) -> Verdict:
        if not _creates_pod(request):
            return Verdict("skipped")
        pod = request.get("object")
        if not isinstance(pod, dict) or not isinstance(pod.get("metadata"), dict):
            return _without_sidecar("failed", "the review has no pod with metadata")
        names: tuple[Collection[str], Collection[str]] = (), ()
        try:
            labels = mapping(pod, "metadata", "labels")
            names = mapping(pod, "metadata", "annotations"), labels
            namespace = _name_of(request.get("namespace"))
            if namespace == self._own_namespace or self._settings.excludes(namespace):
                if labels.get(INJECT_LABEL) == "true":
                    return _without_sidecar("skipped", f"the namespace {namespace} is excluded")
                return Verdict("skipped")
            asks = asks_for_sidecar(labels)
            if not (namespace_asks if asks is None else asks):
                return Verdict("skipped")
            if reason := _too_much(pod):
                return _without_sidecar("failed", reason)
            result = inject(
                pod, namespace=namespace, settings=self._settings, native=self._native()
            )
        except InjectionError as error:
            if is_addressed_to_us(*names):
                return Verdict("denied", denial=str(error))
            return _without_sidecar("failed", str(error))
        if result.left_alone:
            return _without_sidecar("failed", result.left_alone)
        if not result.operations:
            return Verdict("skipped")
        patch = json.dumps(result.operations, separators=(",", ":"))
        return Verdict(
            "injected",
            patch=base64.b64encode(patch.encode()).decode(),
            warnings=tuple(f"Embercache: {warning}" for warning in result.warnings),
        )


def _too_much(pod: dict[str, Any]) -> str | None:
    """Why a pod would keep others waiting for long. The API server checks sizes only after us."""
    named = [mapping(pod, "metadata", key) for key in ("labels", "annotations")]
    if len(json.dumps(named)) > _MOST_METADATA:
        return f"its labels and annotations have more than {_MOST_METADATA} characters"
    return None


def _without_sidecar(outcome: Outcome, reason: str) -> Verdict:
    """For a pod that asks and does not get: its author is told."""
    message = f"no Embercache sidecar was added: {reason}"
    return Verdict(outcome, warnings=(message[:_LONGEST_MESSAGE],))


def _tell(verdict: Verdict, request: dict[str, Any]) -> None:
    """Logs what became of a pod.

    A denial may quote annotations, so it is for the author only. A warning holds names at most.
    """
    names = _identity(request) | {"outcome": verdict.outcome}
    if verdict.warnings:
        _log.warning("pod reviewed", reason="; ".join(verdict.warnings), **names)
    elif verdict.outcome == "skipped":
        _log.debug("pod reviewed", **names)
    else:
        _log.info("pod reviewed", **names)


def _request_of(body: bytes) -> dict[str, Any]:
    """The request of a review, with its ``uid``. Raises `BadRequestError`."""
    try:
        review = json.loads(body, parse_constant=_refuse)
    except RecursionError:
        raise BadRequestError("the JSON is nested too deeply") from None
    except ValueError:
        raise BadRequestError("the body is not JSON") from None
    if not isinstance(review, dict) or review.get("kind") != _KIND:
        raise BadRequestError(f"send an object of the kind {_KIND}")
    if review.get("apiVersion") != _API_VERSION:
        raise BadRequestError(
            f"only {_API_VERSION} is understood: set admissionReviewVersions to [v1]"
        )
    request = review.get("request")
    if not isinstance(request, dict) or not _is_name(request.get("uid")):
        raise BadRequestError("the review has no request with a uid")
    return request


def _name_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _creates_pod(request: dict[str, Any]) -> bool:
    """Whether this is about a new pod itself, and not, say, about one of its subresources."""
    return (
        request.get("operation") == "CREATE"
        and request.get("resource") == {"group": "", "version": "v1", "resource": "pods"}
        and not request.get("subResource")
    )


def _review(uid: str, verdict: Verdict) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": uid, "allowed": not verdict.denial}
    if verdict.denial:
        response["status"] = {
            "code": _UNPROCESSABLE,
            "reason": "Invalid",
            "message": verdict.denial[:_LONGEST_MESSAGE],
        }
    if verdict.patch:
        response |= {"patchType": "JSONPatch", "patch": verdict.patch}
    if verdict.warnings:
        response["warnings"] = list(verdict.warnings)
    return {"apiVersion": _API_VERSION, "kind": _KIND, "response": response}


def _identity(request: dict[str, Any]) -> dict[str, Any]:
    """What tells in a log which pod this was: names, no contents."""
    pod = request.get("object")
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    names = metadata if isinstance(metadata, dict) else {}
    found = {
        "uid": request["uid"],
        "namespace": request.get("namespace"),
        "pod": request.get("name") or names.get("name") or names.get("generateName"),
    }
    return {key: name for key, name in found.items() if _is_name(name)}
