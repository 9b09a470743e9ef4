//! Whom to dial, and when again: at most every second for the first ten minutes of absence, then every 30 s, for ever
//! (rule DIAL-1).
//! Pure: time is handed in. Never dials, and never gives anybody up but strangers that left the local network.

use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The shortest wait between attempts while a peer has not been away for long; jitter comes on top.
const SOON: Duration = Duration::from_secs(1);
/// The shortest wait between attempts afterwards, and after a refusal.
const LATER: Duration = Duration::from_secs(30);
/// The most jitter: this part of the wait.
const JITTER: u32 = 4;
/// How long a peer is dialled often.
const EAGER: Duration = Duration::from_secs(600);
/// Peers remembered at most.
const TARGETS: usize = waypost_core::limits::PEERS;
/// Of them found on the local network, where anybody can announce anything.
const FOUND: usize = 256;
/// Addresses remembered for one peer at most.
const ADDRESSES: usize = 16;

/// How somebody came to be dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// Given as an address alone: then `peer` is whoever was met there last.
    Bare,
    /// Given with its key, or met before.
    Known,
    /// Found on the local network and never met: dialled while it has addresses there.
    Found,
}

/// Somebody to be dialled.
#[derive(Debug)]
struct Target {
    origin: Origin,
    peer: Option<PeerId>,
    addresses: Vec<Multiaddr>,
    absent_since: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Dialling,
    /// There is a connection.
    Met {
        /// When it would have been dialled, had it not dialled first.
        due: Option<Instant>,
    },
    /// No longer to be dialled; the place may be taken by another.
    Gone,
}

/// One attempt to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Names it in what is reported back.
    pub target: usize,
    /// Whom; `None` when only an address is known.
    pub peer: Option<PeerId>,
    /// Where; never empty, and just one without a peer.
    pub addresses: Vec<Multiaddr>,
}

/// How well a connection went, by its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It was a session: the absence begins now.
    WasSession,
    /// It came to nothing, and may do better soon.
    Fruitless,
    /// The other side will most likely not have us, or we not it.
    Refused,
}

/// Everybody to be dialled.
#[derive(Debug)]
pub struct Schedule {
    own: PeerId,
    targets: Vec<Target>,
    jitter: u64,
}

impl Schedule {
    /// Nobody yet. `seed` spreads the attempts of different nodes.
    #[must_use]
    pub fn new(own: PeerId, seed: u64) -> Self {
        Self { own, targets: Vec::new(), jitter: seed }
    }

    /// Adds an address, with or without `/p2p/…` at its end, to be dialled at once.
    pub fn add(&mut self, address: Multiaddr, now: Instant) {
        match split_peer(address) {
            (address, Some(peer)) => self.add_peer(peer, vec![address], now),
            (address, None) => self.push(Origin::Bare, None, vec![address], now),
        }
    }

    /// Adds where a peer may be found. Beyond the caps nothing is added.
    pub fn add_peer(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if peer == self.own {
            return;
        }
        let addresses = addresses.into_iter().map(|address| split_peer(address).0);
        let Some(target) = self.keyed(peer) else {
            let addresses: Vec<_> = addresses.take(ADDRESSES).collect();
            return self.push(Origin::Known, Some(peer), addresses, now);
        };
        target.origin = Origin::Known;
        for address in addresses {
            target.add(address);
        }
        if target.state == State::Gone && !target.addresses.is_empty() {
            target.state = State::Waiting { until: now };
        }
    }

    /// Adds somebody who announces itself on the local network. An address that is news is tried soon.
    pub fn add_found(&mut self, peer: PeerId, address: Multiaddr, now: Instant) {
        if peer == self.own {
            return;
        }
        let address = split_peer(address).0;
        let wait = self.jittered(SOON);
        let is_found = |target: &&Target| target.origin == Origin::Found && target.state != State::Gone;
        let has_room = self.targets.iter().filter(is_found).count() < FOUND;
        let Some(target) = self.keyed(peer) else {
            if has_room {
                self.push(Origin::Found, Some(peer), vec![address], now);
            }
            return;
        };
        let is_news = target.add(address);
        match &mut target.state {
            State::Waiting { until } if is_news => *until = (*until).min(now + wait),
            state @ State::Gone if has_room => *state = State::Waiting { until: now + wait },
            _ => {}
        }
    }

