"""Conditions that several methods have, in the words of the contract."""

from __future__ import annotations

from tests.e2e.statuses.contract import EVERY_METHOD, Documented

NO_MODEL = "there is no such model here"
NO_RERANKER = "there is no such reranker here"
NO_GENERATOR = "there is no such generator here"
OTHER_VERSION = "the model is loaded in another version than asked for"
NEW_VERSION = "the model became another version meanwhile"
NOT_CACHED = "nothing is cached, with CACHE_MODE_ONLY_IF_CACHED"
BAD_OPTION = "an option is bad"
NOT_TAKEN = "the model does not take such an input"
UNUSABLE = "the model made nothing usable of it"
REFUSES = "the encoder, or the service elsewhere, refuses the sidecar"
QUOTA = "a quota of the namespace is used up"
NO_ROOM = "the model has no room for more inputs"
NO_TIME = "the model would not be done before the deadline of the call"
STRANGER = "the namespace is not one that the caller may use"
NO_ENCODER = "the encoder cannot be reached"
NO_INDEX = "the index cannot be reached"
NO_REDIS = "Redis cannot be reached"
UNFIT_REDIS = "the Redis of the index cannot hold one"
NOT_TOLD = "the change is made, but other sidecars could not be told"
ALL_FAILED = "every item failed, the first with this"
LONG_NO_ROOM = "for half a minute there was no room"
LONG_AWAY = "for half a minute the encoder or the index could not be reached"
LONG_QUOTA = "for half a minute a quota of the namespace was used up"
NOT_TEXT = "the input is empty, too long or malformed"

# Of every method.

CANCELLED = Documented(EVERY_METHOD, "CANCELLED", "the caller ended the call")
GARBAGE = Documented(EVERY_METHOD, "INVALID_ARGUMENT", "the bytes are no request of this method")
LATE = Documented(EVERY_METHOD, "DEADLINE_EXCEEDED", "the deadline of the call passed")
DENIED = Documented(
    EVERY_METHOD, "PERMISSION_DENIED", "the caller has not the right that the method needs"
)
LARGE = Documented(EVERY_METHOD, "RESOURCE_EXHAUSTED", "the request is too large")
UNKNOWN_METHOD = Documented(
    EVERY_METHOD, "UNIMPLEMENTED", "the sidecar is too old to know the method"
)
FAULT = Documented(EVERY_METHOD, "INTERNAL", "a fault in the sidecar")
GONE = Documented(EVERY_METHOD, "UNAVAILABLE", "the sidecar is not there, or is ending")
GARBAGE_IN_A_STREAM = GARBAGE._replace(owner="EmbedStreamResponse.error")
NOT_BEGUN = Documented(EVERY_METHOD, "CANCELLED", "the sidecar ended before it began with the call")
UNKNOWN_CALLER = Documented(
    EVERY_METHOD, "UNAUTHENTICATED", "the policy of the sidecar knows no such caller"
)

EVERY = (
    CANCELLED,
    DENIED,
    FAULT,
    GARBAGE,
    GARBAGE_IN_A_STREAM,
    GONE,
    LARGE,
    LATE,
    NOT_BEGUN,
    UNKNOWN_CALLER,
    UNKNOWN_METHOD,
)
