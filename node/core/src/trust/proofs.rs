//! Signatures and certificates that held. A statement comes from several neighbours, and after a split from all of them
//! again: it is verified once (rules SIGN-6, TRUST-10).

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Mutex, PoisonError};

use waypost_proto::hop;

use super::{Label, Member, Roster, TrustError, VerifyKey};
use crate::id::NetworkId;

/// How many are remembered at least, of 32 bytes each; at most twice as many.
const REMEMBERED: usize = 8192;

/// What was verified last, by a hash of all that a signature depends on. A signature that did not hold is not remembered.
#[derive(Debug, Default)]
pub struct Proofs(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    young: BTreeSet<[u8; 32]>,
    old: BTreeSet<[u8; 32]>,
    members: BTreeMap<[u8; 32], Member>,
}

impl Proofs {
    /// As [`VerifyKey::verify`], but for what held before.
    ///
    /// # Errors
    /// [`TrustError::BadSignature`].
    pub fn verify(
        &self,
        key: &VerifyKey,
        (label, network): (Label, NetworkId),
        bytes: &[u8],
        signature: &[u8],
    ) -> Result<(), TrustError> {
        let name = name_of(key, (label, network), bytes, signature);
        if !self.lock(|known| known.has(&name)) {
            key.verify(label, network, bytes, signature)?;
            self.lock(|known| known.remember(name));
        }
        Ok(())
    }

    /// The member whose certificate this is, to the byte, if its chain was verified before.
    pub(super) fn member(&self, network: NetworkId, certificate: &hop::Signed) -> Option<Member> {
        let name = name_of_certificate(network, certificate);
        self.lock(|known| known.members.get(&name).cloned())
    }

    pub(super) fn remember(&self, member: &Member) {
        let name = name_of_certificate(member.network(), member.certificate());
        self.lock(|known| {
            if known.members.len() >= Roster::CAPACITY {
                known.members.clear();
            }
            known.members.insert(name, member.clone());
        });
    }

    fn lock<T>(&self, then: impl FnOnce(&mut Remembered) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Remembered {
    fn has(&self, name: &[u8; 32]) -> bool {
        self.young.contains(name) || self.old.contains(name)
    }

    fn remember(&mut self, name: [u8; 32]) {
        if self.young.len() >= REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(name);
    }
}

/// Every part has a fixed length but the last.
fn name_of(key: &VerifyKey, (label, network): (Label, NetworkId), bytes: &[u8], signature: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[label as u8]).update(&network.0).update(&key.id().0);
    hasher.update(&(signature.len() as u64).to_be_bytes()).update(signature).update(bytes);
    *hasher.finalize().as_bytes()
}

fn name_of_certificate(network: NetworkId, certificate: &hop::Signed) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&network.0).update(&(certificate.signature.len() as u64).to_be_bytes());
    hasher.update(&certificate.signature).update(&certificate.content);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::NodeKey;

    const PLACE: (Label, NetworkId) = (Label::Fact, NetworkId([7; 32]));

    /// SIGN-6: what held is believed again for the same bytes, label, network and signer, and for nothing else.
    #[test]
    fn only_the_same_is_believed_again() {
        let (key, other) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let (signer, stranger) = (VerifyKey::parse(key.id()).unwrap(), VerifyKey::parse(other.id()).unwrap());
        let signature = key.sign(PLACE.0, PLACE.1, b"said");
        let proofs = Proofs::default();
        for _ in 0..2 {
            assert!(proofs.verify(&signer, PLACE, b"said", &signature).is_ok());
            assert!(proofs.verify(&stranger, PLACE, b"said", &signature).is_err());
            assert!(proofs.verify(&signer, PLACE, b"says", &signature).is_err());
            assert!(proofs.verify(&signer, (Label::Word, PLACE.1), b"said", &signature).is_err());
            assert!(proofs.verify(&signer, (PLACE.0, NetworkId([8; 32])), b"said", &signature).is_err());
            assert!(proofs.verify(&signer, PLACE, b"said", &signature[..63]).is_err());
        }
        assert_eq!(proofs.lock(|known| known.young.len()), 1);
    }

    /// SIGN-6: memory is bounded, and what came last stays.
    #[test]
    fn the_oldest_are_forgotten() {
        let mut known = Remembered::default();
        let name = |n: usize| *blake3::hash(&n.to_be_bytes()).as_bytes();
        (0..5 * REMEMBERED).for_each(|n| known.remember(name(n)));
        assert!(known.young.len() + known.old.len() <= 2 * REMEMBERED);
        assert!((4 * REMEMBERED..5 * REMEMBERED).all(|n| known.has(&name(n))));
        assert!(!known.has(&name(0)));
    }
}
