//! What is queued for clients and not written yet, and how much of that there may be.
//!
//! Readers may be slow, or read nothing at all; what they asked for is kept for them meanwhile. All
//! of it together has one bound. When that is reached, nothing more is queued for connections that
//! hold more than their fair share, the bound divided by all connections: their new calls wait until
//! they read, and calls in progress that get more to say are ended. The others, who read what they
//! are sent, go on being served. With them it may become more, as shares were larger while there were
//! fewer connections. When it is twice the bound, the connection that holds most is closed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

/// For all connections.
pub const MOST_BYTES: usize = 128 * 1024 * 1024;
/// What a piece costs beside its bytes: the frame that h2 queues, and the stream that it is on.
const PIECE_BYTES: usize = 512;

/// What is queued for all connections.
pub struct Unwritten {
    most: usize,
    bytes: AtomicUsize,
    connections: AtomicUsize,
    queues: Mutex<Slab<Weak<Queue>>>,
}

impl Unwritten {
    /// Of which there may be so many bytes.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            bytes: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            queues: Mutex::default(),
        }
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends connections, those first that hold most, until the others hold no more than there may be.
    fn make_room(&self) {
        let queues = self.queues.lock();
        let mut held: Vec<_> = queues
            .iter()
            .filter_map(|(_, queue)| queue.upgrade())
            .filter(|queue| !queue.is_ended.load(Ordering::Relaxed))
            .map(|queue| (queue.bytes.load(Ordering::Relaxed), queue))
            .collect();
        // What is dropped here may be the last of a queue, which needs the lock.
        drop(queues);
        held.sort_unstable_by_key(|(bytes, _)| *bytes);
        let mut sum: usize = held.iter().map(|(bytes, _)| bytes).sum();
        while sum > self.limit()
            && let Some((bytes, queue)) = held.pop()
        {
            queue.is_ended.store(true, Ordering::Relaxed);
            queue.ended.notify_one();
            sum -= bytes;
        }
    }

    fn limit(&self) -> usize {
        self.most.saturating_mul(2)
    }
}

/// What is queued for one connection.
pub struct Queue {
    all: Arc<Unwritten>,
    number: usize,
    bytes: AtomicUsize,
    is_ended: AtomicBool,
    ended: Notify,
}

impl Queue {
    /// Of a connection more.
    pub fn new(all: Arc<Unwritten>) -> Arc<Self> {
        all.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|queue| {
            let number = all.queues.lock().insert(queue.clone());
            Self {
                all,
                number,
                bytes: AtomicUsize::new(0),
                is_ended: AtomicBool::new(false),
                ended: Notify::new(),
            }
        })
    }

    /// Returns when the connection is to be closed, because it holds more than all others.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Whether nothing more is to be queued: there is too much, and of that too much here.
    pub fn is_full(&self) -> bool {
        self.all.bytes() > self.all.most && {
            // This is one of them.
            let connections = self.all.connections.load(Ordering::Relaxed).max(1);
            self.bytes.load(Ordering::Relaxed) > self.all.most / connections
        }
    }

    /// Counts a piece of so many bytes.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let bytes = bytes + PIECE_BYTES;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let before = self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.all.limit() {
            self.all.make_room();
        }
        Held {
            queue: self.clone(),
            bytes,
        }
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.all.connections.fetch_sub(1, Ordering::Relaxed);
        self.all.queues.lock().try_remove(self.number);
    }
}

/// A piece, which counts as long as this is there.
pub struct Held {
    queue: Arc<Queue>,
    bytes: usize,
}

impl Held {
    /// Its first bytes as a piece of their own.
    pub fn split_to(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.queue.release(bytes);
        self.queue.hold(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.queue.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_counts_until_it_is_gone() {
        let all = Arc::new(Unwritten::new(1 << 20));
        let queue = Queue::new(all.clone());
        let (mut one, other) = (queue.hold(1000), queue.hold(0));
        assert_eq!(all.bytes(), 1000 + 2 * PIECE_BYTES);
        let first = one.split_to(700);
        assert_eq!(all.bytes(), 1000 + 3 * PIECE_BYTES);
        drop(one);
        assert_eq!(all.bytes(), 700 + 2 * PIECE_BYTES);
        drop(first);
        assert_eq!(all.bytes(), PIECE_BYTES);
        drop((other, queue));
        assert_eq!(all.bytes(), 0);
        assert_eq!(all.connections.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_who_holds_more_than_his_share_of_too_much_gets_nothing_more() {
        const MOST: usize = 1 << 20;
        let all = Arc::new(Unwritten::new(MOST));
        let [slow, fair] = [(); 2].map(|()| Queue::new(all.clone()));
        let _share = fair.hold(MOST / 2 - PIECE_BYTES);
        let first = slow.hold(MOST / 2 - PIECE_BYTES);
        assert!(!slow.is_full() && !fair.is_full(), "there is not too much");
        let second = slow.hold(0);
        assert!(slow.is_full() && !fair.is_full());
        drop(second);
        assert!(!slow.is_full());
        drop(first);
    }

    #[test]
    fn who_holds_most_is_ended_when_there_is_twice_as_much_as_there_may_be() {
        const MOST: usize = 1 << 20;
        let all = Arc::new(Unwritten::new(MOST));
        let queues: Vec<_> = (0..4).map(|_| Queue::new(all.clone())).collect();
        let sizes = [1, 5, 4, 9];
        let _held: Vec<_> = (queues.iter().zip(sizes))
            .map(|(queue, tenths)| queue.hold(tenths * MOST / 10))
            .collect();
        let is_ended = || queues.iter().map(|q| q.is_ended.load(Ordering::Relaxed));
        assert!(is_ended().all(|is_ended| !is_ended));
        let _more = queues[0].hold(MOST / 5);
        assert_eq!(is_ended().collect::<Vec<_>>(), [false, false, false, true]);
    }
}
