//! Two or three nodes in one process, on the loopback, with a scripted engine each.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::sync::mpsc;
use waypost_core::engine::effect::{Reply, Stream};
use waypost_core::engine::input::{Input, SessionId};
use waypost_core::envelope::Name;
use waypost_core::hop::PeerFrame;
use waypost_core::id::NodeId;
use waypost_core::id::{Class, FlowId, Incarnation};
use waypost_core::trust::{AdmissionClock, Encapsulation, Founding, NodeKey, Terms, Token, examine, found, seal};

use super::*;
use crate::testing::until_async;

/// The key file is one that other libp2p programs read, and names the same address.
#[test]
fn the_key_file_is_libp2ps() {
    let dir = tempfile::tempdir().unwrap();
    let key = crate::identity::load_or_create(dir.path()).unwrap();
    let content = std::fs::read(dir.path().join("key")).unwrap();
    let pair = Keypair::from_protobuf_encoding(&content).unwrap();
    assert_eq!(pair.public().to_peer_id().to_string(), key.id().to_string());
}

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";
const CLOCK: AdmissionClock = AdmissionClock { now_ms: 1_800_000_000_000, build_ms: 0, highest_stored_ms: 0 };
/// Longer than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A network, its founder's key and the founder's token.
struct World {
    founder: [u8; 32],
    founding: Founding,
}

impl World {
    fn new(seed: u8) -> Self {
        let founder = [seed; 32];
        let id = NodeKey::from_seed(&founder).id();
        let founding = found(&mut ChaCha20Rng::from_seed([seed; 32]), id, CLOCK.now_ms - 1);
        Self { founder, founding }
    }

    fn roster(&self) -> Roster {
        let mut roster = Roster::new(self.founding.network);
        let founder = NodeKey::from_seed(&self.founder).id();
        roster.admit_chain(founder, &self.chain()).unwrap();
        roster
    }

    fn chain(&self) -> Vec<hop::Signed> {
        vec![self.founding.certificate.clone()]
    }

    fn join(&self, subject: [u8; 32]) -> hop::Join {
        let key = NodeKey::from_seed(&self.founder);
        let member = self.roster().member(&key.id()).unwrap().clone();
        let terms = Terms { once: false, lifetime_ms: 1000 };
        let token = Token::issue(&key, &member, terms, CLOCK, NodeKey::from_seed(&[77; 32]), &[]).unwrap();
        token.join(&NodeKey::from_seed(&subject))
    }

    /// What the founder's engine answers.
    fn admit(&self, join: &hop::Join, subject: NodeId) -> Vec<hop::Signed> {
        let key = NodeKey::from_seed(&self.founder);
        let roster = self.roster();
        let member = roster.member(&key.id()).unwrap();
        examine(member, &roster, join, subject, CLOCK).unwrap().certify(&key, None).unwrap().chain
    }

    /// The chain of a second member.
    fn enrol(&self, seed: [u8; 32]) -> Vec<hop::Signed> {
        self.admit(&self.join(seed), NodeKey::from_seed(&seed).id())
    }
}

/// How a node is started.
struct Start {
    seed: [u8; 32],
    chain: Vec<hop::Signed>,
    listen: Vec<Multiaddr>,
    peers: Vec<Multiaddr>,
    join: Option<hop::Join>,
}

impl Start {
    fn new(seed: [u8; 32], chain: Vec<hop::Signed>, listen: &str) -> Self {
        Self { seed, chain, listen: vec![listen.parse().unwrap()], peers: Vec::new(), join: None }
    }

    fn dialling(mut self, peers: Vec<Multiaddr>) -> Self {
        self.peers = peers;
        self
    }

