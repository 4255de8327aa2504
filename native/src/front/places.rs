//! How many connections and listeners there are.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

#[derive(Default)]
struct Taken {
    connections: usize,
    listeners: usize,
}

/// Counts connections, up to a limit, and listeners.
pub struct Places {
    most: usize,
    taken: Mutex<Taken>,
    left: Condvar,
}

/// One connection, or one listener, as long as it is there.
pub struct Place {
    places: Arc<Places>,
    is_listener: bool,
}

impl Places {
    /// For so many connections at once.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            taken: Mutex::default(),
            left: Condvar::new(),
        }
    }

    /// A place for a connection, unless all are taken.
    pub fn connection(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.connections == self.most {
            return None;
        }
        taken.connections += 1;
        Some(Place {
            places: self.clone(),
            is_listener: false,
        })
    }

    /// A place for a listener.
    pub fn listener(self: &Arc<Self>) -> Place {
        self.taken.lock().listeners += 1;
        Place {
            places: self.clone(),
            is_listener: true,
        }
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.taken.lock().connections
    }

    /// Waits until all have left, or until then; says whether they have.
    pub fn wait(&self, until: Instant) -> bool {
        let mut taken = self.taken.lock();
        let is_left = |taken: &mut Taken| taken.connections + taken.listeners > 0;
        !self
            .left
            .wait_while_until(&mut taken, is_left, until)
            .timed_out()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if self.is_listener {
            taken.listeners -= 1;
        } else {
            taken.connections -= 1;
        }
        self.places.left.notify_all();
    }
}