    /// An address is no longer announced on the local network. Who is known otherwise is dialled there all the same.
    pub fn forget_found(&mut self, peer: PeerId, address: Multiaddr) {
        let address = split_peer(address).0;
        let Some(target) = self.keyed(peer).filter(|target| target.origin == Origin::Found) else { return };
        target.addresses.retain(|known| *known != address);
        if target.addresses.is_empty() && matches!(target.state, State::Waiting { .. }) {
            target.state = State::Gone;
        }
    }

    /// The target that stands for a peer, not for an address where it happens to live.
    fn keyed(&mut self, peer: PeerId) -> Option<&mut Target> {
        self.targets.iter_mut().find(|target| target.origin != Origin::Bare && target.peer == Some(peer))
    }

    fn push(&mut self, origin: Origin, peer: Option<PeerId>, addresses: Vec<Multiaddr>, now: Instant) {
        let is_bare = origin == Origin::Bare;
        let is_same = |target: &Target| target.origin == Origin::Bare && target.addresses == addresses;
        if addresses.is_empty() || (is_bare && self.targets.iter().any(is_same)) {
            return;
        }
        let state = State::Waiting { until: now };
        let target = Target { origin, peer, addresses, absent_since: now, state };
        match self.targets.iter().position(|old| old.state == State::Gone) {
            Some(place) => self.targets[place] = target,
            None if self.targets.len() < TARGETS => self.targets.push(target),
            None => {}
        }
    }

    /// When the next attempt is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let waits = self.targets.iter().filter_map(|target| match target.state {
            State::Waiting { until } => Some(until),
            State::Dialling | State::Met { .. } | State::Gone => None,
        });
        waits.min()
    }

    /// At most `room` attempts that are due; each must be followed by [`Schedule::failed`] or [`Schedule::met`].
    pub fn take_due(&mut self, now: Instant, room: usize) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for (index, target) in self.targets.iter_mut().enumerate() {
            if attempts.len() < room && matches!(target.state, State::Waiting { until } if until <= now) {
                target.state = State::Dialling;
                // An address given without a peer is asked anew who lives there: the host may have a new key.
                let peer = target.peer.filter(|_| target.origin != Origin::Bare);
                attempts.push(Attempt { target: index, peer, addresses: target.addresses.clone() });
            }
        }
        attempts
    }

    /// An attempt came to nothing.
    pub fn failed(&mut self, target: usize, ending: Ending, now: Instant) {
        let waits = self.waits();
        // A peer that came by itself meanwhile is not waited for.
        if let Some(target) = self.targets.get_mut(target).filter(|target| target.state == State::Dialling) {
            target.wait(now, ending, waits);
        }
    }

    /// There is a connection with a peer: through an attempt, or because it dialled.
    pub fn met(&mut self, peer: PeerId, through: Option<usize>) {
        if let Some(target) = through.and_then(|index| self.targets.get_mut(index)) {
            target.peer = Some(peer);
        }
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(peer)) {
            let due = match target.state {
                State::Waiting { until } => Some(until),
                State::Met { due } => due,
                State::Dialling | State::Gone => None,
            };
            target.state = State::Met { due };
        }
    }

    /// The last connection with a peer is gone.
    pub fn lost(&mut self, peer: PeerId, ending: Ending, now: Instant) {
        let waits = self.waits();
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(peer)) {
            target.wait(now, ending, waits);
        }
    }

    /// The next wait if it is to be soon, and if later.
    fn waits(&mut self) -> (Duration, Duration) {
        (self.jittered(SOON), self.jittered(LATER))
    }

    fn jittered(&mut self, shortest: Duration) -> Duration {
        shortest + shortest / JITTER * self.draw() / 1024
    }

    /// A number in 0..1024 (splitmix64: spread is all that is asked of it).
    fn draw(&mut self) -> u32 {
        self.jitter = self.jitter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.jitter;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        u32::try_from((mixed ^ (mixed >> 31)) % 1024).unwrap_or_default()
    }
}

