//! Connections: dialled, told to both sides, filled with frames, and lost one side at a time.

use waypost_core::engine::input::{Input, PeerHello, SessionId};
use waypost_core::hop::decode::Decoder;

use crate::frames::{describe, kind_of};
use crate::net::{Flying, SILENCE_US, Session, Side};
use crate::world::{Event, World};

impl World {
    /// Somebody will dial on this link, unless somebody is about to.
    pub fn plan_dial(&mut self, place: usize) {
        let (soonest, latest) = self.plan.redial_ms;
        let link = &mut self.net.links[place];
        if link.dialling || link.gone {
            return;
        }
        link.dialling = true;
        let delay_ms = link.rng.spread(soonest, latest);
        self.after_ms(delay_ms, Event::Dial { link: place });
    }

    /// Opens a connection if both processes run, frames pass, and one of them has none.
    pub fn dial(&mut self, place: usize) {
        let link = &mut self.net.links[place];
        link.dialling = false;
        let ends = [link.plan.a, link.plan.b];
        if !link.passes() || !ends.iter().all(|host| self.hosts[*host].is_awake(self.now_us)) {
            return;
        }
        let current = link.session.and_then(|name| self.net.sessions.get(&name));
        if current.is_some_and(|session| session.sides.iter().all(|side| *side != Side::Over)) {
            return;
        }
        let name = self.net.name();
        let lives = ends.map(|host| self.hosts[host].life);
        let sides = [Side::Opening; 2];
        let (last_us, held) = (Default::default(), Default::default());
        self.net.sessions.insert(name, Session { link: place, ends, sides, lives, marred: false, last_us, held });
        let link = &mut self.net.links[place];
        let old = link.session.replace(name);
        let latency_us = link.plan.latency_us.1;
        let order = link.rng.below(2) as usize;
        if let Some(old) = old {
            self.replace(old);
        }
        self.at_us(self.now_us + latency_us, Event::Told { session: name, side: order });
        self.at_us(self.now_us + 2 * latency_us, Event::Told { session: name, side: 1 - order });
    }

    /// A newer connection ends an older one; a side that still believed in it is told before the new one, or never.
    fn replace(&mut self, old: SessionId) {
        for side in 0..2 {
            let told = self.net.sessions.get(&old).is_some_and(|session| {
                let link = session.link;
                self.net.links[link].rng.chance(500)
            });
            if told {
                self.lose_side(old, side);
            } else if let Some(session) = self.net.sessions.get_mut(&old) {
                session.sides[side] = Side::Over;
            }
        }
        self.net.sessions.remove(&old);
    }

    /// One side learns that a connection is up.
    pub fn told(&mut self, name: SessionId, side: usize) {
        let Some(session) = self.net.sessions.get(&name) else { return };
        let (host, other) = (session.ends[side], session.ends[1 - side]);
        let alive = [0, 1].map(|side| self.hosts[session.ends[side]].life == session.lives[side]);
        if !alive[side] || !self.hosts[host].is_awake(self.now_us) || session.sides[side] != Side::Opening {
            return self.lose_side(name, side);
        }
        let own =
            if alive[1 - side] { self.hosts[other].engine().map(|engine| engine.own_hello().clone()) } else { None };
        let Some(hello) = own else { return self.lose_side(name, side) };
        let peer = self.hosts[other].id();
        let chain = self.hosts[other].chain.clone();
        let wall_ms = self.hosts[other].clock.read(self.now_us).wall_ms;
        let this = &mut self.hosts[host];
        if let Ok(roster) = this.roster.get_mut()
            && let Err(error) = roster.admit_chain(peer, &chain)
        {
            return self.oracle.refused_frame(self.now_us, host, other, "chain", &error.to_string());
        }
        if let Some(session) = self.net.sessions.get_mut(&name) {
            session.sides[side] = Side::Up;
        }
        self.story.tell(format_args!("{host} is connected to {other}"));
        self.input(host, Input::ChainLearned { subject: peer, chain });
        let hello = PeerHello {
            incarnation: hello.incarnation,
            continues: hello.continues,
            durable_sequence: hello.durable_sequence,
            nonce: hello.nonce,
            wall_ms,
        };
        let (transport, address) = ("tcp", String::new());
        self.input(host, Input::PeerConnected { peer, session: name, hello, transport, address });
    }

    /// A frame comes.
    pub fn arrive(&mut self, flying: Flying) {
        let Some(session) = self.net.sessions.get_mut(&flying.session) else { return };
        let (to, host, from) = (flying.to, session.ends[flying.to], session.ends[1 - flying.to]);
        if session.sides[to] == Side::Over {
            return;
        }
        if self.net.links[session.link].stopped[to] > 0 || session.sides[to] == Side::Opening {
            session.held[to].push(flying);
            return;
        }
        if self.hosts[host].life != session.lives[to] {
            return;
        }
        let frozen_us = self.hosts[host].frozen_until_us;
        if frozen_us > self.now_us {
            return self.at_us(frozen_us, Event::Arrive(Box::new(flying)));
        }
        self.take(host, from, flying);
    }

