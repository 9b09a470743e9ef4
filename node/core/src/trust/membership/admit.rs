//! Admission by a member: everything it must check before it signs a certificate. Remembers nothing itself.

use bytes::Bytes;
use waypost_proto::hop;

use super::chain::{Certificate, Member};
use super::invitation::Invitation;
use super::roster::Roster;
use super::{AdmissionClock, MAX_DEPTH, sign_message, verify_chain};
use crate::id::NodeId;
use crate::trust::{Label, NodeKey, TrustError};

/// Why a member does not admit a node. The texts reach the person who joins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The issuer's clock cannot be right (rule TRUST-6).
    #[error("this member's clock is not to be trusted; ask another member")]
    ClockBehind,
    /// By the issuer's clock the invitation is still to be issued (rule TRUST-6).
    #[error("by this member's clock the invitation was not issued yet; ask another member")]
    NotYetIssued,
    /// By the issuer's clock it is over (rule TRUST-6).
    #[error("the invitation has expired; ask for a new one")]
    Expired,
    /// A single-use invitation, and this is not the inviter (rule TRUST-7).
    #[error("the invitation is for one use; only {0}, who issued it, can honour it")]
    OnceElsewhere(NodeId),
    /// A single-use invitation that has admitted another node (rule TRUST-7).
    #[error("the invitation was for one use and has been used")]
    Used,
    /// The inviter has not shown to be a member (rule TRUST-5).
    #[error("{0}, who issued the invitation, is not known here as a member; ask another member")]
    InviterUnknown(NodeId),
    /// The issuer is at the last depth (rule TRUST-5).
    #[error("this member is too far from the founder to admit anyone; ask another member")]
    TooDeep,
    /// The key is not the issuer's: a mistake of the caller.
    #[error("the certificate would not be signed by its issuer")]
    NotTheIssuer,
    /// A signature or a shape is wrong.
    #[error(transparent)]
    Untrusted(#[from] TrustError),
}

impl AdmitError {
    /// Whether another member may well admit the same node on the same invitation.
    #[must_use]
    pub fn ask_another(&self) -> bool {
        !matches!(self, Self::Expired | Self::Used | Self::Untrusted(_))
    }
}

/// A join that holds in every respect but one: whether a single-use invitation was used before.
#[derive(Debug)]
#[must_use]
pub struct Admissible {
    issuer: Member,
    invitation: Invitation,
    subject: NodeId,
    content: hop::CertificateContent,
}

/// A certificate, ready to be sent once the use of its invitation is in the synced log.
#[derive(Clone, PartialEq, Debug)]
pub struct Admission {
    /// The new member's certificate and its issuers': what `Admitted` carries.
    pub chain: Vec<hop::Signed>,
    /// The new member.
    pub subject: NodeId,
    /// With `once`, the pair (this, `subject`) must be synced before the chain leaves (rule TRUST-7).
    pub invitation_hash: [u8; 32],
    /// Whether the invitation was for one use.
    pub once: bool,
}

/// Checks a join of `subject`, as whom the peer is connected, to be admitted by `issuer`, which is this node (rules
/// TRUST-3 to TRUST-7).
///
/// # Errors
/// Why it is not admitted.
pub fn examine(
    issuer: &Member,
    roster: &Roster,
    join: &hop::Join,
    subject: NodeId,
    clock: AdmissionClock,
) -> Result<Admissible, AdmitError> {
    if issuer.depth() >= MAX_DEPTH {
        return Err(AdmitError::TooDeep);
    }
    let signed = join.invitation.as_ref().ok_or(TrustError::Malformed("join"))?;
    let invitation = Invitation::verify(issuer.network(), signed)?;
    check_clock(issuer, &invitation, clock)?;
    if invitation.once && invitation.inviter != issuer.id() {
        return Err(AdmitError::OnceElsewhere(invitation.inviter));
    }
    invitation.check_acceptance(subject, &join.join, &join.consent)?;
    check_inviter(issuer, roster, &invitation, &join.chain)?;
    let content = hop::CertificateContent {
        subject: Bytes::copy_from_slice(&subject.0),
        issuer: Bytes::copy_from_slice(&issuer.id().0),
        invitation: Some(signed.clone()),
        join: join.join.clone(),
        consent: join.consent.clone(),
        admitted_ms: clock.now_ms,
        depth: issuer.depth() + 1,
        network: Bytes::copy_from_slice(&issuer.network().0),
    };
    Ok(Admissible { issuer: issuer.clone(), invitation, subject, content })
}

