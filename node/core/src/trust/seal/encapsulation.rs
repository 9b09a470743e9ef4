//! One X25519 exchange that serves many envelopes: drawn and stored by the source, recovered at the destination.

use std::fmt;

use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable, setup_receiver, setup_sender_with_rng};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::SUITE;
use crate::id::{NetworkId, NodeId};
use crate::trust::{NodeKey, TrustError, VerifyKey};

/// What seals a flow's bodies (rule SEAL-3). The source stores both halves, so sealing again draws nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Encapsulation {
    /// The public half; every envelope's header carries it.
    pub encapsulated: [u8; 32],
    /// The secret that both ends derive all keys from.
    pub root: Zeroizing<[u8; 32]>,
}

impl Encapsulation {
    /// After this many numbers a flow draws a new one (rule SEAL-3).
    pub const MAX_NUMBERS: u64 = 65_536;
    /// At this age, in milliseconds, a flow draws a new one (rule SEAL-3).
    pub const MAX_AGE_MS: u64 = 60 * 60 * 1000;

    /// Draws a new one for mail from `source` to `destination`; known only to whoever holds either end's secrets.
    ///
    /// # Errors
    /// [`TrustError::BadKey`] when the destination's address is no usable key.
    pub fn draw(
        rng: &mut impl CryptoRng,
        network: NetworkId,
        source: NodeId,
        destination: NodeId,
    ) -> Result<Self, TrustError> {
        let bad = |_: HpkeError| TrustError::BadKey(destination);
        let recipient = VerifyKey::parse(destination)?.agreement_key();
        let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&recipient).map_err(bad)?;
        let info = exchange_info(network, source, destination);
        let (encapsulated, context) = setup_sender_with_rng::<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &recipient,
            &info,
            rng,
        )
        .map_err(bad)?;
        let root = exported(|context_name, root| context.export(context_name, root)).map_err(bad)?;
        Ok(Self { encapsulated: encapsulated.to_bytes().into(), root })
    }

    /// Recovers the root at the destination, whose key `key` is.
    ///
    /// # Errors
    /// [`TrustError::Malformed`] when `encapsulated` is of low order.
    pub fn recover(
        key: &NodeKey,
        network: NetworkId,
        source: NodeId,
        encapsulated: [u8; 32],
    ) -> Result<Self, TrustError> {
        let bad = |_: HpkeError| TrustError::Malformed("encapsulated key");
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(key.agreement_secret().as_ref()).map_err(bad)?;
        let public = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&encapsulated).map_err(bad)?;
        let info = exchange_info(network, source, key.id());
        let context =
            setup_receiver::<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>(&OpModeR::Base, &secret, &public, &info)
                .map_err(bad)?;
        let root = exported(|context_name, root| context.export(context_name, root)).map_err(bad)?;
        Ok(Self { encapsulated, root })
    }

    /// Whether the flow must draw a new one before it seals more (rule SEAL-3).
    #[must_use]
    pub fn is_worn(age_ms: u64, numbers: u64) -> bool {
        age_ms >= Self::MAX_AGE_MS || numbers >= Self::MAX_NUMBERS
    }
}

impl fmt::Debug for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encapsulation({}, root not shown)", blake3::Hash::from_bytes(self.encapsulated))
    }
}

/// The info of rule SEAL-3: domain, network, suite, source, destination.
fn exchange_info(network: NetworkId, source: NodeId, destination: NodeId) -> Vec<u8> {
    let parts: [&[u8]; 5] = [b"waypost/hpke/1", &network.0, &[SUITE], &source.0, &destination.0];
    parts.concat()
}

fn exported(export: impl FnOnce(&[u8], &mut [u8]) -> Result<(), HpkeError>) -> Result<Zeroizing<[u8; 32]>, HpkeError> {
    let mut root = Zeroizing::new([0; 32]);
    export(b"waypost/flow/1", root.as_mut())?;
    Ok(root)
}
