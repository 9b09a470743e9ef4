//! An invitation as a checked value: who invites, with which key, and for how long. Admits nobody.

use waypost_proto::hop;

use super::{acceptance, decode_content, node_field};
use crate::id::{NetworkId, NodeId};
use crate::trust::{Label, TrustError, sign};

/// An invitation whose inviter signed it (rule TRUST-2). Whether the inviter is a member is another question.
#[derive(Clone, PartialEq, Debug)]
pub struct Invitation {
    /// The key whose holder may join.
    pub key: NodeId,
    /// Who invites.
    pub inviter: NodeId,
    /// Good for one subject, and to be honoured by the inviter alone (rule TRUST-7).
    pub once: bool,
    /// Unix milliseconds.
    pub issued_ms: u64,
    /// Unix milliseconds.
    pub expires_ms: u64,
    /// Names the invitation: BLAKE3 of its content as sent.
    pub hash: [u8; 32],
    network: NetworkId,
}

impl Invitation {
    /// Reads an invitation and checks the inviter's signature (rule TRUST-2).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(network: NetworkId, signed: &hop::Signed) -> Result<Self, TrustError> {
        const NOUN: &str = "invitation";
        let content = decode_content(network, NOUN, signed, |content: &hop::InvitationContent| &content.network)?;
        let invitation = Self {
            key: node_field(&content.invitation_key, NOUN)?,
            inviter: node_field(&content.inviter, NOUN)?,
            once: content.once,
            issued_ms: content.issued_ms,
            expires_ms: content.expires_ms,
            hash: invitation_hash(signed),
            network,
        };
        if invitation.issued_ms > invitation.expires_ms {
            return Err(TrustError::Malformed(NOUN));
        }
        sign::verify(Label::Invitation, network, invitation.inviter, &signed.content, &signed.signature)?;
        Ok(invitation)
    }

    /// Checks that the invitation's holder and `subject` itself both signed for `subject` to join (rule TRUST-3).
    pub(super) fn check_acceptance(&self, subject: NodeId, join: &[u8], consent: &[u8]) -> Result<(), TrustError> {
        let accepted = acceptance(&self.hash, subject);
        sign::verify(Label::Join, self.network, self.key, &accepted, join)?;
        sign::verify(Label::Consent, self.network, subject, &accepted, consent)
    }

    /// Whether `admitted_ms` lies in its time, both ends included (rule TRUST-4).
    #[must_use]
    pub fn covers(&self, admitted_ms: u64) -> bool {
        (self.issued_ms..=self.expires_ms).contains(&admitted_ms)
    }
}

/// What names an invitation: BLAKE3 of its content as sent, whichever signature it comes with (rule TRUST-3).
#[must_use]
pub fn invitation_hash(signed: &hop::Signed) -> [u8; 32] {
    *blake3::hash(&signed.content).as_bytes()
}
