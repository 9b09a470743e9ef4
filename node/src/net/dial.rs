//! Whom to dial, and when again: at most every second for the first ten minutes of absence, then every 30 s, for ever.
//! Pure: time is handed in. Never dials, and never gives anybody up.

use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The longest wait between attempts while a peer has not been away for long.
const SOON: Duration = Duration::from_secs(1);
/// The longest wait between attempts afterwards, and after a refusal.
const LATER: Duration = Duration::from_secs(30);
/// How long a peer is dialled often.
const EAGER: Duration = Duration::from_secs(600);
/// Peers remembered at most.
const TARGETS: usize = waypost_core::limits::PEERS;
/// Addresses remembered for one peer at most.
const ADDRESSES: usize = 16;

/// Somebody to be dialled.
#[derive(Debug)]
struct Target {
    /// Given as an address alone: then `peer` is whoever was met there last.
    is_bare: bool,
    peer: Option<PeerId>,
    addresses: Vec<Multiaddr>,
    absent_since: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting { until: Instant },
    Dialling,
    Met,
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
            (address, None) => self.push(None, vec![address], now),
        }
    }

    /// Adds where a peer may be found. Beyond the caps nothing is added.
    pub fn add_peer(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, now: Instant) {
        if peer == self.own {
            return;
        }
        let addresses = addresses.into_iter().map(|address| split_peer(address).0);
        let is_same = |target: &&mut Target| !target.is_bare && target.peer == Some(peer);
        let Some(target) = self.targets.iter_mut().find(is_same) else {
            let addresses: Vec<_> = addresses.take(ADDRESSES).collect();
            return self.push(Some(peer), addresses, now);
        };
        for address in addresses {
            if target.addresses.len() < ADDRESSES && !target.addresses.contains(&address) {
                target.addresses.push(address);
            }
        }
    }

    fn push(&mut self, peer: Option<PeerId>, addresses: Vec<Multiaddr>, now: Instant) {
        let is_bare = peer.is_none();
        let known = self.targets.iter().any(|target| is_bare && target.is_bare && target.addresses == addresses);
        if self.targets.len() < TARGETS && !addresses.is_empty() && !known {
            let state = State::Waiting { until: now };
            self.targets.push(Target { is_bare, peer, addresses, absent_since: now, state });
        }
    }

    /// When the next attempt is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let waits = self.targets.iter().filter_map(|target| match target.state {
            State::Waiting { until } => Some(until),
            State::Dialling | State::Met => None,
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
                let peer = target.peer.filter(|_| !target.is_bare);
                attempts.push(Attempt { target: index, peer, addresses: target.addresses.clone() });
            }
        }
        attempts
    }

    /// An attempt came to nothing.
    pub fn failed(&mut self, target: usize, ending: Ending, now: Instant) {
        let jitter = self.draw();
        // A peer that came by itself meanwhile is not waited for.
        if let Some(target) = self.targets.get_mut(target).filter(|target| target.state == State::Dialling) {
            target.wait(now, ending, jitter);
        }
    }

    /// There is a connection with a peer: through an attempt, or because it dialled.
    pub fn met(&mut self, peer: PeerId, through: Option<usize>) {
        if let Some(target) = through.and_then(|index| self.targets.get_mut(index)) {
            target.peer = Some(peer);
        }
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(peer)) {
            target.state = State::Met;
        }
    }

    /// The last connection with a peer is gone.
    pub fn lost(&mut self, peer: PeerId, ending: Ending, now: Instant) {
        let jitter = self.draw();
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(peer)) {
            target.wait(now, ending, jitter);
        }
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
    fn wait(&mut self, now: Instant, ending: Ending, jitter: u32) {
        if ending == Ending::WasSession {
            self.absent_since = now;
        }
        let is_long = now.saturating_duration_since(self.absent_since) >= EAGER;
        let longest = if is_long || ending == Ending::Refused { LATER } else { SOON };
        // Between half of it and the whole.
        self.state = State::Waiting { until: now + longest / 2 + longest / 2 * jitter / 1024 };
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

    #[test]
    fn an_absent_peer_is_dialled_every_second_for_ten_minutes_then_every_thirty_and_never_given_up() {
        let (mut schedule, start) = schedule();
        schedule.add(address(1), start);
        let mut now = start;
        for _ in 0..3000 {
            assert_eq!(schedule.take_due(now, 9).len(), 1);
            schedule.failed(0, Ending::Fruitless, now);
            let next = schedule.next_due().unwrap();
            let longest = if now - start < EAGER { SOON } else { LATER };
            assert!(next > now && next - now <= longest && next - now >= longest / 2);
            now = next;
        }
        assert!(now - start > EAGER * 10);
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
        assert!(schedule.next_due().unwrap() <= much_later + SOON);
    }

    #[test]
    fn a_fruitless_connection_does_not_begin_the_absence_anew_and_a_refusal_slows_down() {
        let (mut schedule, start) = schedule();
        let peer = PeerId::random();
        schedule.add(with_peer(1, peer), start);
        schedule.met(peer, None);
        schedule.lost(peer, Ending::Refused, start);
        assert!(schedule.next_due().unwrap() >= start + LATER / 2);
        schedule.lost(peer, Ending::Fruitless, start + EAGER);
        assert!(schedule.next_due().unwrap() >= start + EAGER + LATER / 2);
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
        assert_eq!(schedule.take_due(start + SECOND, 9)[0].peer, None, "somebody else may live there now");
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
}
