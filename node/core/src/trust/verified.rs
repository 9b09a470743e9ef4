//! Signed statements of members: words, receipts, facts. What is here was checked; what was not cannot get here.

use prost::Message;
use waypost_proto::hop;

use super::{Label, Roster, TrustError};
use crate::envelope::flow_from_wire;
use crate::id::NodeId;

/// The longest content of a signed statement, in bytes.
pub const MAX_STATEMENT: usize = 64 * 1024;

/// What a member may sign about, and who must have signed it (rule SIGN-5).
pub trait Statement: Message + Default {
    /// The label it is signed under.
    const LABEL: Label;

    /// The node whose statement it is; `None` when it does not say, or says it malformed.
    fn signer(&self) -> Option<NodeId>;
}

impl Statement for hop::WordContent {
    const LABEL: Label = Label::Word;

    fn signer(&self) -> Option<NodeId> {
        Some(flow_from_wire(self.flow.as_ref()?)?.source)
    }
}

impl Statement for hop::ReceiptContent {
    const LABEL: Label = Label::Receipt;

    fn signer(&self) -> Option<NodeId> {
        Some(flow_from_wire(self.flow.as_ref()?)?.destination)
    }
}

impl Statement for hop::FactContent {
    const LABEL: Label = Label::Fact;

    fn signer(&self) -> Option<NodeId> {
        NodeId::from_slice(&self.node)
    }
}

/// A statement whose signature was checked and whose signer is a member, with its bytes as sent (rule SIGN-2).
#[derive(Clone, PartialEq, Debug)]
pub struct Verified<T> {
    content: T,
    signer: NodeId,
    signed: hop::Signed,
}

impl<T: Statement> Verified<T> {
    /// Checks a statement of a node the roster knows (rules SIGN-5 and SIGN-6).
    ///
    /// # Errors
    /// What is wrong with it; [`TrustError::NotAMember`] when its signer is not in the roster.
    pub fn check(roster: &Roster, signed: hop::Signed) -> Result<Self, TrustError> {
        let (content, signer) = decode::<T>(&signed)?;
        let member = roster.member(&signer).ok_or(TrustError::NotAMember(signer))?;
        let place = (T::LABEL, roster.network());
        roster.proofs().verify(member.key(), place, &signed.content, &signed.signature)?;
        Ok(Self { content, signer, signed })
    }

    /// Checks a statement that may bring its signer's certificates; they are kept when it holds (rule SIGN-6).
    ///
    /// # Errors
    /// What is wrong with it or with the chain; [`TrustError::NotAMember`] when neither shows the signer a member.
    pub fn check_attested(roster: &mut Roster, attested: hop::Attested) -> Result<Self, TrustError> {
        let signed = attested.object.ok_or(TrustError::Malformed(T::LABEL.noun()))?;
        let (content, signer) = decode::<T>(&signed)?;
        let key = roster.key_of(signer)?;
        let place = (T::LABEL, roster.network());
        roster.proofs().verify(&key, place, &signed.content, &signed.signature)?;
        roster.admit_chain(signer, &attested.chain)?;
        Ok(Self { content, signer, signed })
    }

    /// What it says.
    #[must_use]
    pub fn content(&self) -> &T {
        &self.content
    }

    /// Who says it.
    #[must_use]
    pub fn signer(&self) -> NodeId {
        self.signer
    }

    /// The bytes as sent, to be stored and handed on.
    #[must_use]
    pub fn signed(&self) -> &hop::Signed {
        &self.signed
    }

    /// Content and bytes.
    #[must_use]
    pub fn into_parts(self) -> (T, hop::Signed) {
        (self.content, self.signed)
    }
}

