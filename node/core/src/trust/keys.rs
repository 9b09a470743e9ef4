//! A node's secret key, and the strict reading of everybody else's public keys. Never shows a secret.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{Label, TrustError, signed_bytes};
use crate::id::{NetworkId, NodeId};

/// An Ed25519 key that signs: a node's, an invitation's, or a new network's. Wiped when dropped.
///
/// It signs only what [`Label`] names (rule SIGN-3).
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key of a stored seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// A new key.
    pub fn draw(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self::from_seed(&seed)
    }

    /// The node's address: the public half.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// The seed, to be stored where only the node can read it.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Signs `bytes` as what `label` says, in `network` (rule SIGN-1).
    #[must_use]
    pub fn sign(&self, label: Label, network: NetworkId, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(&signed_bytes(label, network, &[bytes])).to_bytes()
    }

    /// The X25519 secret that belongs to this key's [`VerifyKey::agreement_key`].
    pub(super) fn agreement_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:?}, secret not shown)", self.id())
    }
}

/// A public key that passed the strict reading (rule SIGN-4).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyKey(VerifyingKey);

impl VerifyKey {
    /// Reads an address as a key: on the curve, canonically encoded, not of small order, free of torsion (rule SIGN-4).
    ///
    /// # Errors
    /// [`TrustError::BadKey`].
    pub fn parse(node: NodeId) -> Result<Self, TrustError> {
        let key = VerifyingKey::from_bytes(&node.0).map_err(|_| TrustError::BadKey(node))?;
        let point = key.to_edwards();
        // All second spellings are of points with torsion; the rule does not lean on that.
        let canonical = point.compress().to_bytes() == node.0;
        if canonical && !point.is_small_order() && point.is_torsion_free() {
            Ok(Self(key))
        } else {
            Err(TrustError::BadKey(node))
        }
    }

    /// The address it was read from.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId(self.0.to_bytes())
    }

    /// The X25519 public key of the same secret: what envelopes are sealed to (rule SEAL-3).
    #[must_use]
    pub fn agreement_key(&self) -> [u8; 32] {
        self.0.to_montgomery().to_bytes()
    }

    pub(super) fn as_dalek(&self) -> &VerifyingKey {
        &self.0
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({:?})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::montgomery::MontgomeryPoint;

    use super::*;

    fn refused(bytes: [u8; 32]) -> bool {
        VerifyKey::parse(NodeId(bytes)) == Err(TrustError::BadKey(NodeId(bytes)))
    }

    /// SIGN-4: points of small order, and points with a part of small order, are no keys.
    #[test]
    fn keys_with_torsion_are_refused() {
        for torsion in EIGHT_TORSION {
            assert!(refused(torsion.compress().to_bytes()));
            let mixed = ED25519_BASEPOINT_POINT + torsion;
            let pure = torsion == EIGHT_TORSION[0];
            assert_eq!(refused(mixed.compress().to_bytes()), !pure);
        }
    }

    /// SIGN-4: a second spelling of a point, or bytes that are no point, are no keys.
    #[test]
    fn only_the_canonical_encoding_is_a_key() {
        let mut over_the_prime = [0xff; 32];
        over_the_prime[31] = 0x7f;
        for (low, sign) in (0xed..=0xff).flat_map(|low| [(low, 0x7f), (low, 0xff)]) {
            (over_the_prime[0], over_the_prime[31]) = (low, sign);
            assert!(refused(over_the_prime), "y = p + {}", low - 0xed);
        }
        let no_point = (0..=255u8).map(|byte| [byte; 32]).find(|bytes| VerifyingKey::from_bytes(bytes).is_err());
        assert!(refused(no_point.unwrap()));
    }

    /// SEAL-3: both halves of the converted key belong together.
    #[test]
    fn the_agreement_keys_match() {
        let key = NodeKey::from_seed(&[3; 32]);
        let public = VerifyKey::parse(key.id()).unwrap();
        assert_eq!(public.id(), key.id());
        assert_eq!(MontgomeryPoint::mul_base_clamped(*key.agreement_secret()).to_bytes(), public.agreement_key());
    }

    #[test]
    fn a_key_is_its_seed_and_never_shown() {
        let key = NodeKey::from_seed(&[0xab; 32]);
        assert_eq!(NodeKey::from_seed(&key.seed()).id(), key.id());
        assert!(!format!("{key:?}").contains("171, 171"));
    }
}
