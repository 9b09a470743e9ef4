//! Who is waiting for what the engine's thread gives out: consumers and bodies streaming in. Handing something over
//! never blocks and never waits for an application.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use waypost_core::engine::effect::Effect;
use waypost_core::engine::input::{ConsumerId, Input, StreamId};

use super::mailbox::Mailbox;
use crate::inputs::Inputs;

/// Parts of a body that may be unanswered; the engine takes 16.
pub const PARTS_UNANSWERED: usize = 8;

/// Everything that can be handed something. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    consumers: Arc<Mutex<BTreeMap<ConsumerId, Arc<Mailbox>>>>,
    streams: Arc<Mutex<BTreeMap<StreamId, Arc<Semaphore>>>>,
}

impl Registry {
    /// Carries out what belongs to the API; other effects are not its business.
    pub fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Deliver { consumer, deliveries } => self.with(consumer, |mailbox| mailbox.deliver(deliveries)),
            Effect::BodyPart { consumer, delivery, index, bytes } => {
                self.with(consumer, |mailbox| mailbox.part(delivery, index, bytes));
            }
            Effect::Settled { consumer, deliveries } => self.with(consumer, |mailbox| mailbox.settled(deliveries)),
            Effect::EndConsumer { consumer, refusal } => self.with(consumer, |mailbox| mailbox.end(refusal)),
            Effect::Staged { stream } => {
                if let Some(room) = lock(&self.streams).get(&stream) {
                    room.add_permits(1);
                }
            }
            _ => tracing::debug!("an effect came to the API that it does not carry out"),
        }
    }

    fn with(&self, consumer: ConsumerId, hand_over: impl FnOnce(&Mailbox)) {
        let mailbox = lock(&self.consumers).get(&consumer).cloned();
        if let Some(mailbox) = mailbox {
            hand_over(&mailbox);
        }
    }

    /// Registers a consumer until the guard is dropped, which also tells the engine.
    #[must_use]
    pub fn consumer(&self, inputs: &Inputs) -> OpenConsumer {
        let consumer = ConsumerId(inputs.draw());
        let mailbox = Arc::new(Mailbox::default());
        lock(&self.consumers).insert(consumer, mailbox.clone());
        OpenConsumer { consumer, mailbox, registry: self.clone(), inputs: inputs.clone() }
    }

    /// Registers a body until the guard is dropped, which abandons the body unless it was ended.
    #[must_use]
    pub fn stream(&self, inputs: &Inputs) -> OpenStream {
        let stream = StreamId(inputs.draw());
        let room = Arc::new(Semaphore::new(PARTS_UNANSWERED));
        lock(&self.streams).insert(stream, room.clone());
        OpenStream { stream, room, registry: self.clone(), inputs: inputs.clone(), ended: false }
    }
}

/// A registered consumer.
pub struct OpenConsumer {
    /// Its name in the engine.
    pub consumer: ConsumerId,
    /// What the engine gives it.
    pub mailbox: Arc<Mailbox>,
    registry: Registry,
    inputs: Inputs,
}

impl Drop for OpenConsumer {
    fn drop(&mut self) {
        lock(&self.registry.consumers).remove(&self.consumer);
        push_later(&self.inputs, Input::ConsumerClosed { consumer: self.consumer });
    }
}

/// A registered body.
pub struct OpenStream {
    /// Its name in the engine.
    pub stream: StreamId,
    /// A permit for each part that may still go unanswered.
    pub room: Arc<Semaphore>,
    registry: Registry,
    inputs: Inputs,
    ended: bool,
}

impl OpenStream {
    /// The engine was told that the body is whole, or has refused it: there is nothing to abandon.
    pub fn ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        lock(&self.registry.streams).remove(&self.stream);
        if !self.ended {
            push_later(&self.inputs, Input::BodyAbandoned { stream: self.stream });
        }
    }
}

/// Queues an input from where nobody can wait: at once if there is room, else by a task of its own.
pub fn push_later(inputs: &Inputs, input: Input) {
    let Err(input) = inputs.try_push(input) else { return };
    if let Ok(runtime) = Handle::try_current() {
        let inputs = inputs.clone();
        runtime.spawn(async move { inputs.push(*input).await });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