fn decode<T: Statement>(signed: &hop::Signed) -> Result<(T, NodeId), TrustError> {
    let noun = T::LABEL.noun();
    if signed.content.len() > MAX_STATEMENT {
        return Err(TrustError::TooLarge(noun));
    }
    let content = T::decode(signed.content.clone()).map_err(|_| TrustError::Malformed(noun))?;
    let signer = content.signer().ok_or(TrustError::Malformed(noun))?;
    Ok((content, signer))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::envelope::flow_to_wire;
    use crate::id::{Class, FlowId, Incarnation};
    use crate::trust::NodeKey;
    use crate::trust::membership::tests::{World, key};

    type Word = Verified<hop::WordContent>;
    type Receipt = Verified<hop::ReceiptContent>;
    type Fact = Verified<hop::FactContent>;

    fn signed(world: &World, key: &NodeKey, label: Label, content: &impl Message) -> hop::Signed {
        let content = Bytes::from(content.encode_to_vec());
        let signature = Bytes::copy_from_slice(&key.sign(label, world.network(), &content));
        hop::Signed { content, signature }
    }

    fn flow() -> Option<hop::Flow> {
        let incarnation = Incarnation::default();
        let flow = FlowId { source: key(1).id(), destination: key(2).id(), class: Class::Normal, incarnation };
        Some(flow_to_wire(&flow))
    }

    fn fact(node: NodeId) -> hop::FactContent {
        hop::FactContent { node: Bytes::copy_from_slice(&node.0), sequence: 4, ..Default::default() }
    }

    /// SIGN-5: the word is the source's, the receipt the destination's, the fact the node's own.
    #[test]
    fn each_statement_has_its_one_signer() {
        let mut world = World::new();
        let (source, destination) = (key(1), key(2));
        for (index, member) in [&source, &destination].into_iter().enumerate() {
            world.enrol(index as u8 + 1, member);
        }
        let word = hop::WordContent { flow: flow(), version: 1, ..Default::default() };
        let receipt = hop::ReceiptContent { flow: flow(), version: 1, ..Default::default() };
        let check_word = |by: &NodeKey| Word::check(&world.roster, signed(&world, by, Label::Word, &word));
        let check_receipt = |by: &NodeKey| Receipt::check(&world.roster, signed(&world, by, Label::Receipt, &receipt));
        assert_eq!(check_word(&source).unwrap().content(), &word);
        assert_eq!(check_receipt(&destination).unwrap().signer(), destination.id());
        assert!(check_word(&destination).is_err());
        assert!(check_receipt(&source).is_err());
        let own = fact(source.id());
        assert!(Fact::check(&world.roster, signed(&world, &source, Label::Fact, &own)).is_ok());
        assert!(Fact::check(&world.roster, signed(&world, &destination, Label::Fact, &own)).is_err());
    }

    /// SIGN-2: the bytes are handed on as they came, with fields this node does not know.
    #[test]
    fn unknown_fields_survive() {
        let mut world = World::new();
        let node = key(1);
        world.enrol(1, &node);
        let mut content = fact(node.id()).encode_to_vec();
        content.extend([0xfa, 0x7f, 0x01, 0x2a]);
        let signature = node.sign(Label::Fact, world.network(), &content);
        let sent = hop::Signed { content: content.into(), signature: Bytes::copy_from_slice(&signature) };
        assert_eq!(Fact::check(&world.roster, sent.clone()).unwrap().signed(), &sent);
    }

    /// SIGN-6: a bad signature brings nobody into the roster; a good one with a chain does, once.
    #[test]
    fn a_chain_is_kept_only_with_a_good_signature() {
        let mut world = World::new();
        let (node, stranger) = (key(1), key(2));
        let chain = world.admit(1, &node);
        let good = signed(&world, &node, Label::Fact, &fact(node.id()));
        let bad = hop::Signed { signature: Bytes::from_static(&[1; 64]), ..good.clone() };
        let attested = |object: &hop::Signed, chain: &[hop::Signed]| hop::Attested {
            object: Some(object.clone()),
            chain: chain.to_vec(),
        };
        let roster = &mut world.roster;
        assert!(Fact::check_attested(roster, attested(&bad, &chain)).is_err());
        assert!(!roster.is_member(&node.id()));
        let without = Fact::check_attested(roster, attested(&good, &[]));
        assert_eq!(without, Err(TrustError::NotAMember(node.id())));
        assert!(Fact::check_attested(roster, attested(&good, &chain)).is_ok());
        assert!(Fact::check_attested(roster, attested(&good, &[])).is_ok());
        let outside = signed(&world, &stranger, Label::Fact, &fact(stranger.id()));
        assert!(Fact::check_attested(&mut world.roster, attested(&outside, &chain)).is_err());
    }

    /// SIGN-6: size comes before everything else.
    #[test]
    fn large_statements_are_refused_unread() {
        let world = World::new();
        let huge = hop::Signed { content: vec![0; MAX_STATEMENT + 1].into(), signature: Bytes::new() };
        assert_eq!(Word::check(&world.roster, huge), Err(TrustError::TooLarge("word")));
    }
}
