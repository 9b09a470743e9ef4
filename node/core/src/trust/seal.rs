//! Seals and opens bodies: one encapsulation a flow, a key for every envelope bound to its content (PROTOCOL.md, Seal).
//! Pure and deterministic but for [`Encapsulation::draw`]; never stores a key and never seals two bodies under one.

mod encapsulation;
mod roots;

#[cfg(test)]
mod tests;

use blake3::{Hash, Hasher};
use bytes::Bytes;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use zeroize::Zeroizing;

pub use encapsulation::Encapsulation;
pub use roots::Roots;

use super::{Label, NodeKey, TrustError, VerifyKey};
use crate::envelope::{EnvelopeId, Header, HeaderError, MAX_SEALED, Name, SealedEnvelope, envelope_id};
use crate::id::{MessageId, NetworkId, NodeId};

/// HPKE DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, export-only; then BLAKE3 and ChaCha20-Poly1305 (rule SEAL-3).
pub const SUITE: u8 = 1;
/// The recipient key id of the address itself; the only one this node can open (rule SEAL-7).
pub const ADDRESS_KEY: u32 = 0;
/// Bytes that sealing adds to a body.
pub const SEAL_OVERHEAD: usize = 16;
/// The longest body that can be sealed.
pub const MAX_BODY: usize = MAX_SEALED - SEAL_OVERHEAD;

/// Why a body was not sealed. The caller is to blame: it should have cut or checked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The body does not fit an envelope.
    #[error("a body of {0} bytes does not fit an envelope ({MAX_BODY} at most)")]
    TooLarge(usize),
    /// The flow's source is another node.
    #[error("only the source of a flow can seal for it")]
    NotTheSource,
    /// A field is out of bounds.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Why a verified envelope did not open here. The first three say nothing against its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is for another node.
    #[error("the envelope is for another node")]
    NotOurs,
    /// Sealed in a way this node does not know: to be answered with `cannot_open` (rule SEAL-7).
    #[error("the envelope is sealed with suite {0}, which this node does not know")]
    UnknownSuite(u8),
    /// Sealed to a key this node does not have: to be answered with `cannot_open` (rule SEAL-7).
    #[error("the envelope is sealed to key {0}, which this node does not have")]
    UnknownKey(u32),
    /// Does not open, or its `s` differs: all its numbers are rejected as malformed (rule SEAL-5).
    #[error("the envelope does not open: its source sealed it wrongly")]
    Malformed,
}

/// Seals `body` as the numbers of `name`: the same arguments give the same bytes, always (rules SEAL-4 and SEAL-6).
///
/// # Errors
/// [`SealError`]: the body is too large, a bound is broken, or `key` is not the source's.
pub fn seal(
    encapsulation: &Encapsulation,
    network: NetworkId,
    key: &NodeKey,
    name: Name,
    lifetime_ms: u64,
    body: &[u8],
) -> Result<SealedEnvelope, SealError> {
    if name.flow.source != key.id() {
        return Err(SealError::NotTheSource);
    }
    let too_large = SealError::TooLarge(body.len());
    if body.len() > MAX_BODY {
        return Err(too_large);
    }
    let encapsulated = encapsulation.encapsulated;
    let mut header =
        Header { name, lifetime_ms, suite: SUITE, recipient_key_id: ADDRESS_KEY, encapsulated, s: [0; 32] };
    header.check()?;
    header.s = *binding(&encapsulation.root, &header.encode(), body).as_bytes();
    let header_bytes = header.encode();
    let payload = Payload { msg: body, aad: &header_bytes };
    let sealed =
        cipher(&encapsulation.root, &header_bytes).encrypt(&Nonce::default(), payload).map_err(|_| too_large)?;
    let signature = key.sign(Label::Envelope, network, &signed_part(&header_bytes, &blake3::hash(&sealed)));
    Ok(SealedEnvelope { header, header_bytes: Bytes::copy_from_slice(&header_bytes), sealed: sealed.into(), signature })
}

/// An envelope whose bounds and signature were checked. Whether its source is a member is for the roster to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedEnvelope {
    envelope: SealedEnvelope,
    id: EnvelopeId,
}

impl VerifiedEnvelope {
    /// Its header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.envelope.header
    }

    /// Its id, already computed.
    #[must_use]
    pub fn id(&self) -> EnvelopeId {
        self.id
    }

    /// The node that signed it.
    #[must_use]
    pub fn source(&self) -> NodeId {
        self.envelope.header.name.flow.source
    }

    /// The envelope, as it came.
    #[must_use]
    pub fn envelope(&self) -> &SealedEnvelope {
        &self.envelope
    }

    /// The envelope, as it came.
    #[must_use]
    pub fn into_envelope(self) -> SealedEnvelope {
        self.envelope
    }
}

/// Checks an envelope as it came: sizes and bounds, then the source's signature (rules SEAL-2, SEAL-6 and SIGN-6).
///
/// # Errors
/// What is wrong with it.
pub fn verify(
    network: NetworkId,
    header_bytes: Bytes,
    sealed: Bytes,
    signature: &[u8],
) -> Result<VerifiedEnvelope, TrustError> {
    verify_with(network, VerifyKey::parse, header_bytes, sealed, signature)
}

