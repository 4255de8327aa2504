//! The keys of entries that went before they were asked for again, for a while.

use hashbrown::HashTable;

/// 64-bit hashes of keys, in two generations.
#[derive(Default)]
pub(super) struct Ghosts {
    young: HashTable<u64>,
    old: HashTable<u64>,
}

impl Ghosts {
    pub(super) fn contains(&self, hash: u64) -> bool {
        [&self.young, &self.old]
            .into_iter()
            .any(|ghosts| ghosts.find(hash, |&ghost| ghost == hash).is_some())
    }

    /// Keeps one; beyond so many young ones, those are the old ones from now on.
    pub(super) fn add(&mut self, hash: u64, most: usize) {
        self.young
            .entry(hash, |&ghost| ghost == hash, |&ghost| ghost)
            .or_insert(hash);
        if self.young.len() > most {
            self.old = std::mem::take(&mut self.young);
        }
    }

    pub(super) fn discard(&mut self, hash: u64) {
        for ghosts in [&mut self.young, &mut self.old] {
            if let Ok(ghost) = ghosts.find_entry(hash, |&ghost| ghost == hash) {
                ghost.remove();
            }
        }
    }
}
