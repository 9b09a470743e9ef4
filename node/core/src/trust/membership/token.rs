//! An invitation as a line of text that a person carries to a new host (rule TRUST-9). Whoever reads it can use it.

use std::fmt;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost::Message;
use waypost_proto::hop;
use zeroize::Zeroizing;

use super::chain::{Member, verify_chain};
use super::invitation::Invitation;
use super::{AdmissionClock, AdmitError, acceptance, sign_message};
use crate::id::{NetworkId, NodeId};
use crate::trust::{Label, NodeKey, TrustError};

/// What every token begins with.
const PREFIX: &str = "waypost1";
/// Characters of a token, at most; a chain of the greatest depth fits.
const MAX_TEXT: usize = 64 * 1024;
/// Length of content (4) and checksum (4) before the content.
const FRONT: usize = 8;
/// Addresses in a token, at most.
pub const MAX_ADDRESSES: usize = 8;
/// Bytes of an address, at most.
const MAX_ADDRESS: usize = 256;

/// Base64 for URLs without padding. Stray bits at the end are let pass, so that a cut token is told as cut.
const TEXT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Why a text is not a token that could be used. For the person who typed `waypost join`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Does not begin like one.
    #[error("this is not an invitation token: one begins with {PREFIX}")]
    NotAToken,
    /// The end is missing.
    #[error("the token is cut off: copy the whole line")]
    Truncated,
    /// Some characters were changed, or there are too many.
    #[error("the token is damaged: copy it again")]
    Damaged,
    /// Copied well, but not a token that a member issued.
    #[error("the token is not a valid invitation: {0}")]
    Invalid(#[from] TrustError),
}

/// What an inviter decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Good for one node only (rule TRUST-7).
    pub once: bool,
    /// How long it can be used, in milliseconds.
    pub lifetime_ms: u64,
}

/// An invitation with the secret that uses it, the inviter's certificates, and where to find members.
#[derive(Clone)]
pub struct Token {
    network: NetworkId,
    invitation: Invitation,
    signed: hop::Signed,
    secret: NodeKey,
    chain: Vec<hop::Signed>,
    addresses: Vec<String>,
}

impl Token {
    /// Invites as `inviter`, whose key `key` is (rule TRUST-2). `secret` is drawn for this invitation alone.
    ///
    /// Addresses beyond [`MAX_ADDRESSES`], and ones over 256 bytes, are left out.
    ///
    /// # Errors
    /// [`AdmitError::ClockBehind`], or [`AdmitError::NotTheIssuer`] when `key` is not the inviter's.
    pub fn issue(
        key: &NodeKey,
        inviter: &Member,
        terms: Terms,
        clock: AdmissionClock,
        secret: NodeKey,
        addresses: &[String],
    ) -> Result<Self, AdmitError> {
        if key.id() != inviter.id() {
            return Err(AdmitError::NotTheIssuer);
        }
        if !clock.is_past(inviter.admitted_ms()) {
            return Err(AdmitError::ClockBehind);
        }
        let network = inviter.network();
        let content = hop::InvitationContent {
            network: Bytes::copy_from_slice(&network.0),
            invitation_key: Bytes::copy_from_slice(&secret.id().0),
            inviter: Bytes::copy_from_slice(&inviter.id().0),
            once: terms.once,
            issued_ms: clock.now_ms,
            expires_ms: clock.now_ms.saturating_add(terms.lifetime_ms),
        };
        let signed = sign_message(key, Label::Invitation, network, &content);
        let invitation = Invitation::verify(network, &signed)?;
        let fitting = addresses.iter().filter(|address| address.len() <= MAX_ADDRESS).take(MAX_ADDRESSES);
        Ok(Self { network, invitation, signed, secret, chain: inviter.chain(), addresses: fitting.cloned().collect() })
    }

