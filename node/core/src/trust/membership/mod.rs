//! How a node becomes a member and shows it: invitation, join, consent, certificate, chain (PROTOCOL.md, Membership).
//! Checks and signs; stores nothing, and never reads a clock.

mod admit;
mod chain;
mod invitation;
mod roster;
#[cfg(test)]
pub(crate) mod tests;
mod token;

pub use admit::{Admissible, Admission, AdmitError, examine, reissue};
pub use chain::{Member, verify_chain};
pub use invitation::{Invitation, invitation_hash};
pub use roster::Roster;
pub use token::{MAX_ADDRESSES, Terms, Token, TokenError};

use bytes::Bytes;
use prost::Message;
use rand_core::CryptoRng;
use waypost_proto::hop;

use super::{Label, NodeKey, TrustError};
use crate::id::{NetworkId, NodeId};

/// The deepest certificate; the founder's is at depth 0 (rule TRUST-5).
pub const MAX_DEPTH: u32 = 32;
/// The longest content of an invitation or a certificate, in bytes; both take well under half of it.
pub const MAX_CERTIFICATE: usize = 2048;

/// A new network: its name, and the certificate of its first member.
#[derive(Clone, PartialEq, Debug)]
pub struct Founding {
    /// The network's public key. The secret half is gone already (rule TRUST-1).
    pub network: NetworkId,
    /// The founder's, at depth 0; a chain of one.
    pub certificate: hop::Signed,
}

/// Founds a network with `founder` as its first member. Its key signs one certificate and is dropped (rule TRUST-1).
pub fn found(rng: &mut impl CryptoRng, founder: NodeId, now_ms: u64) -> Founding {
    let key = NodeKey::draw(rng);
    let network = NetworkId(key.id().0);
    let content = hop::CertificateContent {
        subject: Bytes::copy_from_slice(&founder.0),
        issuer: Bytes::copy_from_slice(&network.0),
        admitted_ms: now_ms,
        depth: 0,
        network: Bytes::copy_from_slice(&network.0),
        ..Default::default()
    };
    Founding { network, certificate: sign_message(&key, Label::Certificate, network, &content) }
}

/// The readings by which a node decides whether its clock may date anything (rule TRUST-6). Unix milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdmissionClock {
    /// The wall clock.
    pub now_ms: u64,
    /// When this program was built.
    pub build_ms: u64,
    /// The highest wall time the node has ever stored.
    pub highest_stored_ms: u64,
}

impl AdmissionClock {
    /// Whether the clock is past everything it must be past: build, own certificate, highest stored time.
    fn is_past(&self, own_certificate_ms: u64) -> bool {
        self.now_ms >= self.build_ms.max(self.highest_stored_ms).max(own_certificate_ms)
    }
}

/// Encodes and signs a content of our own making. What others made is never encoded again (rule SIGN-2).
fn sign_message(key: &NodeKey, label: Label, network: NetworkId, content: &impl Message) -> hop::Signed {
    let content = Bytes::from(content.encode_to_vec());
    let signature = Bytes::copy_from_slice(&key.sign(label, network, &content));
    hop::Signed { content, signature }
}

/// What both join and consent sign: the invitation's hash, then the subject (rule TRUST-3).
fn acceptance(invitation_hash: &[u8; 32], subject: NodeId) -> Vec<u8> {
    [invitation_hash.as_slice(), &subject.0].concat()
}

/// 32 bytes that name a node, out of a signed content.
fn node_field(bytes: &[u8], noun: &'static str) -> Result<NodeId, TrustError> {
    NodeId::from_slice(bytes).ok_or(TrustError::Malformed(noun))
}

/// Decodes a signed content after looking at its size, and checks which network it speaks of.
fn decode_content<T: Message + Default>(
    network: NetworkId,
    noun: &'static str,
    signed: &hop::Signed,
    network_of: impl FnOnce(&T) -> &Bytes,
) -> Result<T, TrustError> {
    if signed.content.len() > MAX_CERTIFICATE {
        return Err(TrustError::TooLarge(noun));
    }
    let content = T::decode(signed.content.clone()).map_err(|_| TrustError::Malformed(noun))?;
    if network_of(&content) == network.0.as_slice() { Ok(content) } else { Err(TrustError::OtherNetwork(noun)) }
}
