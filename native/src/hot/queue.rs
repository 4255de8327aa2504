//! Queues of entries, threaded through their slots: a place in one costs two numbers.

use slab::Slab;

use super::state::Slot;

/// All entries, those of main in the order in which they go, the next one first.
pub(super) const ALL: usize = 0;
/// Those of them that are in small, likewise.
pub(super) const SMALL: usize = 1;
/// Those of a namespace with a limit.
pub(super) const ROOM: usize = 2;
pub(super) const QUEUES: usize = 3;

/// The end of a queue.
const NONE: u32 = u32::MAX;

pub(super) type Slots = Slab<Slot>;

/// Who is before and behind an entry in one queue.
#[derive(Clone, Copy)]
pub(super) struct Link {
    before: u32,
    behind: u32,
}

/// That of an entry which is in no queue yet.
pub(super) const LOOSE: Link = Link {
    before: NONE,
    behind: NONE,
};

/// The queue number `WHICH` of those that an entry may be in.
pub(super) struct Queue<const WHICH: usize> {
    first: u32,
    last: u32,
    len: usize,
}

impl<const WHICH: usize> Default for Queue<WHICH> {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
            len: 0,
        }
    }
}

impl<const WHICH: usize> Queue<WHICH> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// Puts an entry, which is not in this queue, behind the others.
    pub(super) fn push(&mut self, slots: &mut Slots, index: u32) {
        slots[index as usize].links[WHICH] = Link {
            before: self.last,
            behind: NONE,
        };
        match self.last {
            NONE => self.first = index,
            last => slots[last as usize].links[WHICH].behind = index,
        }
        self.last = index;
        self.len += 1;
    }

    /// Takes out an entry, which is in this queue.
    pub(super) fn remove(&mut self, slots: &mut Slots, index: u32) {
        let Link { before, behind } = slots[index as usize].links[WHICH];
        match before {
            NONE => self.first = behind,
            before => slots[before as usize].links[WHICH].behind = behind,
        }
        match behind {
            NONE => self.last = before,
            behind => slots[behind as usize].links[WHICH].before = before,
        }
        self.len -= 1;
    }

    pub(super) fn move_to_end(&mut self, slots: &mut Slots, index: u32) {
        if self.last != index {
            self.remove(slots, index);
            self.push(slots, index);
        }
    }

    /// The entries, the next one to go first.
    pub(super) fn iter<'a>(&self, slots: &'a Slots) -> impl Iterator<Item = u32> + 'a {
        std::iter::successors(self.first(), |&index| {
            let behind = slots[index as usize].links[WHICH].behind;
            (behind != NONE).then_some(behind)
        })
    }
}
