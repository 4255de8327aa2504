//! The part of the hot tier that a namespace with a limit of its own may take.

use std::collections::{HashMap, HashSet};
use std::ops::{Index, IndexMut};

use slab::Slab;

use super::{MAX_LOOKS, State};
use crate::hot::queue::{Queue, ROOM};

/// See `sidecar.cache.rooms.Room`; a place in the queue costs nothing more here.
pub(super) struct Room {
    namespace: Box<str>,
    /// The order in which rooms got their first entries.
    place: u64,
    pub(super) limit: usize,
    pub(super) bytes: usize,
    pub(super) queue: Queue<ROOM>,
}

/// Those of namespaces that have limits and entries, by number.
#[derive(Default)]
pub(super) struct Rooms {
    rooms: Slab<Room>,
    numbers: HashMap<Box<str>, usize>,
    places: u64,
}

impl Rooms {
    pub(super) fn find(&self, namespace: &str) -> Option<usize> {
        self.numbers.get(namespace).copied()
    }

    pub(super) fn open(&mut self, namespace: &str, limit: usize) -> usize {
        let number = self.rooms.insert(Room {
            namespace: namespace.into(),
            place: 0,
            limit,
            bytes: 0,
            queue: Queue::default(),
        });
        self.numbers.insert(namespace.into(), number);
        number
    }

    /// Lets go of a room that is empty: names come from callers, and may be many.
    pub(super) fn give_up(&mut self, number: usize) {
        let room = self.rooms.get(number);
        if room.is_some_and(|room| room.queue.first().is_none()) {
            let room = self.rooms.remove(number);
            self.numbers.remove(&room.namespace);
        }
    }

    fn in_order(&self) -> Vec<usize> {
        let mut numbers: Vec<_> = self.numbers.values().copied().collect();
        numbers.sort_unstable_by_key(|&number| self.rooms[number].place);
        numbers
    }
}

impl Index<usize> for Rooms {
    type Output = Room;

    fn index(&self, number: usize) -> &Room {
        &self.rooms[number]
    }
}

impl IndexMut<usize> for Rooms {
    fn index_mut(&mut self, number: usize) -> &mut Room {
        &mut self.rooms[number]
    }
}

impl State {
    /// The namespaces that have entries or rooms.
    pub(in crate::hot) fn namespaces(&self) -> HashSet<Box<str>> {
        let with_entries = self.accounts.namespaces().map(Box::from);
        let with_rooms = self.rooms.numbers.keys().cloned();
        with_entries.chain(with_rooms).collect()
    }

    /// Limits namespaces from now on; those that have none are limited by 0, or not in there.
    pub(in crate::hot) fn limit(&mut self, limits: &HashMap<Box<str>, usize>, now: f64) {
        let limit = |name: &str| limits.get(name).copied().unwrap_or(0);
        self.rooms.numbers.retain(|name, _| limit(name) > 0);
        self.rooms
            .rooms
            .retain(|_, room| limit(&room.namespace) > 0);
        let mut new = HashMap::new();
        for (id, record) in self.accounts.iter_mut() {
            record.room = self.rooms.find(&record.namespace);
            if record.room.is_none() && limit(&record.namespace) > 0 {
                new.insert(id as u32, record.namespace.clone());
            }
        }
        if !new.is_empty() {
            for index in self.all.iter(&self.slots).collect::<Vec<_>>() {
                if let Some(name) = new.get(&self.slots[index as usize].account) {
                    let room = self.rooms.find(name);
                    let number = room.unwrap_or_else(|| self.rooms.open(name, limit(name)));
                    self.add_to_room(number, index);
                }
            }
            for (_, record) in self.accounts.iter_mut() {
                record.room = self.rooms.find(&record.namespace);
            }
        }
        for number in self.rooms.in_order() {
            let room = &mut self.rooms[number];
            room.limit = limit(&room.namespace);
            self.make_room(number, 0, now);
        }
    }

    pub(super) fn add_to_room(&mut self, number: usize, index: u32) {
        let room = &mut self.rooms.rooms[number];
        if room.queue.first().is_none() {
            self.rooms.places += 1;
            room.place = self.rooms.places;
        }
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