/// Rule TRUST-6.
fn check_clock(issuer: &Member, invitation: &Invitation, clock: AdmissionClock) -> Result<(), AdmitError> {
    if !clock.is_past(issuer.admitted_ms()) {
        Err(AdmitError::ClockBehind)
    } else if clock.now_ms < invitation.issued_ms {
        Err(AdmitError::NotYetIssued)
    } else if clock.now_ms >= invitation.expires_ms {
        Err(AdmitError::Expired)
    } else {
        Ok(())
    }
}

/// The inviter is this node, known, or shown by the chain that came with the join (rule TRUST-5).
fn check_inviter(
    issuer: &Member,
    roster: &Roster,
    invitation: &Invitation,
    chain: &[hop::Signed],
) -> Result<(), AdmitError> {
    let inviter = invitation.inviter;
    let known = inviter == issuer.id() || (roster.network() == issuer.network() && roster.is_member(&inviter));
    if known || verify_chain(issuer.network(), inviter, chain).is_ok() {
        Ok(())
    } else {
        Err(AdmitError::InviterUnknown(inviter))
    }
}

impl Admissible {
    /// What names the invitation: the key under which its use is stored.
    #[must_use]
    pub fn invitation_hash(&self) -> [u8; 32] {
        self.invitation.hash
    }

    /// Whether its use must be stored at all.
    #[must_use]
    pub fn once(&self) -> bool {
        self.invitation.once
    }

    /// Signs the certificate. `used_by` is the subject stored for this invitation, if any (rule TRUST-7).
    ///
    /// # Errors
    /// [`AdmitError::Used`], or [`AdmitError::NotTheIssuer`] when `key` is not the issuer's.
    pub fn certify(self, key: &NodeKey, used_by: Option<NodeId>) -> Result<Admission, AdmitError> {
        if key.id() != self.issuer.id() {
            return Err(AdmitError::NotTheIssuer);
        }
        let used_by_another = used_by.is_some_and(|other| other != self.subject);
        if self.invitation.once && used_by_another {
            return Err(AdmitError::Used);
        }
        let certificate = sign_message(key, Label::Certificate, self.issuer.network(), &self.content);
        let mut chain = vec![certificate];
        chain.extend(self.issuer.chain());
        let Invitation { hash, once, .. } = self.invitation;
        Ok(Admission { chain, subject: self.subject, invitation_hash: hash, once })
    }
}

/// A shorter chain for `member`, when `issuer`, whose key `key` is, can give one (rule TRUST-8).
///
/// The new certificate dates the admission as the old one did: it admits nobody, so no clock is asked.
#[must_use]
pub fn reissue(key: &NodeKey, issuer: &Member, member: &Member) -> Option<Vec<hop::Signed>> {
    let shorter = issuer.depth() + 1 < member.depth();
    if !shorter || key.id() != issuer.id() || issuer.network() != member.network() {
        return None;
    }
    let network = issuer.network();
    let old = Certificate::read(network, member.certificate()).ok()?.content;
    let invitation = Invitation::verify(network, old.invitation.as_ref()?).ok()?;
    if invitation.once && invitation.inviter != issuer.id() {
        return None;
    }
    let own_id = Bytes::copy_from_slice(&issuer.id().0);
    let content = hop::CertificateContent { issuer: own_id, depth: issuer.depth() + 1, ..old };
    let mut chain = vec![sign_message(key, Label::Certificate, network, &content)];
    chain.extend(issuer.chain());
    Some(chain)
}
