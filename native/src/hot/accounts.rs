//! What the tier knows of the accounts of its entries, and what it has to tell them.

use hashbrown::HashMap;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use slab::Slab;

/// What operations did to an account since it was told last.
#[derive(Default)]
struct Change {
    entries: i64,
    bytes: i64,
    evictions: i64,
    is_due: bool,
}

/// What is to be told, to whom, when nothing is locked any more: it runs code of Python.
pub(super) struct Changes(Vec<(Py<PyAny>, Change)>);

impl Changes {
    /// Adds them to the attributes of the accounts. All are told; of errors the first is raised.
    pub(super) fn tell(&self, py: Python<'_>) -> PyResult<()> {
        let tell = |(account, change): &(Py<PyAny>, Change)| {
            let account = account.bind(py);
            for (name, number) in [
                (intern!(py, "hot_entries"), change.entries),
                (intern!(py, "hot_bytes"), change.bytes),
                (intern!(py, "evictions"), change.evictions),
            ] {
                if number != 0 {
                    account.setattr(name, account.getattr(name)?.extract::<i64>()? + number)?;
                }
            }
            Ok(())
        };
        self.0.iter().map(tell).fold(Ok(()), PyResult::and)
    }
}

/// An account with entries.
pub(super) struct Record {
    account: Py<PyAny>,
    pub(super) namespace: Box<str>,
    /// The number of the room of its namespace, if that has a limit.
    pub(super) room: Option<usize>,
    entries: usize,
    /// The sum of ``since`` over its entries.
    since: f64,
    change: Change,
}

/// The accounts that have entries, by number.
#[derive(Default)]
pub(super) struct Accounts {
    records: Slab<Record>,
    /// By the address of the object, which a record keeps alive.
    ids: HashMap<usize, usize>,
    /// Those of which something changed.
    due: Vec<usize>,
}

impl Accounts {
    pub(super) fn find(&self, account: &Bound<'_, PyAny>) -> Option<usize> {
        self.ids.get(&(account.as_ptr() as usize)).copied()
    }

    /// Makes the record of an account that has none. It goes with the changes if it gets no entry.
    pub(super) fn open(
        &mut self,
        account: &Bound<'_, PyAny>,
        namespace: Box<str>,
        room: Option<usize>,
    ) -> usize {
        let id = self.records.insert(Record {
            account: account.clone().unbind(),
            namespace,
            room,
            entries: 0,
            since: 0.0,
            change: Change::default(),
        });
        self.ids.insert(account.as_ptr() as usize, id);
        self.change(id);
        id
    }

    pub(super) fn get(&self, id: usize) -> &Record {
        &self.records[id]
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Record)> {
        self.records.iter_mut()
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.records.iter().map(|(_, record)| &*record.namespace)
    }

    /// The rooms of those whose records are about to go.
    pub(super) fn rooms_left(&self) -> impl Iterator<Item = usize> {
        let records = self.due.iter().map(|&id| &self.records[id]);
        records
            .filter(|record| record.entries == 0)
            .filter_map(|record| record.room)
    }

    pub(super) fn add(&mut self, id: usize, size: usize, since: f64) {
        let record = self.change(id);
        record.entries += 1;
        record.since += since;
        record.change.entries += 1;
        record.change.bytes += size as i64;
    }

    pub(super) fn remove(&mut self, id: usize, size: usize, since: f64) {
        let record = self.change(id);
        record.entries -= 1;
        // Of sums of floats, nothing is to be left.
        record.since = if record.entries == 0 {
            0.0
        } else {
            record.since - since
        };
        record.change.entries -= 1;
        record.change.bytes -= size as i64;
    }

    pub(super) fn evicted(&mut self, id: usize) {
        self.change(id).change.evictions += 1;
    }

    /// What changed since this was called last. The records of accounts without entries go.
    pub(super) fn changes(&mut self, py: Python<'_>) -> Changes {
        let mut changes = Vec::with_capacity(self.due.len());
        for id in self.due.drain(..) {
            let record = &mut self.records[id];
            let change = std::mem::take(&mut record.change);
            let account = if record.entries > 0 {
                record.account.clone_ref(py)
            } else {
                self.ids.remove(&(record.account.as_ptr() as usize));
                self.records.remove(id).account
            };
            changes.push((account, change));
        }
        Changes(changes)
    }

    /// The mean age of the entries of each account, at a moment.
    pub(super) fn ages(&self, py: Python<'_>, now: f64) -> Vec<(Py<PyAny>, f64)> {
        let age = |(_, record): (usize, &Record)| {
            let mean = now - record.since / record.entries as f64;
            (record.account.clone_ref(py), mean)
        };
        self.records.iter().map(age).collect()
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.records
            .iter()
            .try_for_each(|(_, record)| visit.call(&record.account))
    }

    fn change(&mut self, id: usize) -> &mut Record {
        let record = &mut self.records[id];
        if !std::mem::replace(&mut record.change.is_due, true) {
            self.due.push(id);
        }
        record
    }
}
