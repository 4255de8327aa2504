//! The part of the hot tier that a namespace with a limit of its own may take.

use std::collections::{HashMap, HashSet};

use super::{MAX_LOOKS, State};
use crate::hot::queue::{Queue, ROOM};

/// See `sidecar.cache.rooms.Room`; a place in the queue costs nothing more here.
pub(super) struct Room {
    pub(super) limit: usize,
    pub(super) bytes: usize,
    pub(super) queue: Queue<ROOM>,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            queue: Queue::default(),
        }
    }
}

impl State {
    /// The namespaces that have entries or limits.
    pub(in crate::hot) fn namespaces(&self) -> HashSet<Box<str>> {
        let with_entries = self.accounts.namespaces().map(Box::from);
        with_entries.chain(self.rooms.keys().cloned()).collect()
    }

    /// Limits namespaces from now on; those that have none are limited by 0, or not in there.
    pub(in crate::hot) fn limit(&mut self, limits: &HashMap<Box<str>, usize>, now: f64) {
        let limit = |name: &str| limits.get(name).copied().unwrap_or(0);
        self.rooms.retain(|name, _| limit(name) > 0);
        let mut new = HashMap::new();
        for (id, record) in self.accounts.iter_mut() {
            record.room = self.rooms.get_index_of(&record.namespace);
            if record.room.is_none() && limit(&record.namespace) > 0 {
                new.insert(id as u32, record.namespace.clone());
            }
        }
        if !new.is_empty() {
            for index in self.all.iter(&self.slots).collect::<Vec<_>>() {
                if let Some(name) = new.get(&self.slots[index as usize].account) {
                    let room = self.rooms.entry(name.clone());
                    let number = room.index();
                    room.or_insert_with(|| Room::new(limit(name)));
                    self.add_to_room(number, index);
                }
            }
            for (_, record) in self.accounts.iter_mut() {
                record.room = self.rooms.get_index_of(&record.namespace);
            }
        }
        for number in 0..self.rooms.len() {
            let limit = limit(&self.rooms.keys()[number]);
            self.rooms[number].limit = limit;
            self.make_room(number, 0, now);
        }
    }

    pub(super) fn add_to_room(&mut self, number: usize, index: u32) {
        let room = &mut self.rooms[number];
        room.queue.push(&mut self.slots, index);
        room.bytes += self.slots[index as usize].entry.get().size;
    }

    /// Takes out entries of a namespace until so many bytes more are within its limit.
    pub(super) fn make_room(&mut self, number: usize, size: usize, now: f64) {
        while self.rooms[number].bytes + size > self.rooms[number].limit {
            let mut turn = None;
            for _ in 0..MAX_LOOKS {
                let queue = &mut self.rooms[number].queue;
                let Some(index) = queue.first() else { return };
                turn = Some(index);
                let entry = self.slots[index as usize].entry.get();
                let hits = entry.hits();
                if entry.expires <= now || hits == 0 {
                    break;
                }
                entry.set_hits(hits - 1);
                queue.move_to_end(&mut self.slots, index);
            }
            if let Some(index) = turn {
                self.give_up(index, now);
            }
        }
    }
}
