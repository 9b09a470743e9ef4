//! What a signature is over, and the one place that verifies signatures. Decides nothing about who may sign what.

use ed25519_dalek::Signature;

use super::{TrustError, VerifyKey};
use crate::id::{NetworkId, NodeId};

/// What a signature says that the signed bytes are (rule SIGN-3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Label {
    /// A sealed envelope, by its source.
    Envelope,
    /// The source's word about a flow.
    Word,
    /// The destination's receipt for a flow.
    Receipt,
    /// A node's record about itself.
    Fact,
    /// An invitation, by the inviter.
    Invitation,
    /// Proof that the joiner holds the invitation's secret, by the invitation key.
    Join,
    /// The joiner's agreement to join, by its own key.
    Consent,
    /// A certificate of membership, by its issuer.
    Certificate,
    /// The answer to a challenge that tells twins apart.
    Twin,
    /// A question about a message, by source or destination.
    Query,
}

impl Label {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Envelope,
        Self::Word,
        Self::Receipt,
        Self::Fact,
        Self::Invitation,
        Self::Join,
        Self::Consent,
        Self::Certificate,
        Self::Twin,
        Self::Query,
    ];

    /// The bytes that open what is signed (rule SIGN-3).
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "waypost/envelope/1",
            Self::Word => "waypost/word/1",
            Self::Receipt => "waypost/receipt/1",
            Self::Fact => "waypost/fact/1",
            Self::Invitation => "waypost/invitation/1",
            Self::Join => "waypost/join/1",
            Self::Consent => "waypost/consent/1",
            Self::Certificate => "waypost/certificate/1",
            Self::Twin => "waypost/twin/1",
            Self::Query => "waypost/query/1",
        }
    }

    /// Its word for people: the middle part of the label.
    #[must_use]
    pub fn noun(self) -> &'static str {
        self.as_str().split('/').nth(1).unwrap_or_default()
    }
}

/// What is signed: the label, a zero byte, the network, then `parts` one after the other (rule SIGN-1).
#[must_use]
pub fn signed_bytes(label: Label, network: NetworkId, parts: &[&[u8]]) -> Vec<u8> {
    let opening: [&[u8]; 3] = [label.as_str().as_bytes(), &[0], &network.0];
    [opening.as_slice(), parts].concat().concat()
}

/// Checks that `signature` is `signer`'s over `bytes` in `network` (rules SIGN-1 and SIGN-4).
///
/// Parses the signer's key each time; who verifies often keeps a [`VerifyKey`].
///
/// # Errors
/// [`TrustError::BadKey`] or [`TrustError::BadSignature`].
pub fn verify(
    label: Label,
    network: NetworkId,
    signer: NodeId,
    bytes: &[u8],
    signature: &[u8],
) -> Result<(), TrustError> {
    VerifyKey::parse(signer)?.verify(label, network, bytes, signature)
}

impl VerifyKey {
    /// Checks that `signature` is this key's over `bytes` in `network` (rules SIGN-1 and SIGN-4).
    ///
    /// # Errors
    /// [`TrustError::BadSignature`], also for a signature that is not 64 bytes long.
    pub fn verify(&self, label: Label, network: NetworkId, bytes: &[u8], signature: &[u8]) -> Result<(), TrustError> {
        let bad = || TrustError::BadSignature { label, signer: self.id() };
        let signature = Signature::from_slice(signature).map_err(|_| bad())?;
        let message = signed_bytes(label, network, &[bytes]);
        self.as_dalek().verify_strict(&message, &signature).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::NodeKey;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    /// SIGN-3: a label is never the beginning of another, reserved ones included.
    #[test]
    fn no_label_is_a_prefix_of_another() {
        let reserved = ["waypost/prekey/1", "waypost/revocation/1"];
        let all: Vec<&str> = Label::ALL.iter().map(|label| label.as_str()).chain(reserved).collect();
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert!(i == j || !other.starts_with(one), "{one} opens {other}");
            }
        }
    }

    /// SIGN-1: label, zero byte, network, bytes.
    #[test]
    fn the_signed_bytes_are_laid_out_as_written() {
        let bytes = signed_bytes(Label::Word, NetworkId([9; 32]), &[b"ab", b"c"]);
        assert_eq!(bytes, [b"waypost/word/1\0".as_slice(), &[9; 32], b"abc"].concat());
    }

    /// SIGN-1, SIGN-3: a signature means nothing under another label, network, signer or content.
    #[test]
    fn a_signature_holds_only_where_it_was_made() {
        let key = NodeKey::from_seed(&[1; 32]);
        let other = NodeKey::from_seed(&[2; 32]).id();
        for label in Label::ALL {
            let signature = key.sign(label, NETWORK, b"content");
            assert_eq!(verify(label, NETWORK, key.id(), b"content", &signature), Ok(()));
            let bad = |signer| Err(TrustError::BadSignature { label, signer });
            assert_eq!(verify(label, NetworkId([8; 32]), key.id(), b"content", &signature), bad(key.id()));
            assert_eq!(verify(label, NETWORK, key.id(), b"contenT", &signature), bad(key.id()));
            assert_eq!(verify(label, NETWORK, other, b"content", &signature), bad(other));
            assert_eq!(verify(label, NETWORK, key.id(), b"content", &signature[..63]), bad(key.id()));
            for under in Label::ALL.into_iter().filter(|under| *under != label) {
                assert!(verify(under, NETWORK, key.id(), b"content", &signature).is_err());
            }
        }
    }
}
