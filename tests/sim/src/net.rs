//! Links, the connections on them, and the frames in flight. A stream keeps its order and loses nothing while its
//! connection lives, as TCP and QUIC do; a connection dies of silence, of a process's end, or of a fault. On a link made
//! lossy frames are lost, doubled and overtaken as well: nothing in the protocol may rest on streams being kind.

use std::collections::BTreeMap;

use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::SessionId;
use waypost_proto::hop;

use crate::plan::LinkPlan;
use crate::rng::Rng;

/// A connection is given up after so much silence.
pub const SILENCE_US: u64 = 8_000_000;

/// How a side sees a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It will be told.
    Opening,
    /// It uses it.
    Up,
    /// It was told that it is over, or its process ended.
    Over,
}

/// A connection between two processes.
pub struct Session {
    /// On which link.
    pub link: usize,
    /// The hosts, as the link has them.
    pub ends: [usize; 2],
    /// How each sees it.
    pub sides: [Side; 2],
    /// The lives of the processes that opened it.
    pub lives: [u64; 2],
    /// Frames of it were lost or overtaken: what refers to them may be refused.
    pub marred: bool,
    /// When the last frame of each direction and stream comes.
    pub last_us: [BTreeMap<Stream, u64>; 2],
    /// Frames that wait for a direction to pass again.
    pub held: [Vec<Flying>; 2],
}

/// A frame in flight.
#[derive(Clone, Debug)]
pub struct Flying {
    /// On which connection.
    pub session: SessionId,
    /// To which end.
    pub to: usize,
    /// On which stream.
    pub stream: Stream,
    /// What.
    pub frame: Box<hop::Frame>,
    /// The sender's record of what it is for the oracle: bytes on the wire.
    pub bytes: usize,
}

/// A link.
pub struct Link {
    /// As planned.
    pub plan: LinkPlan,
    /// Faults that stop a direction: towards b, towards a.
    pub stopped: [u32; 2],
    /// Carries so little for now.
    pub slow: Option<u64>,
    /// Per mille of frames lost, doubled, overtaken.
    pub lossy: u64,
    /// What is sent comes no earlier.
    pub not_before_us: u64,
    /// The wire is busy with what was sent before.
    pub busy_us: [u64; 2],
    /// The connection on it.
    pub session: Option<SessionId>,
    /// Somebody is about to dial.
    pub dialling: bool,
    /// Its own branch of the random tree.
    pub rng: Rng,
    /// It belongs to a copy of a host that is gone again.
    pub gone: bool,
}

impl Link {
    /// A link as planned.
    #[must_use]
    pub fn new(plan: LinkPlan, rng: Rng) -> Self {
        Self {
            plan,
            stopped: [0; 2],
            slow: None,
            lossy: 0,
            not_before_us: 0,
            busy_us: [0; 2],
            session: None,
            dialling: false,
            rng,
            gone: false,
        }
    }

    /// Whether both directions pass.
    #[must_use]
    pub fn passes(&self) -> bool {
        !self.gone && self.stopped == [0, 0]
    }

    /// When a frame of so many bytes comes that is sent now; in which order is the caller's care.
    pub fn arrival_us(&mut self, towards: usize, bytes: usize, now_us: u64) -> u64 {
        let bytes_per_ms = self.slow.unwrap_or(self.plan.bytes_per_ms).max(1);
        let begin = self.busy_us[towards].max(now_us);
        self.busy_us[towards] = begin + bytes as u64 * 1000 / bytes_per_ms;
        let latency = self.rng.range(self.plan.latency_us.0, self.plan.latency_us.1);
        (self.busy_us[towards] + latency).max(self.not_before_us)
    }
}

/// All of them.
#[derive(Default)]
pub struct Net {
    /// The links.
    pub links: Vec<Link>,
    /// Connections that at least one side uses.
    pub sessions: BTreeMap<SessionId, Session>,
    /// Names given out.
    pub names: u64,
    /// Frames delivered, by kind.
    pub carried: BTreeMap<&'static str, u64>,
    /// Frames lost with their connection or on a lossy link.
    pub lost: u64,
}

impl Net {
    /// A new name.
    pub fn name(&mut self) -> SessionId {
        self.names += 1;
        SessionId(self.names)
    }

    /// The links a host has.
    #[must_use]
    pub fn links_of(&self, host: usize) -> Vec<usize> {
        let touches = |link: &Link| link.plan.a == host || link.plan.b == host;
        (0..self.links.len()).filter(|link| touches(&self.links[*link]) && !self.links[*link].gone).collect()
    }
}
