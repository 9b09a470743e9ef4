//! What people and configuration hand in, and what makes a member: addresses, names, tokens, certificates.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use base64::Engine as _;
use prost::Message as _;
use waypost_core::envelope::Header;
use waypost_core::id::{Class, FlowId, Incarnation, MessageId, NodeId};
use waypost_core::message::{ChannelName, NodeName, Recipient};
use waypost_core::trust::{Invitation, Label, Roster, Token, VerifyKey, examine, verify_chain};
use waypost_proto::hop;

use super::town::{Town, clock, stranger};
use super::{Target, class_of, promise};

/// Texts and short byte strings that name something. The first byte says which.
pub struct Names;

impl Target for Names {
    fn name(&self) -> &'static str {
        "names"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let node = stranger().id();
        let id = MessageId([0x70; 16]);
        let flow = FlowId { source: node, destination: node, class: Class::Bulk, incarnation: Incarnation::default() };
        let header = [[1, 1].as_slice(), &flow.to_bytes(), &[1; 8 + 4 + 8 + 4 + 64]].concat();
        let texts = ["orders", "a.b-c_d", "home", "any"].map(str::to_owned);
        let mut seeds = vec![
            [&[0], node.to_string().as_bytes()].concat(),
            [&[4], node.to_string().as_bytes()].concat(),
            [&[3], id.to_string().as_bytes()].concat(),
            [&[5], node.to_peer_id_bytes().as_slice()].concat(),
            [&[6], flow.to_bytes().as_slice()].concat(),
            [&[7], header.as_slice()].concat(),
            [&[8], node.0.as_slice()].concat(),
        ];
        for kind in [1, 2, 4] {
            seeds.extend(texts.iter().map(|text| [&[kind], text.as_bytes()].concat()));
        }
        seeds
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        let Some((kind, rest)) = input.split_first() else { return Ok(Vec::new()) };
        let text = String::from_utf8_lossy(rest);
        let seen = match kind % 9 {
            0 => read_back::<NodeId>(&text)?,
            1 => read_back::<ChannelName>(&text)?,
            2 => read_back::<NodeName>(&text)?,
            3 => read_back::<MessageId>(&text)?,
            4 => match text.parse::<Recipient>() {
                Ok(Recipient::Node(_)) => "node".to_owned(),
                Ok(Recipient::Named(_)) => "named".to_owned(),
                Err(_) => "neither".to_owned(),
            },
            5 => {
                let node = NodeId::from_peer_id_bytes(rest);
                promise(node.is_none_or(|node| node.to_peer_id_bytes() == rest), || "a PeerId reads twice".to_owned())?;
                format!("PeerId{}", node.is_some())
            }
            6 => {
                let flow = FlowId::from_slice(rest);
                promise(flow.is_none_or(|flow| flow.to_bytes() == rest), || "a flow reads twice".to_owned())?;
                format!("flow{}", flow.is_some())
            }
            7 => {
                let header = Header::decode(rest);
                let exact = header.as_ref().map_or(true, |header| header.encode() == rest);
                promise(exact, || "SEAL-1: a header reads twice".to_owned())?;
                format!("header{:?}", header.map(|_| ()))
            }
            _ => {
                let node = NodeId::from_slice(rest);
                format!("key{:?}", node.map(|node| VerifyKey::parse(node).map(|_| ())))
            }
        };
        Ok(vec![class_of(&format!("{}{seen}", char::from(b'a' + kind % 9)))])
    }
}

/// What is read must be written as it was read.
fn read_back<T: FromStr + Display>(text: &str) -> Result<String, String>
where
    T::Err: Debug,
{
    match text.parse::<T>() {
        Err(error) => Ok(format!("{error:?}").split('(').next().unwrap_or_default().to_owned()),
        Ok(read) => {
            let again = read.to_string();
            let same = again.parse::<T>().is_ok_and(|same| same.to_string() == again);
            promise(same, || format!("{text:?} is read as {again:?}, and that is not"))?;
            Ok("read".to_owned())
        }
    }
}

/// Tokens: as text; and, the first byte being odd, the message inside with a frame and a checksum that fit.
pub struct Tokens {
    seed: String,
}

impl Tokens {
    /// Knows one good token.
    ///
    /// # Errors
    /// When it cannot be issued: a defect.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { seed: Town::new()?.token })
    }

    fn content(&self) -> Vec<u8> {
        let text = self.seed.trim_start_matches("waypost1");
        let framed = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        framed.get(8..).unwrap_or_default().to_vec()
    }
}

