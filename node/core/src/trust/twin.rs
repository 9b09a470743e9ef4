//! The answer that tells twins apart: a node's signature over a challenge. Pure; who is asked, and what follows, is the
//! engine's (rules TWIN-1, TWIN-2).

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::hop;

use super::{Label, NodeKey, TrustError, VerifyKey};
use crate::id::{NetworkId, NodeId};

/// What is signed: drawn by one process, to be signed by another of the same key, if there is one.
pub type Challenge = [u8; 32];

/// Signs a challenge that `challenger` passed on; `nonce` is this process's (rule TWIN-1).
#[must_use]
pub fn sign(key: &NodeKey, network: NetworkId, challenge: Challenge, challenger: NodeId, nonce: u64) -> hop::Signed {
    let content = hop::TwinContent {
        node: Bytes::copy_from_slice(&key.id().0),
        challenge: Bytes::copy_from_slice(&challenge),
        challenger: Bytes::copy_from_slice(&challenger.0),
        nonce,
    };
    let content = Bytes::from(content.encode_to_vec());
    let signature = Bytes::copy_from_slice(&key.sign(Label::Twin, network, &content));
    hop::Signed { content, signature }
}

/// The challenge that `node` signed (rule TWIN-1).
///
/// # Errors
/// It is malformed, another node's, or the signature is not that node's in this network.
pub fn verify(network: NetworkId, node: NodeId, signed: &hop::Signed) -> Result<Challenge, TrustError> {
    let (content, challenge) = read(signed).ok_or(TrustError::Malformed(Label::Twin.noun()))?;
    if content.node != node.0.as_slice() {
        return Err(TrustError::BadSignature { label: Label::Twin, signer: node });
    }
    VerifyKey::parse(node)?.verify(Label::Twin, network, &signed.content, &signed.signature)?;
    Ok(challenge)
}

/// The challenge it speaks of; nothing is verified.
#[must_use]
pub fn challenge_of(signed: &hop::Signed) -> Option<Challenge> {
    read(signed).map(|(_, challenge)| challenge)
}

fn read(signed: &hop::Signed) -> Option<(hop::TwinContent, Challenge)> {
    let content = hop::TwinContent::decode(signed.content.clone()).ok()?;
    let challenge = content.challenge.as_ref().try_into().ok()?;
    Some((content, challenge))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    /// TWIN-1: only the node's own signature over the challenge, in this network, is one.
    #[test]
    fn a_twin_signature_is_checked() {
        let (key, other) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let signed = sign(&key, NETWORK, [5; 32], other.id(), 9);
        assert_eq!(verify(NETWORK, key.id(), &signed), Ok([5; 32]));
        assert_eq!(challenge_of(&signed), Some([5; 32]));
        assert!(verify(NetworkId([8; 32]), key.id(), &signed).is_err());
        assert!(verify(NETWORK, other.id(), &signed).is_err());
        let forged = hop::Signed { signature: sign(&other, NETWORK, [5; 32], key.id(), 9).signature, ..signed };
        assert!(verify(NETWORK, key.id(), &forged).is_err());
        let word = key.sign(Label::Word, NETWORK, &forged.content);
        let relabelled = hop::Signed { signature: Bytes::copy_from_slice(&word), ..forged };
        assert!(verify(NETWORK, key.id(), &relabelled).is_err());
    }
}