/// As [`verify`], with the source's key from `key_of`: a roster has the keys of members at hand, already parsed.
///
/// # Errors
/// What is wrong with it, or what `key_of` says.
pub fn verify_with(
    network: NetworkId,
    key_of: impl FnOnce(NodeId) -> Result<VerifyKey, TrustError>,
    header_bytes: Bytes,
    sealed: Bytes,
    signature: &[u8],
) -> Result<VerifiedEnvelope, TrustError> {
    if sealed.len() < SEAL_OVERHEAD || sealed.len() > MAX_SEALED {
        return Err(TrustError::SealedSize(sealed.len()));
    }
    let header = Header::decode(&header_bytes)?;
    let source = header.name.flow.source;
    let bad = TrustError::BadSignature { label: Label::Envelope, signer: source };
    let signature: [u8; 64] = signature.try_into().map_err(|_| bad.clone())?;
    let key = key_of(source)?;
    if key.id() != source {
        return Err(bad);
    }
    let sealed_hash = blake3::hash(&sealed);
    key.verify(Label::Envelope, network, &signed_part(&header_bytes, &sealed_hash), &signature)?;
    let id = envelope_id(&header_bytes, &sealed_hash);
    Ok(VerifiedEnvelope { envelope: SealedEnvelope { header, header_bytes, sealed, signature }, id })
}

/// Opens an envelope at its destination (rule SEAL-5). [`Roots::open`] does the same and remembers the flow's root.
///
/// # Errors
/// Why it did not open.
pub fn open(key: &NodeKey, network: NetworkId, verified: &VerifiedEnvelope) -> Result<Vec<u8>, OpenError> {
    let header = verified.header();
    check_openable(key.id(), header)?;
    let recovered = Encapsulation::recover(key, network, verified.source(), header.encapsulated);
    open_with(&recovered.map_err(|_| OpenError::Malformed)?.root, verified)
}

/// Whether this node could open it at all (rule SEAL-7).
fn check_openable(node: NodeId, header: &Header) -> Result<(), OpenError> {
    if header.name.flow.destination != node {
        Err(OpenError::NotOurs)
    } else if header.suite != SUITE {
        Err(OpenError::UnknownSuite(header.suite))
    } else if header.recipient_key_id != ADDRESS_KEY {
        Err(OpenError::UnknownKey(header.recipient_key_id))
    } else {
        Ok(())
    }
}

/// Opens with the flow's root and recomputes `s`, compared in constant time (rule SEAL-5).
fn open_with(root: &[u8; 32], verified: &VerifiedEnvelope) -> Result<Vec<u8>, OpenError> {
    let SealedEnvelope { header, header_bytes, sealed, .. } = verified.envelope();
    let payload = Payload { msg: sealed, aad: header_bytes };
    let opened = cipher(root, header_bytes).decrypt(&Nonce::default(), payload);
    let body = opened.map_err(|_| OpenError::Malformed)?;
    if binding(root, header_bytes, &body) == header.s { Ok(body) } else { Err(OpenError::Malformed) }
}

/// `s`: BLAKE3 keyed with `k_siv` over H0 and the body (rule SEAL-4). Comparing a [`Hash`] takes constant time.
fn binding(root: &[u8; 32], header_bytes: &[u8], body: &[u8]) -> Hash {
    let k_siv = Zeroizing::new(blake3::derive_key("waypost/siv/1", root));
    let outline = &header_bytes[..Header::OUTLINE_LEN];
    Hasher::new_keyed(&k_siv).update(outline).update(body).finalize()
}

/// The cipher of one envelope: its key is BLAKE3 keyed with `k_env` over H (rule SEAL-4).
fn cipher(root: &[u8; 32], header_bytes: &[u8]) -> ChaCha20Poly1305 {
    let k_env = Zeroizing::new(blake3::derive_key("waypost/env-key/1", root));
    let key = Zeroizing::new(*blake3::keyed_hash(&k_env, header_bytes).as_bytes());
    ChaCha20Poly1305::new(<&Key>::from(&*key))
}

/// What the source signs: H, then the hash of the sealed body (rule SEAL-6).
fn signed_part(header_bytes: &[u8], sealed_hash: &Hash) -> Vec<u8> {
    [header_bytes, sealed_hash.as_bytes()].concat()
}

/// The 64 bits by which a receipt speaks of a message's content (rule SEAL-8).
///
/// `index` is the fragment's, 0 for a body in one piece; `body` is the message's body or the fragment.
#[must_use]
pub fn message_tag(tag_key: &[u8; 32], number: u64, id: MessageId, index: u32, body: &[u8]) -> u64 {
    let mut hasher = Hasher::new_keyed(tag_key);
    hasher
        .update(b"waypost/tag/1")
        .update(&number.to_be_bytes())
        .update(&id.0)
        .update(&index.to_be_bytes())
        .update(body);
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_be_bytes(first)
}