impl Target for Tokens {
    fn name(&self) -> &'static str {
        "tokens"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        vec![[&[0], self.seed.as_bytes()].concat(), [[1].as_slice(), &self.content()].concat()]
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        let Some((kind, rest)) = input.split_first() else { return Ok(Vec::new()) };
        let text = if kind % 2 == 0 {
            String::from_utf8_lossy(rest).into_owned()
        } else {
            let sum = *blake3::Hasher::new_derive_key("waypost/token/1").update(rest).finalize().as_bytes();
            let framed = [&(rest.len() as u32).to_be_bytes(), &sum[..4], rest].concat();
            format!("waypost1{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(framed))
        };
        let read = Token::parse(&text);
        if let Ok(token) = &read {
            let again = Token::parse(&token.to_text());
            promise(again.is_ok(), || format!("TRUST-9: a token that was read is not when written: {again:?}"))?;
            let _ = (token.join(&stranger()), token.expired_at(0));
        }
        Ok(vec![class_of(&format!("{:?}", read.map(|_| ())))])
    }
}

/// Certificates and joins. The first byte says which, and whether their signatures are made to fit.
pub struct Membership {
    town: Town,
    roster: Roster,
}

impl Membership {
    /// Knows some members.
    ///
    /// # Errors
    /// When they cannot be admitted: a defect.
    pub fn new() -> anyhow::Result<Self> {
        let town = Town::new()?;
        Ok(Self { roster: town.roster()?, town })
    }

    /// The issuer's signature for whatever the first certificate says, where the issuer is a member here.
    fn certify(&self, chain: &mut [hop::Signed]) {
        for signed in chain {
            let content = hop::CertificateContent::decode(signed.content.clone()).unwrap_or_default();
            self.town.sign_one(signed, Label::Certificate, &content.issuer, &[0, 1, 2, 3, 4, 5]);
        }
    }

    fn chain(&mut self, rest: &[u8], certified: bool) -> Result<String, String> {
        let Ok(mut admitted) = hop::Admitted::decode(rest) else { return Ok("none".to_owned()) };
        if certified {
            self.certify(&mut admitted.chain);
        }
        let first = admitted.chain.first().map(|signed| signed.content.clone()).unwrap_or_default();
        let subject = hop::CertificateContent::decode(first).unwrap_or_default().subject;
        let subject = NodeId::from_slice(&subject).unwrap_or(self.town.id(1));
        let alone = verify_chain(self.town.network, subject, &admitted.chain);
        let mut roster = Roster::with_capacity(self.town.network, 3);
        let taken = roster.admit_chain(subject, &admitted.chain);
        promise(alone.is_ok() == taken.is_ok(), || format!("TRUST-4: {alone:?} alone, {taken:?} in a roster"))?;
        let _ = self.roster.admit_chain(subject, &admitted.chain);
        Ok(format!("{:?}", taken.map(|member| member.depth() > 1)))
    }

    fn join(&self, rest: &[u8], certified: bool) -> String {
        let Ok(mut join) = hop::Join::decode(rest) else { return "none".to_owned() };
        if let Some(invitation) = join.invitation.as_mut().filter(|_| certified) {
            let content = hop::InvitationContent::decode(invitation.content.clone()).unwrap_or_default();
            self.town.sign_one(invitation, Label::Invitation, &content.inviter, &[0, 1, 2, 3, 4, 5]);
        }
        let invitation = join.invitation.as_ref().map(|signed| Invitation::verify(self.town.network, signed));
        let subject = stranger().id();
        let issuer = self.roster.member(&self.town.id(0));
        let examined = issuer.map(|issuer| {
            examine(issuer, &self.roster, &join, subject, clock())
                .and_then(|admissible| admissible.certify(&self.town.members[0].key, None))
                .map(|_| ())
        });
        format!("{:?}{examined:?}", invitation.map(|read| read.map(|_| ())))
    }
}

impl Target for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let admitted = |chain: &[hop::Signed]| hop::Admitted { chain: chain.to_vec(), refused: String::new() };
        let of = |kind: u8, message: Vec<u8>| [vec![kind], message].concat();
        vec![
            of(0, admitted(&self.town.members[0].chain).encode_to_vec()),
            of(1, admitted(&self.town.members[1].chain).encode_to_vec()),
            of(2, self.town.join.encode_to_vec()),
            of(3, self.town.join.encode_to_vec()),
        ]
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        let Some((kind, rest)) = input.split_first() else { return Ok(Vec::new()) };
        let certified = kind % 2 == 1;
        let seen = if kind % 4 < 2 { self.chain(rest, certified)? } else { self.join(rest, certified) };
        Ok(vec![class_of(&seen)])
    }
}
