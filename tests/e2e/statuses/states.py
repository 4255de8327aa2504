"""What a sidecar answers in a certain state, or with certain others around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.e2e.statuses.conditions import (
    LONG_AWAY,
    LONG_NO_ROOM,
    LONG_QUOTA,
    NEW_VERSION,
    NO_ENCODER,
    NO_INDEX,
    NO_REDIS,
    NO_ROOM,
    NO_TIME,
    NOT_TOLD,
    QUOTA,
    REFUSES,
    STRANGER,
    UNFIT_REDIS,
)
from tests.e2e.statuses.requests import (
    delete,
    deleted,
    embed,
    generate,
    invalidate,
    invalidate_inputs,
    list_models,
    migrate,
    rerank,
    rollback,
    sample,
    search,
    upsert,
    warm,
    warm_search,
)
from tests.e2e.statuses.scenario import Table, scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

NOT_TAKEN_THERE = "the service elsewhere does not take the prompt, or an option"
NO_MORE_THERE = "the service elsewhere takes no more calls"
REFUSED_THERE = "the service elsewhere refuses the key, or has no such model"
AWAY_THERE = "the service elsewhere cannot be reached, or broke off"

# --- A policy with a caller for "shop" and "spent", of which the second has no quota left -------

TOKEN = "the-token-of-a-caller"  # noqa: S105
SHOWN = (("authorization", f"Bearer {TOKEN}"),)
_STRANGE: Table = {
    (owner, "PERMISSION_DENIED", STRANGER): [
        (request, "name one of his, or have it added to the policy")
    ]
    for owner, request in {
        "Embed": embed(namespace="bank"),
        "Search": search(namespace="bank"),
        "Upsert": upsert(namespace="bank"),
        "Delete": delete(namespace="bank"),
        "Rerank": rerank(namespace="bank"),
        "Generate": generate(namespace="bank"),
        "Invalidate": invalidate(kind="embed", namespace="bank"),
        "PublishEvents": deleted(namespace="bank"),
        "Warm": warm(embed=embed(namespace="bank")),
    }.items()
}
_LONG_SPENT: Table = {
    ("Warm", "RESOURCE_EXHAUSTED", LONG_QUOTA): [
        (warm(embed=embed(namespace="spent")), "have its quota items_per_second raised")
    ]
}
KNOWN = scenarios({**_STRANGE, **_LONG_SPENT}, shows=SHOWN)

# --- Models that are at work, with a queue: that of "other" is full, and of "tiny" nearly --------
# "crowded" may have one computation, and has; "old" is cached, and scored, for "tiny" and "other".

_FULL: Table = {
    ("Embed", "RESOURCE_EXHAUSTED", NO_ROOM): [
        (embed(model="other"), "send fewer at once, or try again later")
    ],
    ("Embedding.error", "RESOURCE_EXHAUSTED", NO_ROOM): [
        (embed("old", "new", model="other"), "send fewer at once, or try again later")
    ],
    ("Search", "RESOURCE_EXHAUSTED", NO_ROOM): [
        (search(model="other"), "send fewer at once, or try again later")
    ],
    ("Upserted.error", "RESOURCE_EXHAUSTED", NO_ROOM): [
        (upsert(model="other"), "send fewer at once, or try again later")
    ],
    ("Rerank", "RESOURCE_EXHAUSTED", NO_ROOM): [
        (rerank(*"abcdefgh"), "send fewer at once, or try again later")
    ],
    ("RerankScore.error", "RESOURCE_EXHAUSTED", NO_ROOM): [
        (rerank("old", *"abcdefg", query="old"), "send fewer at once, or try again later")
    ],
    ("Warm", "RESOURCE_EXHAUSTED", LONG_NO_ROOM): [
        (warm(embed=embed(model="other")), "send fewer at once, or try again later"),
        (warm_search(model="other"), "send fewer at once, or try again later"),
    ],
    ("MigrateModel", "RESOURCE_EXHAUSTED", LONG_NO_ROOM): [
        (migrate("other"), "send fewer at once, or try again later")
    ],
}
_LATE: Table = {
    ("Embed", "RESOURCE_EXHAUSTED", NO_TIME): [(embed(), "or give the call more time")],
    ("Embedding.error", "RESOURCE_EXHAUSTED", NO_TIME): [
        (embed("old", "new"), "or give the call more time")
    ],
    ("Search", "RESOURCE_EXHAUSTED", NO_TIME): [(search(), "or give the call more time")],
    ("Upserted.error", "RESOURCE_EXHAUSTED", NO_TIME): [(upsert(), "or give the call more time")],
    ("Rerank", "RESOURCE_EXHAUSTED", NO_TIME): [(rerank(), "or give the call more time")],
    ("RerankScore.error", "RESOURCE_EXHAUSTED", NO_TIME): [
        (rerank("old", "new", query="old"), "or give the call more time")
    ],
    (
        "Generate",
        "RESOURCE_EXHAUSTED",
        "the answer would not begin before the deadline of the call",
    ): [(generate(model="slow"), "or give the call more time")],
}
_CROWDED: Table = {
    ("Embed", "RESOURCE_EXHAUSTED", QUOTA): [
        (embed(namespace="crowded"), "have its quota computations raised in the policy")
    ],
    ("Embedding.error", "RESOURCE_EXHAUSTED", QUOTA): [
        (embed("old", "new", namespace="crowded"), "have its quota computations raised")
    ],
    ("Search", "RESOURCE_EXHAUSTED", QUOTA): [
        (search(namespace="crowded"), "have its quota computations raised in the policy")
    ],
    ("Upserted.error", "RESOURCE_EXHAUSTED", QUOTA): [
        (upsert(namespace="crowded"), "have its quota computations raised in the policy")
    ],
    ("Rerank", "RESOURCE_EXHAUSTED", QUOTA): [
        (rerank(namespace="crowded"), "have its quota computations raised in the policy")
    ],
    ("RerankScore.error", "RESOURCE_EXHAUSTED", QUOTA): [
        (
            rerank("old", "new", query="old", namespace="crowded"),
            "have its quota computations raised in the policy",
        )
    ],
    ("Generate", "RESOURCE_EXHAUSTED", QUOTA): [
        (generate(namespace="crowded"), "have its quota computations raised in the policy")
    ],
}
_WAITING: Table = {
    ("Generate", "RESOURCE_EXHAUSTED", "too many generations wait"): [
        (generate(model="full"), "try again later")
    ]
}
BUSY = [
    *scenarios({**_FULL, **_CROWDED}, told_when=True),
    *scenarios(_LATE, told_when=True, timeout=5.0),
    *scenarios(_WAITING),
]

# --- Encoders that have not answered yet --------------------------------------------------------

NOT_YET = "has not answered yet: is it running"
AWAY = scenarios(
    {
        ("Embed", "UNAVAILABLE", NO_ENCODER): [(embed(), NOT_YET)],
        ("ListModels", "UNAVAILABLE", NO_ENCODER): [(list_models(), NOT_YET)],
        ("Search", "UNAVAILABLE", NO_ENCODER): [(search(), NOT_YET)],
        ("Upsert", "UNAVAILABLE", NO_ENCODER): [(upsert(), NOT_YET)],
        ("Delete", "UNAVAILABLE", NO_ENCODER): [(delete(), NOT_YET)],
        ("Rerank", "UNAVAILABLE", NO_ENCODER): [(rerank(), NOT_YET)],
        ("Invalidate", "UNAVAILABLE", NO_ENCODER): [(invalidate_inputs(), NOT_YET)],
        ("Warm", "UNAVAILABLE", LONG_AWAY): [(warm(embed=embed()), NOT_YET)],
        ("MigrateModel", "UNAVAILABLE", NO_ENCODER): [(migrate(), NOT_YET)],
    }
)

# --- Encoders that have gone; "old" is cached, and scored ---------------------------------------

GONE = scenarios(
    {
        ("Embed", "UNAVAILABLE", NO_ENCODER): [(embed(), "try again later")],
        ("Embedding.error", "UNAVAILABLE", NO_ENCODER): [(embed("old", "new"), "try again later")],
        ("Search", "UNAVAILABLE", NO_ENCODER): [(search(), "try again later")],
        ("Upserted.error", "UNAVAILABLE", NO_ENCODER): [(upsert(), "try again later")],
        ("Rerank", "UNAVAILABLE", NO_ENCODER): [(rerank(), "try again later")],
        ("RerankScore.error", "UNAVAILABLE", NO_ENCODER): [
            (rerank("old", "new", query="old"), "try again later")
        ],
    }
)

# --- Encoders that refuse calls, have no room, or never have the version that they tell of --------

REFUSING = scenarios(
    {
        ("Embedding.error", "INTERNAL", REFUSES): [(embed(), "refuses calls")],
        ("Search", "INTERNAL", REFUSES): [(search(), "refuses calls")],
        ("Upserted.error", "INTERNAL", REFUSES): [(upsert(), "refuses calls")],
        ("RerankScore.error", "INTERNAL", REFUSES): [(rerank(), "refuses calls")],
    }
)
FULL = scenarios(
    {
        ("Embed", "RESOURCE_EXHAUSTED", NO_ROOM): [(embed(), "try again later")],
        ("Search", "RESOURCE_EXHAUSTED", NO_ROOM): [(search(), "try again later")],
        ("Upserted.error", "RESOURCE_EXHAUSTED", NO_ROOM): [(upsert(), "try again later")],
        ("Rerank", "RESOURCE_EXHAUSTED", NO_ROOM): [(rerank(), "try again later")],
    },
    told_when=True,
)
CHANGING = scenarios(
    {
        ("Embedding.error", "FAILED_PRECONDITION", NEW_VERSION): [(embed(), "retry")],
        ("Search", "FAILED_PRECONDITION", NEW_VERSION): [(search(), "retry")],
        ("Upsert", "FAILED_PRECONDITION", NEW_VERSION): [(upsert(), "retry")],
        ("RerankScore.error", "FAILED_PRECONDITION", NEW_VERSION): [(rerank(), "retry")],
    }
)

# --- A Redis that has gone; the index is in memory ----------------------------------------------

CUT_OFF = scenarios(
    {
        ("Upsert", "UNAVAILABLE", NOT_TOLD): [(upsert(), "repeat the call")],
        ("Delete", "UNAVAILABLE", NOT_TOLD): [(delete(), "repeat the call")],
        ("Invalidate", "UNAVAILABLE", NOT_TOLD): [
            (invalidate(kind="embed"), "repeat the call"),
            (invalidate(tags={"tags": ["t"]}), "repeat the call"),
            (invalidate_inputs(), "repeat the call"),
        ],
        ("PublishEvents", "UNAVAILABLE", NOT_TOLD): [(deleted(), "repeat the call")],
        ("MigrateModel", "UNAVAILABLE", NO_REDIS): [(migrate(), "retry")],
        ("RollbackModel", "UNAVAILABLE", NO_REDIS): [(rollback(), "retry")],
    }
)

# --- An index that has gone, is full, or is in a Redis that cannot hold one ---------------------

NO_DOCUMENTS = scenarios(
    {
        ("Search", "UNAVAILABLE", NO_INDEX): [(search(), "try again later")],
        ("Upsert", "UNAVAILABLE", NO_INDEX): [(upsert(), "try again later")],
        ("Delete", "UNAVAILABLE", NO_INDEX): [(delete(), "try again later")],
        ("Warm", "UNAVAILABLE", LONG_AWAY): [(warm_search(), "try again later")],
        ("MigrateModel", "UNAVAILABLE", NO_INDEX): [(migrate(), "try again later")],
    }
)
FULL_INDEX = scenarios(
    {("Upsert", "UNAVAILABLE", "the index cannot store more"): [(upsert(), "takes no more")]}
)
FULL_MEMORY = scenarios(
    {
        ("Upsert", "RESOURCE_EXHAUSTED", "the index in memory is full"): [
            (upsert(), "delete documents, or raise index.max_bytes")
        ]
    }
)
UNFIT = scenarios(
    {
        ("Search", "FAILED_PRECONDITION", UNFIT_REDIS): [(search(), "use Redis 8.2")],
        ("Upsert", "FAILED_PRECONDITION", UNFIT_REDIS): [(upsert(), "use Redis 8.2")],
        ("Delete", "FAILED_PRECONDITION", UNFIT_REDIS): [(delete(), "use Redis 8.2")],
        ("MigrateModel", "FAILED_PRECONDITION", UNFIT_REDIS): [(migrate(), "use Redis 8.2")],
    }
)

# --- A service elsewhere that generates; each call is its own fault ------------------------------


def _answers(status: int) -> Callable[[Any], None]:
    return lambda service: service.fail(status)


def _breaks_off(service: Any) -> None:
    service.cut_after = 1


ELSEWHERE = [
    scenario
    for status, when, request, says, before in (
        (
            "INVALID_ARGUMENT",
            NOT_TAKEN_THERE,
            generate(),
            "does not take this input",
            _answers(400),
        ),
        ("INVALID_ARGUMENT", NOT_TAKEN_THERE, sample(stop_tokens=[1]), "use stop", None),
        ("RESOURCE_EXHAUSTED", NO_MORE_THERE, generate(), "try again later", _answers(429)),
        ("INTERNAL", REFUSED_THERE, generate(), "check openai.key", _answers(401)),
        ("INTERNAL", REFUSED_THERE, generate(), "check its path", _answers(404)),
        ("UNAVAILABLE", AWAY_THERE, generate(), "try again later", _answers(503)),
        ("UNAVAILABLE", AWAY_THERE, generate(), "try again later", _breaks_off),
    )
    for scenario in scenarios(
        {("Generate", status, when): [(request, says)]},
        before=before,
        told_when=status == "RESOURCE_EXHAUSTED",
    )
]

# --- Migrations, each in a state of its own ------------------------------------------------------

GOING_ON, NOT_COMPLETE, UNUSABLE_DOCUMENT, ANOTHER_VERSION, MOVED_BACK, REDIS_AWAY, NOT_FOLLOWED = (
    scenarios({("MigrateModel", status, when): [(request, says)]})
    for status, when, request, says in (
        (
            "FAILED_PRECONDITION",
            "another migration is going on",
            migrate("third"),
            "retry when it has ended",
        ),
        ("FAILED_PRECONDITION", "the move before is not complete", migrate("third"), "retry later"),
        (
            "ABORTED",
            "a document cannot be embedded with the other model",
            migrate(),
            "change or delete them, then ask again",
        ),
        ("ABORTED", NEW_VERSION, migrate(), "ask again"),
        ("ABORTED", "somebody else has moved the name meanwhile", migrate(), "rolled back"),
        ("ABORTED", "Redis was away for too long", migrate(), "ask again"),
        (
            "UNAVAILABLE",
            "the name has moved, but not all documents have followed",
            migrate(),
            "it is tried again by itself",
        ),
    )
)
