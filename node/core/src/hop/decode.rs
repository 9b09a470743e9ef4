//! From a frame as it came to a frame as the engine takes it, cheapest checks first: caps, then hashes and signatures,
//! then the signer's certificates (rule HOP-8). Pure but for the roster it fills; runs beside the engine, not in it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use waypost_proto::hop::{self, frame::Kind, twin::Step};

use super::{Answer, Arrived, FactId, Offered, PeerFrame, Span, TwinStep};
use crate::engine::effect::Stream;
use crate::envelope::Name;
use crate::id::{Class, Incarnation, NetworkId, NodeId};
use crate::limits;
use crate::trust::verified::Statement;
use crate::trust::{NodeKey, OpenError, Roots, Roster, TrustError, Verified, seal};

/// Why a frame is refused. The connection it came on is closed: no honest node sends such a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A field is missing, malformed or over its cap.
    #[error("a {0} frame breaks its bounds")]
    Bounds(&'static str),
    /// Not on this stream.
    #[error("a {0} frame came on the wrong stream")]
    WrongStream(&'static str),
    /// Not to be believed.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// What a frame turned out to be.
#[derive(Debug)]
pub struct Decoded {
    /// Chains of certificates that were not known before, to be stored before the frame is acted on.
    pub learned: Vec<(NodeId, Vec<hop::Signed>)>,
    /// The frame; `None` for kinds this software does not know (rule HOP-9).
    pub frame: Option<PeerFrame>,
}

/// Decodes the frames of one stream of one member.
pub struct Decoder<'a> {
    /// This node, to open what is for it.
    pub key: &'a NodeKey,
    /// Its network.
    pub network: NetworkId,
    /// Members known.
    pub roster: &'a Mutex<Roster>,
    /// Roots of flows that end here.
    pub roots: &'a Mutex<Roots>,
}

impl Decoder<'_> {
    /// Decodes one frame.
    ///
    /// # Errors
    /// Why the connection is to be closed.
    pub fn decode(&self, frame: hop::Frame, stream: Stream) -> Result<Decoded, FrameError> {
        let mut learned = Vec::new();
        let Some(kind) = frame.kind else { return Ok(Decoded { learned, frame: None }) };
        let frame = match kind {
            Kind::Envelope(envelope) => {
                let Stream::Class(class) = stream else { return Err(FrameError::WrongStream("envelope")) };
                Some(PeerFrame::Envelope(self.envelope(envelope, class, &mut learned)?))
            }
            Kind::Hello(_) | Kind::Join(_) | Kind::Admitted(_) => return Err(FrameError::WrongStream("hello")),
            other if stream != Stream::Control => return Err(FrameError::WrongStream(name_of(&other))),
            other => self.control(other, &mut learned)?,
        };
        Ok(Decoded { learned, frame })
    }

    fn control(&self, kind: Kind, learned: &mut Learned) -> Result<Option<PeerFrame>, FrameError> {
        let bounds = FrameError::Bounds(name_of(&kind));
        let frame = match kind {
            Kind::Credit(credit) => credit_from_wire(&credit),
            Kind::Offer(offer) => offer_from_wire(&offer),
            Kind::Want(answer) => answer_from_wire(&answer).map(PeerFrame::Want),
            Kind::Have(answer) => answer_from_wire(&answer).map(PeerFrame::Have),
            Kind::Gone(answer) => answer_from_wire(&answer).map(PeerFrame::Gone),
            Kind::Word(word) => {
                let word: Verified<hop::WordContent> = self.statement(word, learned)?;
                word_within(word.content()).then_some(PeerFrame::Word(word))
            }
            Kind::Receipt(receipt) => {
                let receipt: Verified<hop::ReceiptContent> = self.statement(receipt, learned)?;
                (receipt.content().version < limits::NUMBER_MAX).then_some(PeerFrame::Receipt(receipt))
            }
            Kind::Fact(fact) => {
                let fact: Verified<hop::FactContent> = self.statement(fact, learned)?;
                (fact.content().sequence < limits::NUMBER_MAX).then_some(PeerFrame::Fact(fact))
            }
            Kind::RetryLater(refusal) => refusal_from_wire(&refusal),
            Kind::Custody(custody) => custody_from_wire(&custody),
            Kind::Dropped(dropped) => names_from_wire(&dropped.names).map(PeerFrame::Dropped),
            Kind::Digest(digest) => Some(PeerFrame::Digest { facts: digest.facts, hash: digest.hash.to_vec() }),
            Kind::Ids(ids) => ids_from_wire(&ids),
            Kind::Get(get) => get_from_wire(&get),
            Kind::Twin(twin) => match twin.step {
                Some(step) => twin_from_wire(step).map(PeerFrame::Twin),
                // A step that this software does not know (rule HOP-9).
                None => return Ok(None),
            },
            Kind::Shown(shown) => within_place(&shown.last).map(|last| PeerFrame::Shown { last, all: shown.all }),
            Kind::Envelope(_) | Kind::Hello(_) | Kind::Join(_) | Kind::Admitted(_) => return Err(bounds),
        };
        frame.map(Some).ok_or(bounds)
    }

    fn statement<T: Statement>(
        &self,
        attested: hop::Attested,
        learned: &mut Learned,
    ) -> Result<Verified<T>, FrameError> {
        let chain = attested.chain.clone();
        let mut roster = lock(self.roster);
        let before = roster.len();
        let verified = Verified::<T>::check_attested(&mut roster, attested)?;
        if roster.len() > before {
            learned.push((verified.signer(), chain));
        }
        Ok(verified)
    }

    fn envelope(&self, frame: hop::Envelope, class: Class, learned: &mut Learned) -> Result<Arrived, FrameError> {
        let bounds = || FrameError::Bounds("envelope");
        // Rule HOP-7: nobody signed these.
        let transfer = frame.transfer >= 1 && frame.transfer < limits::NUMBER_MAX;
        let caps = frame.wave >= 1 && frame.wave <= limits::WAVE_MAX && transfer;
        if !caps || frame.age_ms > 2 * limits::LIFETIME_MAX_MS {
            return Err(bounds());
        }
        let key_of = |source| lock(self.roster).key_of(source);
        let envelope = seal::verify_with(self.network, key_of, frame.header, frame.sealed, &frame.signature)?;
        if envelope.header().name.flow.class != class {
            return Err(FrameError::WrongStream("envelope"));
        }
        self.admit(envelope.source(), &frame.chain, learned)?;
        let opened = (envelope.header().name.flow.destination == self.key.id()).then(|| self.open(&envelope));
        Ok(Arrived {
            transfer: frame.transfer,
            opened,
            envelope,
            age_ms: frame.age_ms,
            hops: frame.hops.min(limits::HOPS_MAX),
            tickets: frame.tickets.min(64),
            wave: frame.wave,
        })
    }

    fn admit(&self, subject: NodeId, chain: &[hop::Signed], learned: &mut Learned) -> Result<(), FrameError> {
        let mut roster = lock(self.roster);
        let known = roster.is_member(&subject);
        roster.admit_chain(subject, chain)?;
        if !known {
            learned.push((subject, chain.to_vec()));
        }
        Ok(())
    }

    fn open(&self, envelope: &crate::trust::VerifiedEnvelope) -> Result<bytes::Bytes, OpenError> {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        roots.open(self.key, self.network, envelope).map(Into::into)
    }
}

