//! What the tier keeps and in which order it goes. Nothing here runs code of Python.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::{DefaultHashBuilder, HashTable};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::accounts::{Accounts, Changes};
use super::entry::{HotCounters, HotEntry};
use super::ghosts::Ghosts;
use super::queue::{ALL, LOOSE, Link, QUEUES, Queue, SMALL, Slots};
use crate::answers::{Answers, Response};
use rooms::Rooms;

mod rooms;

/// See `sidecar.cache.hot.MAX_LOOKS`.
const MAX_LOOKS: usize = 128;

/// An entry and its places. They are packed, since there are many.
pub(super) struct Slot {
    key: Box<[u8]>,
    hash: u64,
    entry: Py<HotEntry>,
    pub(super) links: [Link; QUEUES],
    account: u32,
    is_small: bool,
    has_answer: bool,
}

/// Entries that were taken out and what their accounts are to be told, once nothing is locked.
pub(super) struct Outcome {
    _gone: Vec<Py<HotEntry>>,
    changes: Changes,
}

impl Outcome {
    /// Lets go of the entries, too.
    pub(super) fn tell(self, py: Python<'_>) -> PyResult<()> {
        self.changes.tell(py)
    }
}

/// See `sidecar.cache.hot.HotTier`, whose names these are.
pub(super) struct State {
    pub(super) bytes: usize,
    capacity: usize,
    is_lru: bool,
    counters: Py<HotCounters>,
    answers: Arc<Answers>,
    hasher: DefaultHashBuilder,
    /// Where in the slots the entry of a key is.
    keys: HashTable<u32>,
    slots: Slots,
    all: Queue<ALL>,
    small: Queue<SMALL>,
    small_bytes: usize,
    ghosts: Ghosts,
    accounts: Accounts,
    rooms: Rooms,
    gone: Vec<Py<HotEntry>>,
}

impl State {
    pub(super) fn new(
        capacity: usize,
        is_lru: bool,
        counters: Py<HotCounters>,
        answers: Arc<Answers>,
    ) -> Self {
        Self {
            bytes: 0,
            capacity,
            is_lru,
            counters,
            answers,
            hasher: DefaultHashBuilder::default(),
            keys: HashTable::new(),
            slots: Slots::new(),
            all: Queue::default(),
            small: Queue::default(),
            small_bytes: 0,
            ghosts: Ghosts::default(),
            accounts: Accounts::default(),
            rooms: Rooms::default(),
            gone: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn get(&mut self, key: &[u8], now: f64) -> Option<&Py<HotEntry>> {
        let index = self.find(key)?;
        let entry = self.slots[index as usize].entry.get();
        if entry.expires <= now {
            let hash = self.slots[index as usize].hash;
            self.expire(index);
            if !self.is_lru {
                self.remember(hash);
            }
            return None;
        }
        entry.hit();
        if self.is_lru {
            self.all.move_to_end(&mut self.slots, index);
        }
        Some(&self.slots[index as usize].entry)
    }

    /// The number of an account that has entries.
    pub(super) fn account(&self, account: &Bound<'_, PyAny>) -> Option<usize> {
        self.accounts.find(account)
    }

    /// Gives an account, which has no entries, a number until the next outcome. 0 is no limit.
    pub(super) fn open_account(
        &mut self,
        account: &Bound<'_, PyAny>,
        namespace: Box<str>,
        limit: usize,
    ) -> usize {
        if let Some(number) = self.account(account) {
            return number;
        }
        let mut room = self.rooms.find(&namespace);
        if room.is_none() && limit > 0 {
            room = Some(self.rooms.open(&namespace, limit));
        }
        self.accounts.open(account, namespace, room)
    }

    /// Stores an entry; that which is there goes, even if this one is too large.
    pub(super) fn put(&mut self, key: &[u8], entry: Py<HotEntry>, account: usize) {
        let hash = self.hasher.hash_one(key);
        let is_known = self.remove(key);
        let into_main = self.is_lru || is_known || self.ghosts.contains(hash);
        let (size, since) = (entry.get().size, entry.get().since);
        let room = self.accounts.get(account).room;
        let most = (self.capacity / 8).min(room.map_or(usize::MAX, |room| self.rooms[room].limit));
        if size > most {
            self.gone.push(entry);
            return;
        }
        if let Some(room) = room {
            self.make_room(room, size, since);
        }
        let had_room = self.bytes + size <= self.capacity;
        while self.bytes + size > self.capacity && self.evict(since) {}
        let index = self.slots.insert(Slot {
            key: key.into(),
            hash,
            entry,
            links: [LOOSE; QUEUES],
            account: account as u32,
            is_small: false,
            has_answer: false,
        }) as u32;
        let slots = &self.slots;
        self.keys
            .insert_unique(hash, index, |&other| slots[other as usize].hash);
        self.all.push(&mut self.slots, index);
        if let Some(room) = room {
            self.add_to_room(room, index);
        }
        self.bytes += size;
        self.accounts.add(account, size, since);
        if into_main {
            self.ghosts.discard(hash);
            return;
        }
        self.small.push(&mut self.slots, index);
        self.slots[index as usize].is_small = true;
        self.small_bytes += size;
        while had_room && self.is_small_full() {
            let Some(first) = self.small.first() else {
                break;
            };
            self.leave_small(first);
        }
    }

    /// Takes an entry out; says whether it was there.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        let index = self.find(key);
        if let Some(index) = index {
            self.take_out(index);
        }
        index.is_some()
    }

    pub(super) fn answer(&mut self, key: crate::answers::Key, response: Arc<Response>) {
        let Some(index) = self.find(&key) else {
            return;
        };
        let slot = &mut self.slots[index as usize];
        slot.has_answer = true;
        let entry = slot.entry.get();
        let hits = entry.front_hits().clone();
        self.answers.put(key, response, entry.expires, hits);
    }

    pub(super) fn clear(&mut self) {
        while let Some(first) = self.all.first() {
            self.take_out(first);
        }
        self.ghosts = Ghosts::default();
    }

    pub(super) fn ages(&self, py: Python<'_>, now: f64) -> Vec<(Py<PyAny>, f64)> {
        self.accounts.ages(py, now)
    }

    /// What came of the operations since this was called last.
    pub(super) fn outcome(&mut self, py: Python<'_>) -> Outcome {
        for room in self.accounts.rooms_left() {
            self.rooms.give_up(room);
        }
        Outcome {
            _gone: std::mem::take(&mut self.gone),
            changes: self.accounts.changes(py),
        }
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.counters)?;
        self.accounts.traverse(visit)?;
        self.slots
            .iter()
            .try_for_each(|(_, slot)| visit.call(&slot.entry))
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let is_it = |&index: &u32| {
            let slot = &self.slots[index as usize];
            slot.hash == hash && *slot.key == *key
        };
        self.keys.find(hash, is_it).copied()
    }