    /// The token as one line of text. It is a secret.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let message = hop::Token {
            invitation: Some(self.signed.clone()),
            secret: Bytes::copy_from_slice(self.secret.seed().as_ref()),
            chain: self.chain.clone(),
            addresses: self.addresses.clone(),
        };
        let content = Zeroizing::new(message.encode_to_vec());
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let framed = Zeroizing::new([&length.to_be_bytes(), &checksum(&content)[..], &content].concat());
        Zeroizing::new(format!("{PREFIX}{}", TEXT.encode(&framed)))
    }

    /// Reads a token, also one that was wrapped over several lines, and checks all that it holds (rule TRUST-9).
    ///
    /// # Errors
    /// What to tell the person who gave it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT {
            return Err(if text.trim_start().starts_with(PREFIX) {
                TokenError::Damaged
            } else {
                TokenError::NotAToken
            });
        }
        let line: Zeroizing<String> = Zeroizing::new(text.split_ascii_whitespace().collect());
        let text = line.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let framed = Zeroizing::new(decode_text(text)?);
        let content = unframe(&framed)?;
        let message = hop::Token::decode(content).map_err(|_| TokenError::Damaged)?;
        Ok(Self::from_message(message)?)
    }

    fn from_message(message: hop::Token) -> Result<Self, TrustError> {
        const NOUN: &str = "token";
        let signed = message.invitation.ok_or(TrustError::Malformed(NOUN))?;
        let named = hop::InvitationContent::decode(signed.content.clone()).map_err(|_| TrustError::Malformed(NOUN))?;
        let network = NetworkId(named.network[..].try_into().map_err(|_| TrustError::Malformed(NOUN))?);
        let invitation = Invitation::verify(network, &signed)?;
        let seed: Zeroizing<[u8; 32]> =
            Zeroizing::new(message.secret[..].try_into().map_err(|_| TrustError::Malformed(NOUN))?);
        let secret = NodeKey::from_seed(&seed);
        let addresses = message.addresses;
        let fits = addresses.len() <= MAX_ADDRESSES && addresses.iter().all(|address| address.len() <= MAX_ADDRESS);
        if secret.id() != invitation.key || !fits {
            return Err(TrustError::Malformed(NOUN));
        }
        verify_chain(network, invitation.inviter, &message.chain)?;
        Ok(Self { network, invitation, signed, secret, chain: message.chain, addresses })
    }

    /// What a new node sends to the first member it meets (rule TRUST-3). `subject` is the node's own key.
    #[must_use]
    pub fn join(&self, subject: &NodeKey) -> hop::Join {
        let accepted = acceptance(&self.invitation.hash, subject.id());
        let signed = |key: &NodeKey, label| Bytes::copy_from_slice(&key.sign(label, self.network, &accepted));
        hop::Join {
            invitation: Some(self.signed.clone()),
            join: signed(&self.secret, Label::Join),
            consent: signed(subject, Label::Consent),
            chain: self.chain.clone(),
        }
    }

    /// The network it leads to.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// Who invites.
    #[must_use]
    pub fn inviter(&self) -> NodeId {
        self.invitation.inviter
    }

    /// What was signed.
    #[must_use]
    pub fn invitation(&self) -> &Invitation {
        &self.invitation
    }

    /// The inviter's certificates, its own first: what its roster can begin with.
    #[must_use]
    pub fn chain(&self) -> &[hop::Signed] {
        &self.chain
    }

    /// Multiaddrs of members to dial, unread.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Whether honest members refuse it at this wall time, in unix milliseconds.
    #[must_use]
    pub fn expired_at(&self, wall_ms: u64) -> bool {
        wall_ms >= self.invitation.expires_ms
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?} by {:?}, secret not shown)", self.network, self.inviter())
    }
}

fn checksum(content: &[u8]) -> [u8; 4] {
    let hash = *blake3::Hasher::new_derive_key("waypost/token/1").update(content).finalize().as_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Four characters are three bytes; one left over is where the text was cut.
fn decode_text(text: &str) -> Result<Vec<u8>, TokenError> {
    let whole = if text.len() % 4 == 1 { text.get(..text.len() - 1) } else { Some(text) };
    TEXT.decode(whole.ok_or(TokenError::Damaged)?).map_err(|_| TokenError::Damaged)
}

fn unframe(framed: &[u8]) -> Result<&[u8], TokenError> {
    let (front, content) = framed.split_first_chunk::<FRONT>().ok_or(TokenError::Truncated)?;
    let [l0, l1, l2, l3, sum @ ..] = *front;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if content.len() < length {
        return Err(if length > MAX_TEXT { TokenError::Damaged } else { TokenError::Truncated });
    }
    if content.len() > length || checksum(content) != sum { Err(TokenError::Damaged) } else { Ok(content) }
}
