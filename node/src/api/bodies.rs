//! Large bodies on their way out, one after another, a few parts asked for ahead. Holds names and counts, no bytes.

use std::collections::VecDeque;

use waypost_core::engine::effect::Delivery;
use waypost_core::engine::input::{ConsumerId, Input};

use super::mailbox::Part;
use super::wire::receive_response::Data;

/// Parts asked for and not here yet, at most.
const AHEAD: u32 = 4;

/// The bodies one consumer is still to be sent, in the order of their deliveries.
#[derive(Default)]
pub struct Bodies {
    queue: VecDeque<Body>,
}

struct Body {
    delivery: u64,
    fragments: u32,
    asked: u32,
    received: u32,
}

impl Bodies {
    /// Notes a delivery whose body did not come with it.
    pub fn note(&mut self, delivery: &Delivery) {
        if delivery.fragments > 1 {
            let (delivery, fragments) = (delivery.delivery, delivery.fragments);
            self.queue.push_back(Body { delivery, fragments, asked: 0, received: 0 });
        }
    }

    /// The next part to ask for, counted as asked for.
    pub fn next_wanted(&mut self, consumer: ConsumerId) -> Option<Input> {
        let body = self.queue.front_mut()?;
        if body.asked == body.fragments || body.asked - body.received >= AHEAD {
            return None;
        }
        let index = body.asked;
        body.asked += 1;
        Some(Input::BodyPartWanted { consumer, delivery: body.delivery, index })
    }

    /// A part came: what to send for it. Late parts of a body that was given up are nothing.
    pub fn take(&mut self, part: Part) -> Option<Data> {
        let body = self.queue.front_mut().filter(|body| body.delivery == part.delivery)?;
        let in_order = part.index == body.received;
        let Some(data) = part.bytes.filter(|_| in_order) else {
            self.queue.pop_front();
            return Some(Data { delivery: part.delivery, last: true, gone: true, ..Data::default() });
        };
        body.received += 1;
        let last = body.received == body.fragments;
        if last {
            self.queue.pop_front();
        }
        Some(Data { delivery: part.delivery, data, last, gone: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use waypost_core::id::{MessageId, NodeId};

    fn large(delivery: u64, fragments: u32) -> Delivery {
        Delivery {
            delivery,
            id: MessageId([0; 16]),
            from: NodeId([0; 32]),
            deliveries: 1,
            sent_at_ms: 0,
            headers: Vec::new(),
            body: Bytes::new(),
            size: 0,
            fragments,
        }
    }

    fn asked(bodies: &mut Bodies) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| bodies.next_wanted(ConsumerId(1)))
            .filter_map(|input| match input {
                Input::BodyPartWanted { delivery, index, .. } => Some((delivery, index)),
                _ => None,
            })
            .collect()
    }

    fn part(delivery: u64, index: u32, bytes: Option<&'static [u8]>) -> Part {
        Part { delivery, index, bytes: bytes.map(Bytes::from_static) }
    }

    #[test]
    fn four_parts_are_asked_for_ahead() {
        let mut bodies = Bodies::default();
        bodies.note(&large(7, 6));
        assert_eq!(asked(&mut bodies), [(7, 0), (7, 1), (7, 2), (7, 3)]);
        assert_eq!(bodies.take(part(7, 0, Some(b"x"))).unwrap().data, "x");
        assert_eq!(asked(&mut bodies), [(7, 4)]);
    }

    #[test]
    fn a_body_that_is_gone_ends_and_its_late_parts_are_nothing() {
        let mut bodies = Bodies::default();
        bodies.note(&large(7, 6));
        bodies.note(&large(8, 2));
        assert_eq!(asked(&mut bodies).len(), 4);
        let data = bodies.take(part(7, 0, None)).unwrap();
        assert!(data.gone && data.last);
        assert!(bodies.take(part(7, 1, None)).is_none());
        assert_eq!(asked(&mut bodies), [(8, 0), (8, 1)]);
        assert!(!bodies.take(part(8, 0, Some(b"a"))).unwrap().last);
        assert!(bodies.take(part(8, 1, Some(b"b"))).unwrap().last);
    }
}
