"""Has quotas follow the policy: in the services, in memory, and in the queues of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.access.quotas import Quotas

if TYPE_CHECKING:
    from sidecar.access.live import Access
    from sidecar.access.policy import Policy
    from sidecar.open_tiers import Tiers


def open_quotas(access: Access) -> Quotas:
    """The quotas of the policy in force."""
    quotas = Quotas()
    access.subscribe(quotas.apply)
    return quotas


def limit_tiers(tiers: Tiers, access: Access) -> None:
    """Keeps namespaces within the bytes that the policy in force gives them."""

    def apply(policy: Policy) -> None:
        tiers.accounts.keep_apart(policy.quotas)
        is_limited = any(quota.hot_bytes for quota in policy.quotas.values())
        tiers.hot.limit((lambda name: policy.quota(name).hot_bytes) if is_limited else None)
        # Responses that are stored hold the meters that were their namespaces' when they were made.
        tiers.generations.restamp()

    access.subscribe(apply)
