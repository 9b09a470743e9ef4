//! Who may be believed: keys, signatures, seals and membership (PROTOCOL.md, sections Signatures, Seal, Membership).
//!
//! Everything here is a pure function of what is handed in: no clock, no storage, no randomness of its own. What has
//! been checked is a type that cannot be made otherwise: [`VerifiedEnvelope`], [`Verified`], [`Member`].

pub mod hash;
pub mod keys;
pub mod membership;
pub mod proofs;
pub mod seal;
pub mod sign;
pub mod twin;
pub mod verified;

pub use keys::{NodeKey, VerifyKey};
pub use membership::{
    Admissible, Admission, AdmissionClock, AdmitError, Founding, Invitation, Member, Roster, Terms, Token, TokenError,
    examine, found, verify_chain,
};
pub use proofs::Proofs;
pub use seal::{Encapsulation, OpenError, Roots, SealError, VerifiedEnvelope};
pub use sign::{Label, signed_bytes};
pub use verified::{Statement, Verified};

use crate::envelope::HeaderError;
use crate::id::NodeId;

/// Why something that arrived is not believed. Whoever sent it is to blame; trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// 32 bytes that are no key worth verifying with (rule SIGN-4).
    #[error("{0} is not a usable Ed25519 key")]
    BadKey(NodeId),
    /// The signature is not by this key over these bytes in this network.
    #[error("the {} signature is not by {signer} in this network", label.noun())]
    BadSignature {
        /// What was signed.
        label: Label,
        /// Who should have signed it.
        signer: NodeId,
    },
    /// The header of an envelope breaks a bound.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A sealed body shorter than its tag or longer than allowed.
    #[error("a sealed body of {0} bytes is outside the allowed sizes")]
    SealedSize(usize),
    /// Not of the shape the rules give it; names the part.
    #[error("the {0} is malformed")]
    Malformed(&'static str),
    /// Longer than the rules allow; names the part.
    #[error("the {0} is too large")]
    TooLarge(&'static str),
    /// It speaks of another network.
    #[error("the {0} belongs to another network")]
    OtherNetwork(&'static str),
    /// No certificates were given and none are known.
    #[error("{0} has shown no certificate of this network")]
    NotAMember(NodeId),
    /// The nearest certificate of a chain is somebody else's.
    #[error("the certificate is for {found}, not for {wanted}")]
    OtherSubject {
        /// Whose certificate was asked for.
        wanted: NodeId,
        /// Whose it is.
        found: NodeId,
    },
    /// Issuer and next certificate of a chain do not fit together.
    #[error("the certificate of {0} was not issued by the member named above it")]
    BrokenChain(NodeId),
    /// A depth that is not the issuer's and one more, or over the limit.
    #[error("the certificate of {0} is at a depth that the chain does not allow")]
    Depth(NodeId),
    /// Admitted before the invitation was issued or after it expired.
    #[error("{0} was not admitted in the time of the invitation")]
    OutOfTime(NodeId),
    /// A single-use invitation was honoured by another member than the inviter.
    #[error("{0} was admitted on a single-use invitation by another member than the inviter")]
    OnceElsewhere(NodeId),
    /// No room for another member.
    #[error("this node knows as many members as it can hold")]
    RosterFull,
}
