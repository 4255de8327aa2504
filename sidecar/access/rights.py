"""The right that each method needs. A method that is not here cannot be served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.access.caller import Right

if TYPE_CHECKING:
    from collections.abc import Mapping

RIGHTS: Mapping[str, Right] = {
    "embercache.v1.EmbedService/Embed": Right.READ,
    "embercache.v1.EmbedService/EmbedStream": Right.READ,
    "embercache.v1.EmbedService/ListModels": Right.READ,
    "embercache.v1.SearchService/Search": Right.READ,
    "embercache.v1.SearchService/Rerank": Right.READ,
    "embercache.v1.SearchService/Upsert": Right.WRITE,
    "embercache.v1.SearchService/Delete": Right.WRITE,
    "embercache.v1.GenerateService/Generate": Right.READ,
    "embercache.v1.GenerateService/GenerateStream": Right.READ,
    "embercache.v1.GenerateService/ListGenerators": Right.READ,
    "embercache.v1.CacheService/Stats": Right.READ,
    "embercache.v1.CacheService/Invalidate": Right.WRITE,
    "embercache.v1.CacheService/PublishEvents": Right.WRITE,
    "embercache.v1.CacheService/Warm": Right.WRITE,
    "embercache.v1.CacheService/MigrateModel": Right.ADMINISTER,
    "embercache.v1.CacheService/RollbackModel": Right.ADMINISTER,
    "embercache.v1.CacheService/Flush": Right.ADMINISTER,
}
"""By full names of methods. The whole OpenAI-compatible API needs `Right.READ`."""
