"""The path of an item through the cache: hot, disk, warm, compute, write back.

An item that is not hot becomes a *flight*: however many calls want it at once, the lower tiers
are asked once and the model computes it once. A flight runs in a task of its own, so a call that
goes away neither fails nor delays the others; when the last one is gone the flight is abandoned.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sidecar.cache.codec import CorruptValueError, Entry, pack, unpack
from sidecar.cache.flight import Flight
from sidecar.cache.items import Answer, CacheMode, NotCachedError, Tier
from sidecar.demand import act_for, demand_in
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sidecar.cache.accounts import Account
    from sidecar.cache.generations import Generations, NamespaceState
    from sidecar.cache.hot import HotTier
    from sidecar.cache.items import Loader, LowerTier, Policy, Want


# To look a member of an enum up takes 0.2 us, each time.
_HOT, _COMPUTED = Tier.HOT, Tier.COMPUTED

TAG_BYTES = 208
"""What a tag costs an entry in memory: its digest, its generation and both together, as resident
memory. Entries with many tags take less for each, about 170."""

_NOT_CACHED = "not in any tier of the cache: another cache.mode would have it computed"


@dataclass(slots=True)
class ReadThroughCounters:
    """Values refused as corrupt since start-up, by tier."""

    corrupt: dict[Tier, int]


class ReadThrough:
    """Answers items from the tiers, in order, and computes what is missing."""

    def __init__(
        self,
        hot: HotTier[Any],
        generations: Generations,
        *,
        disk: LowerTier | None,
        warm: LowerTier | None,
        ttl_jitter: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters = ReadThroughCounters(dict.fromkeys(Tier, 0))
        self._hot = hot
        self._generations = generations
        self._lower = [(t, s) for t, s in ((Tier.DISK, disk), (Tier.WARM, warm)) if s is not None]
        self._ttl_jitter = ttl_jitter
        self._clock = clock
        self._flights: dict[object, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def fetch(
        self, state: NamespaceState, wants: Sequence[Want], policy: Policy, loader: Loader
    ) -> list[Answer | Exception]:
        """Answers every item in order, each on its own: with an entry, or with its error."""
        began = perf_counter()
        results: list[Answer | Exception | None]
        missing: Sequence[int]
        if policy.mode.reads:
            results = [self._hot_answer(state, want) for want in wants]
            missing = [index for index, result in enumerate(results) if result is None]
            here = current()
            if here.is_recorded:
                # Afterwards: a span around it would be felt by calls that are not traced, too.
                with here.tier(_HOT, policy.account, len(wants), since=began) as span:
                    span.found(len(wants) - len(missing))
        else:
            results, missing = [None] * len(wants), range(len(wants))
        if missing:
            joined = self._join(state, [wants[i] for i in missing], policy, loader)
            for index, result in zip(missing, await self._wait(joined), strict=True):
                results[index] = result
        answers = [result for result in results if result is not None]
        if policy.counts:
            policy.account.count(answers, perf_counter() - began)
        return answers

    def remove(self, keys: Sequence[bytes]) -> None:
        """Removes entries from this sidecar's own tiers, and keeps flights from storing them."""
        doomed = set(keys)
        for flight in [flight for flight in self._flights.values() if flight.want.key in doomed]:
            # For those who wait already; who asks from now on gets something newer.
            flight.removed = True
            self._forget(flight)
        for key in keys:
            self._hot.remove(key)
        for tier, store in self._lower:
            if tier is Tier.DISK:
                store.delete(keys)

    async def close(self) -> None:
        """Waits for the tasks of flights that are under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Hot

    def _hot_answer(self, state: NamespaceState, want: Want) -> Answer | None:
        held = self._hot.get(want.key)
        if held is None:
            return None
        entry: Entry = held.value
        if entry.content != want.content:
            return None
        if held.stamp != state.stamp:
            current = _current(state, want, entry)
            if current is None:
                return None
            held.value = entry = current
            held.stamp = state.stamp
        if want.check is not None and not want.check.suffices(entry):
            return None
        return Answer(entry, _HOT)

    def _keep_hot(self, state: NamespaceState, key: bytes, entry: Entry, account: Account) -> None:
        ttl = entry.seconds_left(self._clock() * 1000)
        size = len(entry.value.payload) + len(entry.tags) * TAG_BYTES
        self._hot.put(key, entry, size, account, ttl=ttl, stamp=state.stamp)

    # Flights

    def _join(
        self, state: NamespaceState, wants: Sequence[Want], policy: Policy, loader: Loader
    ) -> list[tuple[Flight, bool]]:
        """The flight of each item, and whether this call started it for this item."""
        mode = policy.mode
        flights = {} if mode is CacheMode.BYPASS else self._flights
        kind = mode if mode in (CacheMode.REFRESH, CacheMode.ONLY_IF_CACHED) else None
        joined: list[tuple[Flight, bool]] = []
        started: list[Flight] = []
        mine = demand_in(state.name)
        # Who asks after an invalidation must not get what was begun before it.
        since = state.stamp if policy.tags else 0
        for want in wants:
            check = want.check.name if want.check else None
            name = (want.key, want.content, kind, check, since)
            flight = flights.get(name)
            first = flight is None
            if flight is None:
                flight = flights[name] = Flight(name, want, mode, mine)
                started.append(flight)
            else:
                flight.demand.join(mine)
            flight.waiters += 1
            if want.watch is not None:
                flight.watch(want.watch)
            if mode.stores:
                flight.store_for(want.ttl)
            joined.append((flight, first))
        if len(started) < len(joined):
            _show_wait({flight for flight, _ in joined}.difference(started), policy.account)
        if started:
            task = asyncio.ensure_future(self._run(state, started, policy, loader))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return joined

    async def _wait(self, joined: list[tuple[Flight, bool]]) -> list[Answer | Exception]:
        try:
            await asyncio.wait({flight.done for flight, _ in joined})
        except asyncio.CancelledError:
            for flight, _ in joined:
                flight.waiters -= 1
                if flight.waiters == 0:
                    self._abandon(flight)
            raise
        return [_as_seen(flight.done.result(), first) for flight, first in joined]

    def _abandon(self, flight: Flight) -> None:
        self._forget(flight)
        if flight.work is not None:
            flight.work.cancel()
        flight.done.cancel()

    def _forget(self, flight: Flight) -> None:
        if self._flights.get(flight.name) is flight:
            del self._flights[flight.name]

    def _land(self, flight: Flight, result: Answer | Exception) -> None:
        self._forget(flight)
        flight.land(result)

    async def _run(
        self, state: NamespaceState, flights: list[Flight], policy: Policy, loader: Loader
    ) -> None:
        began = perf_counter()
        # Others may have joined, and may join yet.
        act_for(flights[0].demand)
        try:
            # Before anything is computed: an invalidation that comes meanwhile must count.
            await self._generations.resolve(state, policy.tags)
            tags = state.stamped(policy.tags)
            if policy.mode.reads:
                flights = await self._look_again(state, flights)
                for tier, store in self._lower:
                    flights = await self._look_up(state, tier, store, flights, policy.account)
            wanted = [flight for flight in flights if flight.waiters]
            if policy.mode is CacheMode.ONLY_IF_CACHED:
                for flight in wanted:
                    self._land(flight, NotCachedError(_NOT_CACHED))
            elif wanted:
                submitted = perf_counter()
                with current().tier(_COMPUTED, policy.account, len(wanted)) as span:
                    works = loader.submit([flight.want.source for flight in wanted])
                    span.end_with(works)
                policy.account.lookup_seconds += (submitted - began) * len(wanted)
                now_ms = int(self._clock() * 1000)
                for flight, work in zip(wanted, works, strict=True):
                    flight.begin(work, now_ms)
                    work.add_done_callback(
                        partial(self._computed, state, flight, tags, loader, policy.account)
                    )
        except Exception as error:
            for flight in flights:
                self._land(flight, error)

    def _computed(
        self,
        state: NamespaceState,
        flight: Flight,
        tags: tuple[tuple[bytes, int], ...] | None,
        loader: Loader,
        account: Account,
        work: asyncio.Future[Any],
    ) -> None:
        if work.cancelled():
            self._land(flight, asyncio.InvalidStateError("the computation was cancelled"))
            return
        try:
            product = loader.product(work.result())
        except Exception as error:
            self._land(flight, error)
            return
        if product.tier is None:
            account.compute_seconds += perf_counter() - flight.submitted
        now = self._clock()
        expires, ttl = 0, flight.ttl
        if product.most_ttl is not None:
            ttl = product.most_ttl if ttl is None else min(ttl, product.most_ttl)
        if ttl is not None:
            expires = int((now + ttl * (1 - self._ttl_jitter * random.random())) * 1000)  # noqa: S311
        if tags is not None and product.tags:
            more = state.stamped(product.tags)
            tags = None if more is None else tags + more
        entry = Entry(product.value, int(now * 1000), expires, flight.want.content, tags or ())
        # An invalidation may have come while the model was at work.
        stores = flight.stores and product.tier is None and not flight.removed
        if stores and tags is not None and state.is_current(tags):
            # What the key does not cover may have changed, so the last writer wins there.
            replace = flight.replace or bool(flight.want.content)
            if replace or not self._is_outdated(flight):
                self._keep_hot(state, flight.want.key, entry, account)
            self._write_back(flight.want.key, entry, replace=replace, above=None)
        self._land(flight, Answer(entry, product.tier or _COMPUTED))

    def _is_outdated(self, flight: Flight) -> bool:
        """Whether an entry that will do was made after the flight began, as by a refresh."""
        held = self._hot.get(flight.want.key)
        if held is None or held.value.created_ms <= flight.began_ms:
            return False
        return flight.want.check is None or flight.want.check.suffices(held.value)

    # Tiers

    async def _look_again(self, state: NamespaceState, flights: list[Flight]) -> list[Flight]:
        """Lands the flights whose entries are in memory, but whose tags were not known."""
        held = [self._hot.get(flight.want.key) for flight in flights]
        tags = [tag for each in held if each is not None for tag, _ in each.value.tags]
        if not tags:
            return flights
        await self._generations.resolve(state, tags)
        missing = []
        for flight in flights:
            answer = self._hot_answer(state, flight.want)
            if answer is None:
                missing.append(flight)
            else:
                self._land(flight, answer)
        return missing

    async def _look_up(
        self,
        state: NamespaceState,
        tier: Tier,
        store: LowerTier,
        flights: list[Flight],
        account: Account,
    ) -> list[Flight]:
        """Lands the flights whose entries this tier has; returns the others."""
        flights = [flight for flight in flights if flight.waiters]
        if not flights:
            return []
        with current().tier(tier, account, len(flights)) as span:
            missing = await self._land_found(state, tier, store, flights, account)
            span.found(len(flights) - len(missing))
        return missing

    async def _land_found(
        self,
        state: NamespaceState,
        tier: Tier,
        store: LowerTier,
        flights: list[Flight],
        account: Account,
    ) -> list[Flight]:
        values = await store.get_many([flight.want.key for flight in flights])
        entries = [
            None if value is None else self._unpack(tier, store, flight, value)
            for flight, value in zip(flights, values, strict=True)
        ]
        await self._generations.resolve(
            state, (tag for entry in entries if entry is not None for tag, _ in entry.tags)
        )
        missing = []
        for flight, found in zip(flights, entries, strict=True):
            entry = None if found is None else self._valid(state, flight.want, found)
            if entry is not None:
                if not flight.removed:
                    self._keep_hot(state, flight.want.key, entry, account)
                    self._write_back(flight.want.key, entry, replace=True, above=tier)
                self._land(flight, Answer(entry, tier))
            else:
                flight.replace |= found is not None
                missing.append(flight)
        return missing

    def _unpack(self, tier: Tier, store: LowerTier, flight: Flight, value: bytes) -> Entry | None:
        try:
            return unpack(value, flight.want.key)
        except CorruptValueError:
            self.counters.corrupt[tier] += 1
            store.delete([flight.want.key])
            return None

    def _valid(self, state: NamespaceState, want: Want, entry: Entry) -> Entry | None:
        """The entry as it may answer, if it may."""
        if entry.content != want.content or entry.seconds_left(self._clock() * 1000) <= 0:
            return None
        current = _current(state, want, entry)
        if current is None or want.check is None or want.check.suffices(current):
            return current
        return None

    def _write_back(self, key: bytes, entry: Entry, *, replace: bool, above: Tier | None) -> None:
        """Queues the entry for the lower tiers, or for those above the one it came from."""
        data: bytes | None = None
        for tier, store in self._lower:
            if tier is above:
                return
            data = data or pack(entry, key)
            store.put(key, data, entry.expires_ms, replace=replace)


def _show_wait(flights: Collection[Flight], account: Account) -> None:
    """Shows that a call waits for what other calls have begun."""
    here = current()
    if flights and here.is_recorded:
        with here.tier(Tier.COALESCED, account, len(flights)) as span:
            span.link(flight.span for flight in flights)
            span.end_with([flight.done for flight in flights])


def _current(state: NamespaceState, want: Want, entry: Entry) -> Entry | None:
    """The entry if nothing that it depends on has changed, else as the want's check renews it."""
    if state.is_current(entry.tags):
        return entry
    return None if want.check is None else want.check.renewed(state, entry)


def _as_seen(result: Answer | Exception, first: bool) -> Answer | Exception:
    """A computation that somebody else asked for was, seen from here, coalesced."""
    if first or isinstance(result, Exception) or result.tier is not _COMPUTED:
        return result
    return Answer(result.entry, Tier.COALESCED)
