//! What is queued for clients and not written yet, and how much of that there may be.
//!
//! Readers may be slow, or read nothing at all; what they asked for is kept for them meanwhile. All
//! of it together has one bound. When that is reached, nothing more is queued for connections that
//! hold more than their fair share, the bound divided by all connections: their new calls wait until
//! they read, and calls in progress that get more to say are ended. No share is smaller than a part
//! of the bound that many calls fit into: who reads what it is sent holds a window for each, however
//! many connections there are. The others go on being served. With them it may become more. When it
//! is twice the bound, the connection that holds most is closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

/// For all connections.
pub const MOST_BYTES: usize = 128 * 1024 * 1024;
/// No more than so many shares are made of it: those of idle connections are for who needs them.
const MOST_SHARES: usize = 32;
/// Says that a queue is ended, beside its bytes: both change at once.
const ENDED: usize = 1 << (usize::BITS - 1);
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
            .map(|queue| (queue.bytes.load(Ordering::Relaxed), queue))
            .collect();
        // None of them is dropped before: it may be the last of a queue, which needs the lock.
        drop(queues);
        held.retain(|(bytes, _)| bytes & ENDED == 0);
        held.sort_unstable_by_key(|(bytes, _)| *bytes);
        let mut sum: usize = held.iter().map(|(bytes, _)| bytes).sum();
        while sum > self.limit()
            && let Some((bytes, queue)) = held.pop()
        {
            queue.end();
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
    /// And whether it is ended. What is among them is among all bytes as long as it is not.
    bytes: AtomicUsize,
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
                ended: Notify::new(),
            }
        })
    }

    /// Has the connection closed. What it holds counts no more: it is about to go.
    pub fn end(&self) {
        let before = self.bytes.fetch_or(ENDED, Ordering::AcqRel);
        if before & ENDED == 0 {
            self.all.bytes.fetch_sub(before, Ordering::Relaxed);
            self.ended.notify_one();
        }
    }

    /// Returns when the connection is to be closed, because it holds too much.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Whether nothing more is to be queued: there is too much, and of that too much here.
    pub fn is_full(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        bytes & ENDED != 0
            || self.all.bytes() > self.all.most && {
                let connections = self.all.connections.load(Ordering::Relaxed);
                bytes > self.all.most / connections.clamp(1, MOST_SHARES)
            }
    }

    /// Counts a piece of so many bytes.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let bytes = bytes + PIECE_BYTES;
        // Among all first: whoever ends the queue takes away what he finds in it.
        let before = self.all.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.bytes.fetch_add(bytes, Ordering::AcqRel) & ENDED != 0 {
            self.all.bytes.fetch_sub(bytes, Ordering::Relaxed);
        } else if before.saturating_add(bytes) > self.all.limit() {
            self.all.make_room();
        }
        Held {
            queue: self.clone(),
            bytes,
        }
    }

    fn release(&self, bytes: usize) {
        if self.bytes.fetch_sub(bytes, Ordering::AcqRel) & ENDED == 0 {
            self.all.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
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
        let held: Vec<_> = (queues.iter().zip(sizes))
            .map(|(queue, tenths)| queue.hold(tenths * MOST / 10))
            .collect();
        let is_ended = |queue: &Arc<Queue>| queue.bytes.load(Ordering::Relaxed) & ENDED != 0;
        assert!(!queues.iter().any(is_ended));
        let more = queues[0].hold(MOST / 5);
        let ended: Vec<_> = queues.iter().map(is_ended).collect();
        assert_eq!(ended, [false, false, false, true]);
        // What the ended one holds, and gets, counts neither before nor after it is gone.
        let left = (1 + 5 + 4 + 2) * (MOST / 10) + 4 * PIECE_BYTES;
        assert!(all.bytes().abs_diff(left) < 10, "{}", all.bytes());
        let last = queues[3].hold(MOST);
        assert!(queues[3].is_full() && all.bytes() < all.limit());
        drop((held, more, last));
        assert_eq!(all.bytes(), 0);
    }

    #[test]
    fn who_reads_has_its_share_however_many_others_have_none_of_theirs() {
        const MOST: usize = 1 << 20;
        let all = Arc::new(Unwritten::new(MOST));
        let [slow, fair] = [(); 2].map(|()| Queue::new(all.clone()));
        let _idle: Vec<_> = (0..1000).map(|_| Queue::new(all.clone())).collect();
        let _unread = slow.hold(MOST);
        let _read = fair.hold(MOST / MOST_SHARES - PIECE_BYTES);
        assert!(slow.is_full() && !fair.is_full());
        let _more = fair.hold(0);
        assert!(fair.is_full());
    }

    #[test]
    fn many_that_are_ended_at_once_do_not_hold_each_other_up() {
        const MOST: usize = 1 << 20;
        let all = Arc::new(Unwritten::new(MOST));
        let (done, finished) = std::sync::mpsc::channel();
        for _ in 0..2 {
            let (all, done) = (all.clone(), done.clone());
            std::thread::spawn(move || {
                for _ in 0..50_000 {
                    let queue = Queue::new(all.clone());
                    let _held = queue.hold(2 * MOST);
                }
                let _ = done.send(());
            });
        }
        for _ in 0..2 {
            let waited = finished.recv_timeout(std::time::Duration::from_secs(120));
            waited.expect("they wait for each other");
        }
        assert_eq!(all.bytes(), 0);
    }
}
