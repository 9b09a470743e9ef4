//! What the engine has for one consumer and the consumer has not been sent yet. Bounded by the credit passed on to the
//! engine, which depends on how large the messages are: a mailbox holds about 16 MiB, however much credit was given.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use waypost_core::engine::effect::{Delivery, Refusal};

/// Bytes of messages a mailbox aims at.
const WINDOW_BYTES: u64 = 16 << 20;
/// Messages asked for before their size is known; also the fewest.
const WINDOW_FIRST: u64 = 64;
/// Messages asked for at most.
const WINDOW_MOST: u64 = 4096;
/// Bytes of one batch to the application at most, unless one message alone is more.
const BATCH_BYTES: u64 = 1 << 20;
/// Body parts that may wait; four are asked for at a time, and four more may be late from a body given up.
const PARTS: usize = 8;
/// Settlements whose confirmation may wait; whoever does not read so many does not read at all.
const SETTLED: usize = 1 << 20;

/// A consumer's mailbox.
#[derive(Default)]
pub struct Mailbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    deliveries: VecDeque<Delivery>,
    parts: VecDeque<Part>,
    settled: Vec<u64>,
    end: Option<End>,
    /// Granted by the application and not passed on.
    wanted: u64,
    /// Passed on to the engine and not delivered.
    granted: u64,
    /// A running mean over the messages seen, in bytes.
    mean_bytes: u64,
}

/// Why a mailbox gets nothing more.
#[derive(Clone, Debug)]
pub enum End {
    /// The engine said so.
    Refused(Refusal),
    /// More came than there was credit for, or the application does not read.
    Overflow,
}

/// A part of a large body.
#[derive(Debug)]
pub struct Part {
    /// Of which delivery.
    pub delivery: u64,
    /// Its place.
    pub index: u32,
    /// `None`: not to be had any more.
    pub bytes: Option<Bytes>,
}

/// What was taken out of a mailbox.
#[derive(Default)]
pub struct News {
    /// Settlements that are in the synced log.
    pub settled: Vec<u64>,
    /// At most about 1 MiB.
    pub deliveries: Vec<Delivery>,
    /// In order.
    pub parts: VecDeque<Part>,
    /// Nothing more will come.
    pub end: Option<End>,
}

impl Mailbox {
    /// The engine delivers.
    pub fn deliver(&self, deliveries: Vec<Delivery>) {
        self.fill(|state| {
            let count = deliveries.len() as u64;
            if count > state.granted {
                state.end.get_or_insert(End::Overflow);
                return;
            }
            state.granted -= count;
            for delivery in &deliveries {
                state.mean_bytes = (state.mean_bytes * 7 + weight(delivery)) / 8;
            }
            state.deliveries.extend(deliveries);
        });
    }

    /// The engine hands over a part of a body.
    pub fn part(&self, delivery: u64, index: u32, bytes: Option<Bytes>) {
        self.fill(|state| {
            if state.parts.len() < PARTS {
                state.parts.push_back(Part { delivery, index, bytes });
            } else {
                state.end.get_or_insert(End::Overflow);
            }
        });
    }

    /// The engine has settled.
    pub fn settled(&self, deliveries: Vec<u64>) {
        self.fill(|state| {
            if state.settled.len() + deliveries.len() <= SETTLED {
                state.settled.extend(deliveries);
            } else {
                state.end.get_or_insert(End::Overflow);
            }
        });
    }

    /// The engine cannot serve it.
    pub fn end(&self, refusal: Refusal) {
        self.fill(|state| {
            state.end.get_or_insert(End::Refused(refusal));
        });
    }

    /// The application has room for more.
    pub fn want(&self, messages: u32) {
        let mut state = self.state();
        state.wanted = state.wanted.saturating_add(u64::from(messages));
    }

    /// How much credit to pass on to the engine now; counted as passed on.
    #[must_use]
    pub fn grant(&self) -> Option<u32> {
        let mut state = self.state();
        let window = WINDOW_BYTES.checked_div(state.mean_bytes).unwrap_or(0).clamp(WINDOW_FIRST, WINDOW_MOST);
        let held = state.granted + state.deliveries.len() as u64;
        let grant = state.wanted.min(window.saturating_sub(held));
        state.wanted -= grant;
        state.granted += grant;
        u32::try_from(grant).ok().filter(|grant| *grant > 0)
    }

    /// Waits until there is something, and takes it.
    pub async fn news(&self) -> News {
        loop {
            let filled = self.filled.notified();
            if let Some(news) = self.take() {
                return news;
            }
            filled.await;
        }
    }

    fn take(&self) -> Option<News> {
        let mut state = self.state();
        let news = News {
            settled: std::mem::take(&mut state.settled),
            deliveries: take_batch(&mut state.deliveries),
            parts: std::mem::take(&mut state.parts),
            end: state.end.clone(),
        };
        let empty = news.settled.is_empty() && news.deliveries.is_empty() && news.parts.is_empty();
        if empty && news.end.is_none() { None } else { Some(news) }
    }

    fn fill(&self, put: impl FnOnce(&mut State)) {
        put(&mut self.state());
        self.filled.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(delivery: &Delivery) -> u64 {
    let headers: usize = delivery.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    (delivery.body.len() + headers + 128) as u64
}

fn take_batch(deliveries: &mut VecDeque<Delivery>) -> Vec<Delivery> {
    let mut bytes = 0;
    let mut count = 0;
    while let Some(next) = deliveries.get(count) {
        bytes += weight(next);
        if count > 0 && bytes > BATCH_BYTES {
            break;
        }
        count += 1;
    }
    deliveries.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_core::id::{MessageId, NodeId};

    fn message(delivery: u64, bytes: usize) -> Delivery {
        Delivery {
            delivery,
            id: MessageId([0; 16]),
            from: NodeId([0; 32]),
            deliveries: 1,
            sent_at_ms: 0,
            headers: Vec::new(),
            body: Bytes::from(vec![0; bytes]),
            size: bytes as u64,
            fragments: 1,
        }
    }

    #[test]
    fn credit_is_passed_on_in_windows_that_follow_the_size_of_messages() {
        let mailbox = Mailbox::default();
        mailbox.want(10_000);
        assert_eq!(mailbox.grant(), Some(64));
        assert_eq!(mailbox.grant(), None);
        mailbox.deliver((0..64).map(|n| message(n, 100)).collect());
        assert_eq!(mailbox.grant(), Some(4096 - 64), "small messages: a wide window");
        mailbox.deliver((0..4032).map(|n| message(n, 256 << 10)).collect());
        assert_eq!(mailbox.grant(), None, "large ones: nothing more until they are taken");
    }

    #[tokio::test]
    async fn batches_stay_near_a_mebibyte() {
        let mailbox = Mailbox::default();
        mailbox.want(8);
        assert_eq!(mailbox.grant(), Some(8));
        mailbox.deliver((0..8).map(|n| message(n, 300 << 10)).collect());
        assert_eq!(mailbox.news().await.deliveries.len(), 3);
        assert_eq!(mailbox.news().await.deliveries.len(), 3);
        assert_eq!(mailbox.news().await.deliveries.len(), 2);
    }

    #[tokio::test]
    async fn more_than_the_credit_ends_the_consumer() {
        let mailbox = Mailbox::default();
        mailbox.want(1);
        assert_eq!(mailbox.grant(), Some(1));
        mailbox.deliver(vec![message(1, 1), message(2, 1)]);
        let news = mailbox.news().await;
        assert!(news.deliveries.is_empty() && matches!(news.end, Some(End::Overflow)));
    }
}