impl Target {
    /// Adds an address; says whether it is news.
    fn add(&mut self, address: Multiaddr) -> bool {
        let is_news = self.addresses.len() < ADDRESSES && !self.addresses.contains(&address);
        if is_news {
            self.addresses.push(address);
        }
        is_news
    }

    fn wait(&mut self, now: Instant, ending: Ending, (soon, later): (Duration, Duration)) {
        if self.addresses.is_empty() {
            self.state = State::Gone;
            return;
        }
        if ending == Ending::WasSession {
            self.absent_since = now;
        }
        let is_long = now.saturating_duration_since(self.absent_since) >= EAGER;
        let until = now + if is_long || ending == Ending::Refused { later } else { soon };
        // One that dials every second and is turned away does not put off for ever that it is dialled itself: only
        // whoever is dialled is shown enough to tell why the two have nothing to do with each other.
        let until = match self.state {
            State::Met { due: Some(due) } if ending != Ending::WasSession && due > now => until.min(due),
            _ => until,
        };
        self.state = State::Waiting { until };
    }
}

/// An address and the peer it names at its end, if it does.
fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    let Some(Protocol::P2p(peer)) = address.iter().last() else { return (address, None) };
    address.pop();
    (address, Some(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    fn with_peer(port: u16, peer: PeerId) -> Multiaddr {
        address(port).with(Protocol::P2p(peer))
    }

    fn schedule() -> (Schedule, Instant) {
        (Schedule::new(PeerId::random(), 7), Instant::now())
    }

    #[test]
    fn everybody_is_dialled_at_once_and_only_once_at_a_time() {
        let (mut schedule, now) = schedule();
        let peer = PeerId::random();
        schedule.add(with_peer(1, peer), now);
        schedule.add(with_peer(2, peer), now);
        schedule.add(address(3), now);
        schedule.add(address(3), now);
        let attempts = schedule.take_due(now, 9);
        assert_eq!(
            attempts,
            [
                Attempt { target: 0, peer: Some(peer), addresses: vec![address(1), address(2)] },
                Attempt { target: 1, peer: None, addresses: vec![address(3)] },
            ]
        );
        assert_eq!(schedule.take_due(now + 60 * SECOND, 9), []);
    }

    /// DIAL-1: often at first, then less often, and for ever.
    #[test]
    fn an_absent_peer_is_dialled_every_second_for_ten_minutes_then_every_thirty_and_never_given_up() {
        let (mut schedule, start) = schedule();
        schedule.add(address(1), start);
        let (mut now, mut waits) = (start, std::collections::BTreeSet::new());
        for _ in 0..4000 {
            assert_eq!(schedule.take_due(now, 9).len(), 1);
            schedule.failed(0, Ending::Fruitless, now);
            let next = schedule.next_due().unwrap();
            let shortest = if now - start < Duration::from_secs(600) { SECOND } else { 30 * SECOND };
            assert!(next - now >= shortest && next - now <= shortest * 5 / 4, "{:?} at {:?}", next - now, now - start);
            waits.insert(next - now);
            now = next;
        }
        assert!(now - start > Duration::from_secs(24 * 3600), "a day, and it goes on");
        assert!(waits.len() > 500, "they must not fall into step with others': {} waits", waits.len());
    }

    #[test]
    fn nobody_is_dialled_while_met_and_an_end_of_a_session_begins_the_absence_anew() {
        let (mut schedule, start) = schedule();
        let peer = PeerId::random();
        schedule.add(with_peer(1, peer), start);
        schedule.met(peer, None);
        let much_later = start + EAGER * 2;
        assert_eq!(schedule.next_due(), None);
        schedule.lost(peer, Ending::WasSession, much_later);
        assert!(schedule.next_due().unwrap() <= much_later + SOON * 5 / 4);
    }

    #[test]
    fn a_fruitless_connection_does_not_begin_the_absence_anew_and_a_refusal_slows_down() {
        let (mut schedule, start) = schedule();
        let peer = PeerId::random();
        schedule.add(with_peer(1, peer), start);
        schedule.met(peer, None);
        schedule.lost(peer, Ending::Refused, start);
        assert!(schedule.next_due().unwrap() >= start + LATER);
        schedule.lost(peer, Ending::Fruitless, start + EAGER);
        assert!(schedule.next_due().unwrap() >= start + EAGER + LATER);
    }

    #[test]
    fn one_that_comes_every_second_and_is_turned_away_is_dialled_all_the_same() {
        let (mut schedule, start) = schedule();
        let stranger = PeerId::random();
        schedule.add_found(stranger, with_peer(1, stranger), start);
        schedule.take_due(start, 9);
        schedule.met(stranger, Some(0));
        schedule.lost(stranger, Ending::Refused, start);
        let due = schedule.next_due().unwrap();
        for second in 1..30 {
            schedule.met(stranger, None);
            assert_eq!(schedule.next_due(), None, "there is a connection");
            schedule.lost(stranger, Ending::Refused, start + second * SECOND);
            assert_eq!(schedule.next_due(), Some(due), "{second}");
        }
        assert_eq!(schedule.take_due(due, 9).len(), 1);
    }

    #[test]
    fn an_address_alone_learns_who_lives_there() {
        let (mut schedule, start) = schedule();
        let (first, second) = (PeerId::random(), PeerId::random());
        schedule.add(address(1), start);
        schedule.take_due(start, 9);
        schedule.met(first, Some(0));
        assert_eq!(schedule.next_due(), None);
        schedule.lost(first, Ending::WasSession, start);
        schedule.met(first, None);
        assert_eq!(schedule.next_due(), None, "it dialled us");
        schedule.lost(first, Ending::WasSession, start);
        assert_eq!(schedule.take_due(start + 2 * SECOND, 9)[0].peer, None, "somebody else may live there now");
        schedule.met(second, Some(0));
        schedule.lost(first, Ending::WasSession, start);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn the_node_itself_is_not_added() {
        let (mut schedule, start) = schedule();
        let own = schedule.own;
        schedule.add(with_peer(1, own), start);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn a_stranger_on_the_local_network_is_dialled_while_it_is_announced_there() {
        let (mut schedule, start) = schedule();
        let stranger = PeerId::random();
        schedule.add_found(stranger, with_peer(1, stranger), start);
        let attempts = schedule.take_due(start, 9);
        assert_eq!(attempts, [Attempt { target: 0, peer: Some(stranger), addresses: vec![address(1)] }]);
        schedule.met(stranger, Some(0));
        schedule.lost(stranger, Ending::Refused, start);
        assert!(schedule.next_due().unwrap() >= start + LATER);
        schedule.add_found(stranger, with_peer(2, stranger), start);
        assert!(schedule.next_due().unwrap() <= start + SOON * 5 / 4, "it may be somebody's now");
        schedule.forget_found(stranger, with_peer(1, stranger));
        assert_eq!(schedule.take_due(start + LATER, 9)[0].addresses, [address(2)]);
        // It goes while it is being dialled, and comes again.
        schedule.forget_found(stranger, with_peer(2, stranger));
        schedule.failed(0, Ending::Fruitless, start);
        assert_eq!(schedule.next_due(), None);
        schedule.add_found(stranger, with_peer(3, stranger), start);
        assert_eq!(schedule.take_due(start + LATER, 9)[0].addresses, [address(3)]);
    }

    #[test]
    fn a_neighbour_found_on_the_local_network_is_never_given_up() {
        let (mut schedule, start) = schedule();
        let neighbour = PeerId::random();
        schedule.add_found(neighbour, with_peer(1, neighbour), start);
        schedule.met(neighbour, None);
        schedule.add_peer(neighbour, vec![address(1)], start);
        schedule.forget_found(neighbour, with_peer(1, neighbour));
        schedule.lost(neighbour, Ending::WasSession, start);
        assert_eq!(schedule.take_due(start + LATER, 9)[0].addresses, [address(1)]);
    }

    #[test]
    fn announcements_fill_only_their_own_part_of_the_list() {
        let (mut schedule, start) = schedule();
        for port in 1..=600 {
            let peer = PeerId::random();
            schedule.add_found(peer, with_peer(port, peer), start);
        }
        assert_eq!(schedule.take_due(start, 9999).len(), FOUND);
        schedule.add(address(1000), start);
        assert_eq!(schedule.take_due(start, 9999).len(), 1);
    }
}