type Learned = Vec<(NodeId, Vec<hop::Signed>)>;

fn lock(roster: &Mutex<Roster>) -> MutexGuard<'_, Roster> {
    roster.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Hello(_) => "hello",
        Kind::Credit(_) => "credit",
        Kind::Envelope(_) => "envelope",
        Kind::Offer(_) => "offer",
        Kind::Want(_) => "want",
        Kind::Have(_) => "have",
        Kind::Gone(_) => "gone",
        Kind::Word(_) => "word",
        Kind::Receipt(_) => "receipt",
        Kind::RetryLater(_) => "retry_later",
        Kind::Custody(_) => "custody",
        Kind::Dropped(_) => "dropped",
        Kind::Digest(_) => "digest",
        Kind::Ids(_) => "ids",
        Kind::Get(_) => "get",
        Kind::Fact(_) => "fact",
        Kind::Join(_) => "join",
        Kind::Admitted(_) => "admitted",
        Kind::Shown(_) => "shown",
        Kind::Twin(_) => "twin",
    }
}

fn credit_from_wire(credit: &hop::Credit) -> Option<PeerFrame> {
    let class = Class::from_wire(credit.class)?;
    Some(PeerFrame::Credit { class, bytes: credit.bytes, envelopes: credit.envelopes })
}

fn offer_from_wire(offer: &hop::Offer) -> Option<PeerFrame> {
    // Offer 0 could not be answered: 0 in an answer says that it names transfers.
    if offer.offer == 0 || offer.items.len() > limits::OFFER_ITEMS {
        return None;
    }
    let item = |item: &hop::Offered| {
        let name = Name::from_wire(item.name.as_ref()?)?;
        let wave = (1..=limits::WAVE_MAX).contains(&item.wave).then_some(item.wave)?;
        Some(Offered { name, wave, bytes: item.bytes })
    };
    Some(PeerFrame::Offer { offer: offer.offer, items: offer.items.iter().map(item).collect::<Option<_>>()? })
}

