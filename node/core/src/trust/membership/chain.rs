//! Certificates checked from the network's key down to one member (rules TRUST-4 and TRUST-5). Issues none.

use std::fmt;
use std::sync::Arc;

use waypost_proto::hop;

use super::invitation::Invitation;
use super::{MAX_DEPTH, decode_content, node_field};
use crate::id::{NetworkId, NodeId};
use crate::trust::{Label, TrustError, VerifyKey};

/// A node whose certificates were checked, with them. Cheap to clone; issuers are shared.
#[derive(Clone)]
pub struct Member(Arc<Link>);

struct Link {
    network: NetworkId,
    key: VerifyKey,
    certificate: hop::Signed,
    admitted_ms: u64,
    depth: u32,
    issuer: Option<Member>,
}

impl Member {
    /// The member's address.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.key.id()
    }

    /// The member's key, parsed.
    #[must_use]
    pub fn key(&self) -> &VerifyKey {
        &self.0.key
    }

    /// The network it is a member of.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.0.network
    }

    /// Its own certificate, as it came.
    #[must_use]
    pub fn certificate(&self) -> &hop::Signed {
        &self.0.certificate
    }

    /// Steps from the founder, who is at 0.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.0.depth
    }

    /// When it was admitted, by its issuer's clock, in unix milliseconds.
    #[must_use]
    pub fn admitted_ms(&self) -> u64 {
        self.0.admitted_ms
    }

    /// The member that issued its certificate; `None` for a founder.
    #[must_use]
    pub fn issuer(&self) -> Option<&Self> {
        self.0.issuer.as_ref()
    }

    /// The member and its issuers, the founder last.
    pub fn lineage(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |member| member.issuer())
    }

    /// Its certificates as a chain to send: its own first, the founder's last.
    #[must_use]
    pub fn chain(&self) -> Vec<hop::Signed> {
        self.lineage().map(|member| member.certificate().clone()).collect()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({:?} at depth {})", self.id(), self.depth())
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        self.network() == other.network()
            && self.lineage().map(Self::certificate).eq(other.lineage().map(Self::certificate))
    }
}

/// Checks a whole chain, `subject`'s certificate first and a founder's last (rules TRUST-4 and TRUST-5).
///
/// # Errors
/// Which rule is broken, and by whose certificate.
pub fn verify_chain(network: NetworkId, subject: NodeId, chain: &[hop::Signed]) -> Result<Member, TrustError> {
    verify_chain_knowing(network, subject, chain, |_| None)
}

/// As [`verify_chain`], beginning below the nearest certificate that `known` has as a member's already.
pub(super) fn verify_chain_knowing(
    network: NetworkId,
    subject: NodeId,
    chain: &[hop::Signed],
    known: impl Fn(&Certificate<'_>) -> Option<Member>,
) -> Result<Member, TrustError> {
    if chain.len() > MAX_DEPTH as usize + 1 {
        return Err(TrustError::TooLarge("chain of certificates"));
    }
    let mut unknown = Vec::with_capacity(chain.len());
    let mut above = None;
    for signed in chain {
        let certificate = Certificate::read(network, signed)?;
        above = known(&certificate);
        if above.is_some() {
            break;
        }
        unknown.push(certificate);
    }
    while let Some(certificate) = unknown.pop() {
        above = Some(certificate.verify(above)?);
    }
    let member = above.ok_or(TrustError::NotAMember(subject))?;
    if member.id() == subject {
        Ok(member)
    } else {
        Err(TrustError::OtherSubject { wanted: subject, found: member.id() })
    }
}

/// A certificate that was read and not yet checked.
pub(super) struct Certificate<'a> {
    network: NetworkId,
    signed: &'a hop::Signed,
    pub(super) subject: NodeId,
    issuer: NodeId,
    pub(super) content: hop::CertificateContent,
}

impl<'a> Certificate<'a> {
    pub(super) fn read(network: NetworkId, signed: &'a hop::Signed) -> Result<Self, TrustError> {
        const NOUN: &str = "certificate";
        let content = decode_content(network, NOUN, signed, |content: &hop::CertificateContent| &content.network)?;
        let subject = node_field(&content.subject, NOUN)?;
        let issuer = node_field(&content.issuer, NOUN)?;
        Ok(Self { network, signed, subject, issuer, content })
    }

    pub(super) fn signed(&self) -> &hop::Signed {
        self.signed
    }

    /// Whether it is, to the byte, the one this member is known by.
    pub(super) fn is_of(&self, member: &Member) -> bool {
        member.certificate() == self.signed
    }

    /// Checks it under its issuer: a member, or without one the network itself (rules TRUST-1, TRUST-4, TRUST-5).
    fn verify(self, issuer: Option<Member>) -> Result<Member, TrustError> {
        let (issuer_id, issuer_key, depth) = match &issuer {
            None => (NodeId(self.network.0), VerifyKey::parse(NodeId(self.network.0))?, 0),
            Some(member) => (member.id(), *member.key(), member.depth() + 1),
        };
        if self.content.depth != depth || depth > MAX_DEPTH {
            return Err(TrustError::Depth(self.subject));
        }
        if self.issuer != issuer_id {
            return Err(TrustError::BrokenChain(self.subject));
        }
        match issuer {
            None => self.check_founding()?,
            Some(_) => self.check_admission()?,
        }
        issuer_key.verify(Label::Certificate, self.network, &self.signed.content, &self.signed.signature)?;
        Ok(Member(Arc::new(Link {
            network: self.network,
            key: VerifyKey::parse(self.subject)?,
            certificate: self.signed.clone(),
            admitted_ms: self.content.admitted_ms,
            depth,
            issuer,
        })))
    }

    /// A founder came without an invitation (rule TRUST-1).
    fn check_founding(&self) -> Result<(), TrustError> {
        let content = &self.content;
        if content.invitation.is_none() && content.join.is_empty() && content.consent.is_empty() {
            Ok(())
        } else {
            Err(TrustError::Malformed("founder's certificate"))
        }
    }

    /// Everybody else was invited, in time, and agreed (rules TRUST-3, TRUST-4, TRUST-7).
    fn check_admission(&self) -> Result<(), TrustError> {
        let content = &self.content;
        let invitation = content.invitation.as_ref().ok_or(TrustError::Malformed("certificate"))?;
        let invitation = Invitation::verify(self.network, invitation)?;
        if !invitation.covers(content.admitted_ms) {
            return Err(TrustError::OutOfTime(self.subject));
        }
        if invitation.once && invitation.inviter != self.issuer {
            return Err(TrustError::OnceElsewhere(self.subject));
        }
        invitation.check_acceptance(self.subject, &content.join, &content.consent)
    }
}