    async fn start(self, network: NetworkId) -> Node {
        let (inputs, queue) = Inputs::new();
        let roster = Arc::new(Mutex::new(Roster::new(network)));
        let nonce = u64::from_ne_bytes(rand_nonce());
        let own = OwnHello {
            incarnation: Incarnation { counter: 1, random: nonce.to_be_bytes() },
            continues: None,
            durable_sequence: 3,
            nonce,
            chain: self.chain,
            known_chains: Vec::new(),
            known_peers: Vec::new(),
        };
        let Self { seed: key_seed, listen, peers, .. } = self;
        let config =
            Config { key_seed, network, listen, peers, dial: Dial::Known, known_peers: Vec::new(), mdns: false };
        let net = start(config, own, roster, self.join, inputs.clone()).await.unwrap();
        Node { seed: key_seed, id: NodeKey::from_seed(&key_seed).id(), net, inputs, queue }
    }
}

fn rand_nonce() -> [u8; 8] {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// A running node and what its engine would hear.
struct Node {
    seed: [u8; 32],
    id: NodeId,
    net: Net,
    inputs: Inputs,
    queue: mpsc::Receiver<Input>,
}

impl Node {
    /// Everything is passed over until `wanted` gives something.
    async fn hear<T>(&mut self, mut wanted: impl FnMut(Input) -> Option<T>) -> T {
        let hearing = async {
            loop {
                if let Some(found) = wanted(self.queue.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, hearing).await.expect("the awaited input did not come")
    }

    async fn connected(&mut self, with: NodeId) -> (SessionId, &'static str) {
        self.hear(|input| match input {
            Input::PeerConnected { peer, session, transport, hello, .. } if peer == with => {
                assert_eq!(hello.durable_sequence, 3);
                Some((session, transport))
            }
            Input::FrameArrived { .. } => panic!("a frame before its session"),
            _ => None,
        })
        .await
    }

    async fn lost(&mut self, ended: SessionId) {
        self.hear(|input| matches!(input, Input::PeerLost { session, .. } if session == ended).then_some(())).await;
    }

    /// Until the log names a reason not to have a session with `peer`.
    async fn complained_about(&self, peer: NodeId) {
        until_async("a complaint", || self.net.local.has_complained(peer)).await;
    }

    fn send_credit(&self, to: NodeId, session: SessionId, stream: Stream, bytes: u64) {
        let credit = hop::Credit { class: 1, bytes, envelopes: 1 };
        let frame = Box::new(hop::Frame { kind: Some(hop::frame::Kind::Credit(credit)) });
        self.net.carry_out(Effect::Send { peer: to, session, stream, frame });
    }

    /// Seals and sends a small envelope, as the engine would.
    fn send_envelope(&self, to: &Self, session: SessionId, class: Class) {
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        let (source, destination, network) = (self.id, to.id, self.net.local.network);
        let flow = FlowId { source, destination, class, incarnation: Incarnation::default() };
        let encapsulation = Encapsulation::draw(&mut rng, network, source, destination).unwrap();
        let name = Name { flow, first: 1, count: 1 };
        let key = NodeKey::from_seed(&self.seed);
        let sealed = seal::seal(&encapsulation, network, &key, name, 1000, b"body").unwrap();
        let envelope = hop::Envelope {
            transfer: 1,
            header: sealed.header_bytes,
            sealed: sealed.sealed,
            signature: sealed.signature.to_vec().into(),
            wave: 1,
            ..Default::default()
        };
        let frame = Box::new(hop::Frame { kind: Some(hop::frame::Kind::Envelope(envelope)) });
        self.net.carry_out(Effect::Send { peer: to.id, session, stream: Stream::Class(class), frame });
    }

    /// The next envelope's source and class; it has opened.
    async fn envelope(&mut self) -> (NodeId, Class) {
        self.hear(|input| match input {
            Input::FrameArrived { frame, .. } => match *frame {
                PeerFrame::Envelope(arrived) => {
                    assert_eq!(arrived.opened, Some(Ok(bytes::Bytes::from_static(b"body"))));
                    let flow = arrived.envelope.header().name.flow;
                    Some((flow.source, flow.class))
                }
                _ => None,
            },
            _ => None,
        })
        .await
    }

    async fn credit(&mut self) -> u64 {
        self.hear(|input| match input {
            Input::FrameArrived { frame, .. } => match *frame {
                PeerFrame::Credit { bytes, .. } => Some(bytes),
                _ => None,
            },
            _ => None,
        })
        .await
    }
}

const SECOND: [u8; 32] = [2; 32];

async fn pair(listen: &str) -> (World, Node, Node) {
    let world = World::new(1);
    let network = world.founding.network;
    let first = Start::new(world.founder, world.chain(), listen).start(network).await;
    let second = Start::new(SECOND, world.enrol(SECOND), listen).dialling(first.net.listen_addresses());
    let second = second.start(network).await;
    (world, first, second)
}

async fn exchange_on_all_streams(listen: &str, transport: &str) {
    let (_world, mut first, mut second) = pair(listen).await;
    let (session_first, over_first) = first.connected(second.id).await;
    let (session_second, over_second) = second.connected(first.id).await;
    assert_eq!((over_first, over_second), (transport, transport));
    for class in Class::ALL {
        first.send_envelope(&second, session_first, class);
        assert_eq!(second.envelope().await, (first.id, class));
        second.send_envelope(&first, session_second, class);
        assert_eq!(first.envelope().await, (second.id, class));
    }
    // The order of one stream is kept, however many frames leave together.
    for number in 0..2000 {
        first.send_credit(second.id, session_first, Stream::Control, number);
    }
    for number in 0..2000 {
        assert_eq!(second.credit().await, number);
    }
    second.net.stop().await;
    first.lost(session_first).await;
    first.net.stop().await;
}

/// HELLO-1, HELLO-3: eight streams are greeted, and what was said reaches the engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_meet_over_tcp_and_frames_pass_on_all_streams() {
    exchange_on_all_streams(TCP, "tcp").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_meet_over_quic_and_frames_pass_on_all_streams() {
    exchange_on_all_streams(QUIC, "quic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_is_met_again_within_two_seconds() {
    let (world, first, mut second) = pair(TCP).await;
    let (session, _) = second.connected(first.id).await;
    let listen = first.net.listen_addresses().remove(0).to_string();
    first.net.stop().await;
    second.lost(session).await;
    let mut first = Start::new(world.founder, world.chain(), &listen).start(world.founding.network).await;
    let back = Instant::now();
    second.connected(first.id).await;
    assert!(back.elapsed() < Duration::from_secs(2), "took {:?}", back.elapsed());
    first.connected(second.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_engine_ends_is_lost_on_both_sides_and_made_again() {
    let (_world, mut first, mut second) = pair(TCP).await;
    let (session, _) = first.connected(second.id).await;
    let (theirs, _) = second.connected(first.id).await;
    first.net.carry_out(Effect::Disconnect { peer: second.id, session, why: "a test" });
    first.lost(session).await;
    second.lost(theirs).await;
    let (again, _) = first.connected(second.id).await;
    assert_ne!(again, session);
}

/// NODE-1: a full queue ends the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_costs_the_session_and_not_the_memory() {
    let (_world, mut first, mut second) = pair(TCP).await;
    let (session, _) = first.connected(second.id).await;
    second.connected(first.id).await;
    // More than a class's queue holds, faster than any connection carries it.
    let body = bytes::Bytes::from(vec![0; 256 * 1024]);
    for _ in 0..2500 {
        let envelope = hop::Envelope { sealed: body.clone(), ..Default::default() };
        let kind = Some(hop::frame::Kind::Envelope(envelope));
        let (stream, frame) = (Stream::Class(Class::Bulk), Box::new(hop::Frame { kind }));
        first.net.carry_out(Effect::Send { peer: second.id, session, stream, frame });
    }
    first.lost(session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_dial_each_other_at_once_keep_one_session() {
    let (world, first, second) = pair(TCP).await;
    let addresses = [first.net.listen_addresses(), second.net.listen_addresses()];
    first.net.stop().await;
    second.net.stop().await;
    let network = world.founding.network;
    let start = |seed, chain, own: usize| {
        Start::new(seed, chain, &addresses[own][0].to_string()).dialling(addresses[1 - own].clone()).start(network)
    };
    let (mut first, mut second) =
        tokio::join!(start(world.founder, world.chain(), 0), start(SECOND, world.enrol(SECOND), 1));
    // Whatever was begun and given up before, in the end one session carries frames both ways.
    loop {
        let (session, _) = first.connected(second.id).await;
        first.send_credit(second.id, session, Stream::Control, 42);
        let echo = tokio::time::timeout(Duration::from_secs(3), second.credit()).await;
        if echo == Ok(42) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_network_gets_nothing() {
    let (ours, theirs) = (World::new(1), World::new(9));
    let mut first = Start::new(ours.founder, ours.chain(), TCP).start(ours.founding.network).await;
    let stranger = Start::new(theirs.founder, theirs.chain(), TCP).dialling(first.net.listen_addresses());
    let mut stranger = stranger.start(theirs.founding.network).await;
    first.complained_about(stranger.id).await;
    // A member is met after it.
    let second = Start::new(SECOND, ours.enrol(SECOND), TCP).dialling(first.net.listen_addresses());
    let second = second.start(ours.founding.network).await;
    let stranger_id = stranger.id;
    let met = first
        .hear(|input| match input {
            Input::PeerConnected { peer, .. } | Input::JoinAsked { subject: peer, .. } => Some(peer),
            Input::ChainLearned { subject, .. } => {
                assert_ne!(subject, stranger_id);
                None
            }
            _ => None,
        })
        .await;
    assert_eq!(met, second.id);
    assert!(!first.net.local.roster().is_member(&stranger_id));
    stranger.net.stop().await;
    stranger.queue.close();
    while let Some(input) = stranger.queue.recv().await {
        assert!(matches!(input, Input::ListenAddressesChanged { .. }), "heard {input:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_node_joins_and_is_met_as_a_member() {
    let world = World::new(1);
    let network = world.founding.network;
    let mut founder = Start::new(world.founder, world.chain(), TCP).start(network).await;
    let mut joiner = Start::new(SECOND, Vec::new(), TCP).dialling(founder.net.listen_addresses());
    joiner.join = Some(world.join(SECOND));
    let mut joiner = joiner.start(network).await;
    let (request, subject, join) = founder
        .hear(|input| match input {
            Input::JoinAsked { request, subject, join } => Some((request, subject, join)),
            Input::PeerConnected { .. } | Input::FrameArrived { .. } => panic!("a session with a stranger"),
            _ => None,
        })
        .await;
    assert_eq!(subject, joiner.id);
    founder.inputs.answer(request, Reply::Admission(Ok(world.admit(&join, subject))));
    let chain = joiner
        .hear(|input| match input {
            Input::Certified { chain } => Some(chain),
            Input::PeerConnected { .. } => panic!("a session before the certificate"),
            _ => None,
        })
        .await;
    joiner.net.carry_out(Effect::Certify { chain });
    founder
        .hear(|input| matches!(input, Input::ChainLearned { subject, .. } if subject == joiner.id).then_some(()))
        .await;
    founder.connected(joiner.id).await;
    joiner.connected(founder.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_certificate_for_the_joiner_is_not_taken() {
    let (world, other) = (World::new(1), World::new(9));
    let network = world.founding.network;
    let mut founder = Start::new(world.founder, world.chain(), TCP).start(network).await;
    let mut joiner = Start::new(SECOND, Vec::new(), TCP).dialling(founder.net.listen_addresses());
    joiner.join = Some(world.join(SECOND));
    let mut joiner = joiner.start(network).await;
    let request = founder
        .hear(|input| match input {
            Input::JoinAsked { request, .. } => Some(request),
            _ => None,
        })
        .await;
    founder.inputs.answer(request, Reply::Admission(Ok(other.enrol(SECOND))));
    joiner.complained_about(founder.id).await;
    joiner.net.stop().await;
    joiner.queue.close();
    while let Some(input) = joiner.queue.recv().await {
        assert!(!matches!(input, Input::Certified { .. }), "took {input:?}");
    }
}

/// Carries bytes between whoever connects and `to`, until `cut`: then it holds the connections and carries nothing.
async fn proxy(to: u16, cut: CancellationToken) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let cut = cut.clone();
            held.push(tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                cut.run_until_cancelled(tokio::io::copy_bidirectional(&mut near, &mut far)).await;
                if cut.is_cancelled() {
                    std::future::pending::<()>().await;
                }
            }));
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_falls_silent_without_closing_is_lost_within_ten_seconds_on_both_sides() {
    let world = World::new(1);
    let network = world.founding.network;
    let mut first = Start::new(world.founder, world.chain(), TCP).start(network).await;
    let port = first.net.listen_addresses()[0].to_string().rsplit('/').next().unwrap().parse().unwrap();
    let cut = CancellationToken::new();
    let door = proxy(port, cut.clone()).await;
    let second = Start::new(SECOND, world.enrol(SECOND), TCP);
    let second = second.dialling(vec![format!("/ip4/127.0.0.1/tcp/{door}").parse().unwrap()]);
    let mut second = second.start(network).await;
    let (session_first, _) = first.connected(second.id).await;
    let (session_second, _) = second.connected(first.id).await;
    cut.cancel();
    let silent = Instant::now();
    tokio::join!(first.lost(session_first), second.lost(session_second));
    assert!(silent.elapsed() < Duration::from_secs(10), "took {:?}", silent.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_stays() {
    let (_world, mut first, mut second) = pair(TCP).await;
    let (session, _) = first.connected(second.id).await;
    second.connected(first.id).await;
    // Four pings take longer than the silence after which a connection is closed.
    let mut pings = 0;
    first
        .hear(|input| match input {
            Input::PeerLost { .. } => panic!("lost while idle"),
            Input::RttMeasured { peer, .. } => {
                assert_eq!(peer, second.id);
                pings += 1;
                (pings == 4).then_some(())
            }
            _ => None,
        })
        .await;
    first.send_credit(second.id, session, Stream::Control, 7);
    assert_eq!(second.credit().await, 7);
}

/// A port on which another process listens is refused with what to do, though the transport could share it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_refused() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let refused = refuse_taken(&address.parse().unwrap()).unwrap_err().to_string();
    assert!(refused.contains("another process"), "{refused}");
    drop(taken);
    refuse_taken(&address.parse().unwrap()).unwrap();
}

/// DIAL-2: neighbours of former runs are dialled where they were reached and, if that is allowed, where they say.
#[test]
fn neighbours_of_former_runs_are_dialled() {
    let node = NodeKey::from_seed(&[5; 32]).id();
    let address = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}");
    let dialled = |dial| {
        let peer = KnownPeer { node, reached: vec![address(1)], told: vec![address(2)] };
        let (network, known_peers) = (NetworkId([1; 32]), vec![peer]);
        let (listen, peers) = (Vec::new(), Vec::new());
        let config = Config { key_seed: [1; 32], network, listen, peers, dial, known_peers, mdns: false };
        schedule(&config, PeerId::random(), 1).take_due(Instant::now(), 9).remove(0).addresses
    };
    let addresses =
        |ports: &[u16]| ports.iter().map(|port| address(*port).parse().unwrap()).collect::<Vec<Multiaddr>>();
    assert_eq!(dialled(Dial::Known), addresses(&[1]));
    assert_eq!(dialled(Dial::Any), addresses(&[1, 2]));
}