fn parts_of(offer: u64, items: &[u32], class: u32, transfers: &[u64]) -> Option<Answer> {
    if offer > 0 {
        let within =
            items.len() <= limits::OFFER_ITEMS && items.iter().all(|item| (*item as usize) < limits::OFFER_ITEMS);
        return within.then(|| Answer::Items { offer, items: items.to_vec() });
    }
    let class = Class::from_wire(class)?;
    (transfers.len() <= 65_536).then(|| Answer::Transfers { class, transfers: transfers.to_vec() })
}

fn answer_from_wire(answer: &hop::Answer) -> Option<Answer> {
    parts_of(answer.offer, &answer.items, answer.class, &answer.transfers)
}

fn refusal_from_wire(refusal: &hop::RetryLater) -> Option<PeerFrame> {
    let source = if refusal.source.is_empty() { None } else { Some(NodeId::from_slice(&refusal.source)?) };
    Some(PeerFrame::RetryLater {
        answer: parts_of(refusal.offer, &refusal.items, refusal.class, &refusal.transfers)?,
        reason: refusal.reason(),
        after_ms: refusal.after_ms.min(60 * 60 * 1000),
        source,
    })
}

/// Whether a word's numbers are some that a flow can have, so that one may count on from them.
fn word_within(word: &hop::WordContent) -> bool {
    let ranges = word.ended.iter().all(|range| range.first <= range.last && range.last < limits::NUMBER_MAX);
    ranges
        && word.version < limits::NUMBER_MAX
        && word.floor <= limits::NUMBER_MAX
        && word.second_mark <= limits::NUMBER_MAX
        && word.end < limits::NUMBER_MAX
}

fn custody_from_wire(custody: &hop::Custody) -> Option<PeerFrame> {
    let ranges: Vec<Span> = custody.ranges.iter().map(|range| (range.first, range.last)).collect();
    (ranges.len() <= 65_536 && ranges.iter().all(|(first, last)| first <= last)).then_some(())?;
    Some(PeerFrame::Custody {
        incarnation: Incarnation::from_slice(&custody.incarnation)?,
        class: Class::from_wire(custody.class)?,
        ranges,
        durable_sequence: custody.durable_sequence,
    })
}

fn names_from_wire(names: &[hop::EnvelopeName]) -> Option<Vec<Name>> {
    (names.len() <= limits::OFFER_ITEMS).then_some(())?;
    names.iter().map(Name::from_wire).collect()
}

fn ids_from_wire(ids: &hop::Ids) -> Option<PeerFrame> {
    (ids.facts.len() <= limits::FACTS).then_some(())?;
    let id = |id: &hop::FactId| {
        let random = if id.random.is_empty() { None } else { Some(id.random.as_ref().try_into().ok()?) };
        Some(FactId { node: NodeId::from_slice(&id.node)?, counter: id.counter, random, sequence: id.sequence })
    };
    ids.facts.iter().map(id).collect::<Option<_>>().map(PeerFrame::Ids)
}

fn get_from_wire(get: &hop::Get) -> Option<PeerFrame> {
    match &get.receipts {
        Some(wanted) => within_place(&wanted.above).map(|above| PeerFrame::ReceiptsWanted { above }),
        None => nodes_from_wire(get).map(PeerFrame::Get),
    }
}

fn twin_from_wire(step: Step) -> Option<TwinStep> {
    let within = |signed: &hop::Signed| signed.content.len() <= 256 && signed.signature.len() == 64;
    match step {
        Step::Draw(_) => Some(TwinStep::Draw),
        Step::Drawn(challenge) => challenge.as_ref().try_into().ok().map(TwinStep::Drawn),
        Step::Sign(challenge) => challenge.as_ref().try_into().ok().map(TwinStep::Sign),
        Step::Signed(signed) => Some(signed).filter(within).map(TwinStep::Signed),
        Step::Proof(signed) => Some(signed).filter(within).map(TwinStep::Proof),
    }
}

/// A place in another node's table, handed back as it came.
fn within_place(bytes: &[u8]) -> Option<Vec<u8>> {
    (bytes.len() <= 64).then(|| bytes.to_vec())
}

fn nodes_from_wire(get: &hop::Get) -> Option<Vec<NodeId>> {
    (get.facts.len() <= limits::FACTS).then_some(())?;
    get.facts.iter().map(|node| NodeId::from_slice(node)).collect()
}