    fn is_small_full(&self) -> bool {
        self.small_bytes > self.capacity / 10
    }

    fn leave_small(&mut self, index: u32) {
        self.small.remove(&mut self.slots, index);
        let slot = &mut self.slots[index as usize];
        slot.is_small = false;
        self.small_bytes -= slot.entry.get().size;
    }

    /// Takes out the entry whose turn it is, if there is any; those that were hit are spared.
    fn evict(&mut self, now: f64) -> bool {
        let mut turn = None;
        for _ in 0..MAX_LOOKS {
            let small = self.small.first().filter(|_| self.is_small_full());
            turn = small.or_else(|| self.all.first());
            let Some(index) = turn else { return false };
            let is_expired = self.slots[index as usize].entry.get().expires <= now;
            if is_expired || !self.spare(index) {
                break;
            }
        }
        if let Some(index) = turn {
            self.give_up(index, now);
        }
        true
    }

    /// Lets an entry that was hit go round once more; says whether it was.
    ///
    /// Least recently used: `get` has moved what it hit already. What the front door hit, which
    /// moves nothing, is moved when its turn comes.
    fn spare(&mut self, index: u32) -> bool {
        let slot = &self.slots[index as usize];
        let entry = slot.entry.get();
        if self.is_lru {
            if !entry.take_front_hits() {
                return false;
            }
        } else {
            let hits = entry.hits();
            if hits == 0 {
                return false;
            }
            entry.set_hits(if slot.is_small { 0 } else { hits - 1 });
            if slot.is_small {
                self.leave_small(index);
            }
        }
        self.all.move_to_end(&mut self.slots, index);
        true
    }

    /// Takes out an entry that makes room for others.
    fn give_up(&mut self, index: u32, now: f64) {
        let slot = &self.slots[index as usize];
        if slot.entry.get().expires <= now {
            return self.expire(index);
        }
        let (is_small, hash) = (slot.is_small, slot.hash);
        self.accounts.evicted(slot.account as usize);
        self.take_out(index);
        let evictions = &self.counters.get().evictions;
        evictions.fetch_add(1, Ordering::Relaxed);
        if is_small {
            self.remember(hash);
        }
    }

    fn expire(&mut self, index: u32) {
        self.take_out(index);
        let expirations = &self.counters.get().expirations;
        expirations.fetch_add(1, Ordering::Relaxed);
    }

    fn remember(&mut self, hash: u64) {
        self.ghosts.add(hash, (self.len() - self.small.len()) / 2);
    }

    /// Takes an entry out, and its answer with it. Every removal goes through here.
    fn take_out(&mut self, index: u32) {
        if self.slots[index as usize].is_small {
            self.leave_small(index);
        }
        self.all.remove(&mut self.slots, index);
        let account = self.slots[index as usize].account as usize;
        if let Some(room) = self.accounts.get(account).room {
            let room = &mut self.rooms[room];
            room.queue.remove(&mut self.slots, index);
            room.bytes -= self.slots[index as usize].entry.get().size;
        }
        let slot = self.slots.remove(index as usize);
        if let Ok(place) = self.keys.find_entry(slot.hash, |&other| other == index) {
            place.remove();
        }
        if slot.has_answer
            && let Ok(key) = (*slot.key).try_into()
        {
            self.answers.remove(&key);
        }
        let entry = slot.entry.get();
        self.bytes -= entry.size;
        self.accounts.remove(account, entry.size, entry.since);
        self.gone.push(slot.entry);
    }
}