    fn take(&mut self, host: usize, from: usize, flying: Flying) {
        let kind = kind_of(&flying.frame);
        *self.net.carried.entry(kind).or_default() += 1;
        self.story.note(2, [host as u64, from as u64, flying.bytes as u64], kind.as_bytes());
        if self.story.is_told() && !matches!(kind, "credit" | "ids" | "get" | "fact") {
            self.story.tell(format_args!("  {from}→{host} {}", describe(&flying.frame)));
        }
        self.overheard(host, from, flying.stream, &flying.frame);
        let dropped = match &flying.frame.kind {
            Some(waypost_proto::hop::frame::Kind::Dropped(dropped)) => Some(dropped.clone()),
            _ => None,
        };
        let this = &self.hosts[host];
        let decoder = Decoder { key: &this.key, network: this.network, roster: &this.roster, roots: &this.roots };
        let decoded = match decoder.decode(*flying.frame, flying.stream) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.seen.see("frame refused");
                if !self.net.sessions.get(&flying.session).is_some_and(|session| session.marred) {
                    self.oracle.refused_frame(self.now_us, host, from, kind, &error.to_string());
                }
                return self.close(flying.session);
            }
        };
        for (subject, chain) in decoded.learned {
            self.input(host, Input::ChainLearned { subject, chain });
        }
        if let Some(frame) = decoded.frame {
            let peer = self.hosts[from].id();
            if let Some(dropped) = &dropped {
                self.oracle.hears_dropped(host, peer, dropped, &self.hosts[host]);
            }
            self.input(host, Input::FrameArrived { peer, session: flying.session, frame: Box::new(frame) });
        }
    }

    /// A direction passes again: what waited comes now, in its order.
    pub fn release(&mut self, place: usize, towards: usize) {
        let names: Vec<SessionId> =
            self.net.sessions.iter().filter(|(_, session)| session.link == place).map(|(name, _)| *name).collect();
        for name in names {
            let Some(session) = self.net.sessions.get_mut(&name) else { continue };
            // At once: what is sent from now on must not overtake it.
            for flying in std::mem::take(&mut session.held[towards]) {
                self.arrive(flying);
            }
        }
        self.plan_dial(place);
    }

    /// Frames that came before their side was told follow at once.
    fn release_held(&mut self, name: SessionId, side: usize) {
        let Some(session) = self.net.sessions.get_mut(&name) else { return };
        for flying in std::mem::take(&mut session.held[side]) {
            self.arrive(flying);
        }
    }

    /// Told, then what came too early.
    pub fn told_and_released(&mut self, name: SessionId, side: usize) {
        self.told(name, side);
        self.release_held(name, side);
    }

    /// A side notices that a connection is over, or that nothing has come for a while.
    pub fn noticed(&mut self, name: SessionId, side: usize, silence: bool) {
        let Some(session) = self.net.sessions.get(&name) else { return };
        let other = session.ends[1 - side];
        let deaf = self.net.links[session.link].stopped[side] > 0
            || self.hosts[other].life != session.lives[1 - side]
            || session.sides[1 - side] == Side::Over
            || !self.hosts[other].is_awake(self.now_us);
        if !silence || deaf {
            self.lose_side(name, side);
        }
    }

    /// One side of a connection ends; the other is told, or notices the silence.
    pub fn lose_side(&mut self, name: SessionId, side: usize) {
        let Some(session) = self.net.sessions.get_mut(&name) else { return };
        let before = std::mem::replace(&mut session.sides[side], Side::Over);
        if before == Side::Over {
            return;
        }
        session.held[side].clear();
        let (place, ends, lives, theirs) = (session.link, session.ends, session.lives, session.sides[1 - side]);
        if before == Side::Up && self.hosts[ends[side]].life == lives[side] {
            let peer = self.hosts[ends[1 - side]].id();
            self.input(ends[side], Input::PeerLost { peer, session: name });
        }
        if theirs == Side::Over {
            self.net.sessions.remove(&name);
            let link = &mut self.net.links[place];
            if link.session == Some(name) {
                link.session = None;
            }
        } else {
            let link = &self.net.links[place];
            let silence = link.stopped[1 - side] > 0;
            let delay_us = if silence { SILENCE_US } else { link.plan.latency_us.1 };
            self.at_us(self.now_us + delay_us, Event::Noticed { session: name, side: 1 - side, silence: false });
        }
        self.plan_dial(place);
    }

    /// Ends a connection for both sides, now.
    pub fn close(&mut self, name: SessionId) {
        self.lose_side(name, 0);
        self.lose_side(name, 1);
    }

    /// A process has ended: the system closes its connections, or, when power went, their other ends hear nothing more.
    pub fn hang_up(&mut self, host: usize, noticed: bool) {
        let names: Vec<(SessionId, usize)> = self
            .net
            .sessions
            .iter()
            .filter_map(|(name, session)| Some((*name, session.ends.iter().position(|end| *end == host)?)))
            .collect();
        for (name, side) in names {
            let Some(session) = self.net.sessions.get_mut(&name) else { continue };
            session.sides[side] = Side::Over;
            session.held[side].clear();
            let link = &mut self.net.links[session.link];
            let passes = link.stopped[1 - side] == 0;
            let delay_us =
                if noticed && passes { link.plan.latency_us.1 } else { SILENCE_US + link.rng.below(2_000_000) };
            if session.sides[1 - side] == Side::Over {
                self.net.sessions.remove(&name);
            } else {
                self.at_us(self.now_us + delay_us, Event::Noticed { session: name, side: 1 - side, silence: false });
            }
        }
    }
}
