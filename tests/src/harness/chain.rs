//! Three nodes in a row: A and C know only B and can reach each other only through it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::client::PATIENT;
use super::{Node, Sandbox, binary, wait};

/// From a start to a connection: a redial is due every second.
const CONNECTED: Duration = Duration::from_secs(60);

/// What A and C dial B over.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    /// TCP, Noise and Yamux.
    Tcp,
    /// QUIC.
    Quic,
}

impl Transport {
    fn in_address(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "udp",
        }
    }
}

/// A, B and C, and the folder they live in.
#[derive(Debug)]
pub struct Chain {
    /// The sender's end.
    pub a: Node,
    /// The relay; it founded the network.
    pub b: Node,
    /// The receiver's end.
    pub c: Node,
    /// Dropped last.
    pub sandbox: Sandbox,
}

impl Chain {
    /// All three running and connected over TCP.
    ///
    /// # Errors
    /// When they do not come together.
    pub fn a_b_c(name: &str) -> Result<Self> {
        Self::over(name, Transport::Tcp, |_| ())
    }

    /// All three running and connected; `prepare` may change their settings before their first start.
    ///
    /// # Errors
    /// When they do not come together.
    pub fn over(name: &str, transport: Transport, prepare: impl FnOnce(&mut Self)) -> Result<Self> {
        let binary = binary::find()?;
        let sandbox = Sandbox::new(name)?;
        let node = |name| Node::new(&sandbox, &binary, name);
        let mut chain = Self { a: node("a")?, b: node("b")?, c: node("c")?, sandbox };
        if matches!(transport, Transport::Quic) {
            // The invitation names every address of B; over TCP a node would come first.
            chain.b.listen_only(transport.in_address());
        }
        prepare(&mut chain);
        chain.b.start().context("founding a network at B")?;
        let b = chain.b.dial_at(transport.in_address())?;
        for end in [&mut chain.a, &mut chain.c] {
            end.join(&chain.b.invite()?)?;
            end.add_peer(&b);
            end.start()?;
        }
        chain.await_connected(&chain.a)?;
        chain.await_connected(&chain.c)?;
        Ok(chain)
    }

    /// Waits until `end` and B see each other.
    ///
    /// # Errors
    /// When they do not.
    pub fn await_connected(&self, end: &Node) -> Result<()> {
        let (ours, theirs) = (end.address()?, self.b.address()?);
        let what = format!("a connection between {} and b", end.name());
        self.until(&what, CONNECTED, || {
            Ok((end.is_connected_to(theirs)? && self.b.is_connected_to(ours)?).then_some(()))
        })
    }

    /// Waits for a fact; a wait in vain shows the ends of all three logs.
    ///
    /// # Errors
    /// When the fact does not come.
    pub fn until<T>(&self, what: &str, deadline: Duration, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let logs = [&self.a, &self.b, &self.c].map(Node::log);
        let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
        wait::until(what, deadline, &logs, probe)
    }

    /// Waits until nobody answers for any message and B holds nothing: then nothing more can arrive anywhere.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn await_empty(&self) -> Result<()> {
        self.until("empty outboxes at all three and no mail held at b", PATIENT, || {
            let (a, b, c) = (self.a.status()?, self.b.status()?, self.c.status()?);
            let outboxes = a.outbox.messages + b.outbox.messages + c.outbox.messages;
            Ok((outboxes == 0 && b.transit.envelopes == 0).then_some(()))
        })
    }

    /// Waits until a message sent from A has passed the rung `state`.
    ///
    /// # Errors
    /// When it does not.
    pub fn await_passed(&self, id: &str, state: &str) -> Result<()> {
        let what = format!("{id} to be {state}");
        self.until(&what, PATIENT, || Ok(self.a.trace(id)?.passed(state).then_some(())))
    }
}
