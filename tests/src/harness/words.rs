//! The command line's JSON, as far as tests look at it. What is absent has no key.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// `waypost id`.
#[derive(Deserialize, Clone, Debug)]
pub struct Id {
    /// The node's address.
    pub address: String,
    /// Where it listens, with real ports.
    #[serde(default)]
    pub listen: Vec<String>,
}

/// One line of `waypost send`.
#[derive(Deserialize, Clone, Debug)]
pub struct Sent {
    /// The message's id.
    pub id: String,
}

/// One line of `waypost recv`.
#[derive(Deserialize, Clone, Debug)]
pub struct Received {
    /// The message's id.
    pub id: String,
    /// Who sent it.
    pub from: String,
    /// How often it was delivered, this time included.
    pub deliveries: u32,
    /// Its headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body, when it was asked for on standard output.
    body_base64: Option<String>,
}

impl Received {
    /// The body.
    ///
    /// # Errors
    /// When there is none, or it is not base64.
    pub fn body(&self) -> Result<Vec<u8>> {
        let encoded = self.body_base64.as_deref().with_context(|| format!("{} came without a body", self.id))?;
        STANDARD.decode(encoded).with_context(|| format!("the body of {}", self.id))
    }
}

/// `waypost status`.
#[derive(Deserialize, Clone, Debug)]
pub struct Status {
    /// What this node still answers for.
    pub outbox: Mail,
    /// What was delivered here and not yet consumed.
    pub inbox: Mail,
    /// Other nodes' envelopes held here.
    pub transit: Transit,
    /// Its disk.
    pub store: Option<Store>,
}

/// What a node says of its disk.
#[derive(Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Commits so far.
    pub durable_seq: u64,
    /// Whether it is too full for new mail.
    #[serde(default)]
    pub full: bool,
    /// What was lost, in words.
    #[serde(default)]
    pub damage: String,
}

impl Status {
    /// What it says of its disk.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn disk(self) -> Result<Store> {
        self.store.context("status says nothing of the store")
    }
}

/// Messages and what they weigh.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail {
    /// How many.
    pub messages: u64,
    /// How much.
    pub bytes: u64,
}

/// Envelopes and what they weigh.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transit {
    /// How many.
    pub envelopes: u64,
    /// How much.
    pub bytes: u64,
    /// How many of them are kept after custody passed on.
    pub standby: u64,
}

/// One line of `waypost peers`.
#[derive(Deserialize, Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: String,
    /// Whether there is a connection now.
    pub connected: bool,
    /// What carries the connection.
    pub transport: Option<String>,
}

/// One line of `waypost routes`.
#[derive(Deserialize, Clone, Debug)]
pub struct Route {
    /// The destination's address.
    pub to: String,
    /// The neighbour it goes to next.
    pub next: Option<String>,
    /// Envelopes that wait here for it.
    pub waiting: u64,
}

/// `waypost trace`.
#[derive(Deserialize, Clone, Debug)]
pub struct Trace {
    /// Where on the ladder it is, or how it ended.
    pub state: String,
    /// The rungs it has passed.
    #[serde(default)]
    pub ladder: Vec<Step>,
    /// Who held it.
    #[serde(default)]
    pub custody: Vec<Custody>,
}

impl Trace {
    /// Whether it has passed a rung whose name begins with `state`.
    #[must_use]
    pub fn passed(&self, state: &str) -> bool {
        self.ladder.iter().any(|step| step.state.starts_with(state))
    }

    /// Whether anything in it shows that the node at `address` held the message.
    #[must_use]
    pub fn was_held_by(&self, address: &str) -> bool {
        let held = |step: &Step| step.state.starts_with("held") && step.by.as_deref() == Some(address);
        let took = |event: &Custody| event.node == address || event.peer.as_deref() == Some(address);
        self.ladder.iter().any(held) || self.custody.iter().any(took)
    }
}

/// One rung.
#[derive(Deserialize, Clone, Debug)]
pub struct Step {
    /// Its name.
    pub state: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// Who said so.
    pub by: Option<String>,
}

/// One entry of the custody log.
#[derive(Deserialize, Clone, Debug)]
pub struct Custody {
    /// Whose log it is from.
    pub node: String,
    /// What happened.
    pub event: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// With whom.
    pub peer: Option<String>,
}
