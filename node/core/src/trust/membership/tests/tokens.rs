//! The token's text: what a person may do to it, and what they are told.

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Result<NetworkId, TokenError> {
    Token::parse(text).map(|token| token.network())
}

/// A token as another program might write it, framed correctly.
fn framed(message: &hop::Token) -> String {
    let content = message.encode_to_vec();
    let sum = *blake3::Hasher::new_derive_key("waypost/token/1").update(&content).finalize().as_bytes();
    let bytes = [&(content.len() as u32).to_be_bytes(), &sum[..4], &content].concat();
    use base64::Engine;
    format!("waypost1{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// TRUST-9: all a token holds survives its text, and the text is one line.
#[test]
fn a_token_survives_its_text() {
    let world = World::new();
    let addresses: Vec<String> = (0..10).map(|n| format!("/ip4/192.0.2.{n}/tcp/4100")).collect();
    let too_long = [vec!["x".repeat(300)], addresses.clone()].concat();
    let token = Token::issue(&world.founder, &world.founder_member(), TERMS, CLOCK, key(0x99), &too_long).unwrap();
    let text = token.to_text();
    assert!(text.starts_with("waypost1") && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)));
    let read = Token::parse(&text).unwrap();
    assert_eq!(read.join(&key(1)), token.join(&key(1)));
    assert_eq!((read.network(), read.inviter()), (world.network(), world.founder.id()));
    assert_eq!(read.addresses(), &addresses[..MAX_ADDRESSES]);
    assert_eq!(read.chain(), world.founder_member().chain());
    let seed = format!("{:?}", key(0x99).seed());
    assert!(!format!("{token:?}").contains(&seed));
}

/// TRUST-9: the deepest member's token can still be read.
#[test]
fn the_longest_token_is_read() {
    let world = World::new();
    let (last_key, last) = world.line(MAX_DEPTH);
    let addresses = vec!["a".repeat(256); MAX_ADDRESSES];
    let token = Token::issue(&last_key, &last, TERMS, CLOCK, key(0x99), &addresses).unwrap();
    assert_eq!(parsed(&token.to_text()), Ok(world.network()));
}

/// TRUST-9: expiry is where honest members stop.
#[test]
fn a_token_expires() {
    let token = World::new().token(TERMS, 1);
    assert!(!token.expired_at(NOW_MS + HOUR_MS - 1));
    assert!(token.expired_at(NOW_MS + HOUR_MS));
}

/// TRUST-9: what went wrong is told apart.
#[test]
fn bad_tokens_are_explained() {
    let text = World::new().token(TERMS, 1).to_text();
    assert_eq!(parsed("12D3KooW"), Err(TokenError::NotAToken));
    assert_eq!(parsed(""), Err(TokenError::NotAToken));
    assert_eq!(parsed("waypost1"), Err(TokenError::Truncated));
    for len in PREFIX_LEN..text.len() {
        assert_eq!(parsed(&text[..len]), Err(TokenError::Truncated), "{len} of {}", text.len());
    }
    assert_eq!(parsed(&format!("{}AAAA", *text)), Err(TokenError::Damaged));
    assert_eq!(parsed(&format!("{}é", *text)), Err(TokenError::Damaged));
    assert_eq!(parsed(&format!("waypost1{}", "A".repeat(70_000))), Err(TokenError::Damaged));
}

const PREFIX_LEN: usize = 8;

/// TRUST-9: mail programs wrap lines.
#[test]
fn wrapped_tokens_are_read() {
    let world = World::new();
    let text = world.token(TERMS, 1).to_text();
    let wrapped: Vec<&str> = (0..text.len()).step_by(70).map(|at| &text[at..text.len().min(at + 70)]).collect();
    assert_eq!(parsed(&format!("  {}\r\n", wrapped.join("\r\n "))), Ok(world.network()));
}

/// TRUST-9: a well-framed token must also hold a true invitation, its own secret, and a member's chain.
#[test]
fn a_token_must_hold_together() {
    let world = World::new();
    let join = world.token(TERMS, 1).join(&key(1));
    let good = hop::Token {
        invitation: join.invitation,
        secret: Bytes::copy_from_slice(key(1 ^ 0x80).seed().as_ref()),
        chain: join.chain,
        addresses: Vec::new(),
    };
    assert_eq!(parsed(&framed(&good)), Ok(world.network()));
    let bad = [
        hop::Token { invitation: None, ..good.clone() },
        hop::Token { secret: Bytes::from_static(&[1; 32]), ..good.clone() },
        hop::Token { secret: Bytes::from_static(&[1; 31]), ..good.clone() },
        hop::Token { addresses: vec![String::new(); 9], ..good.clone() },
        hop::Token { addresses: vec!["x".repeat(257)], ..good.clone() },
    ];
    for token in bad {
        assert_eq!(parsed(&framed(&token)), Err(TokenError::Invalid(TrustError::Malformed("token"))));
    }
    let chainless = hop::Token { chain: Vec::new(), ..good.clone() };
    let not_a_member = TrustError::NotAMember(world.founder.id());
    assert_eq!(parsed(&framed(&chainless)), Err(TokenError::Invalid(not_a_member)));
    let unsigned = hop::Signed { signature: Bytes::new(), ..good.invitation.clone().unwrap() };
    let unsigned = hop::Token { invitation: Some(unsigned), ..good };
    assert!(matches!(parsed(&framed(&unsigned)), Err(TokenError::Invalid(TrustError::BadSignature { .. }))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// TRUST-9: one character typed wrong never gives a token.
    #[test]
    fn a_changed_character_is_noticed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
        let text = World::new().token(TERMS, 1).to_text();
        let at = at.index(text.len());
        let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
        // The last character may hold bits that no byte uses.
        prop_assume!(changed != *text && at + 1 < text.len());
        prop_assert!(parsed(&changed).is_err());
    }

    /// Any text at all is answered with an error, never with a panic.
    #[test]
    fn noise_is_no_token(noise in ".{0,200}") {
        prop_assert!(parsed(&noise).is_err());
        let behind_the_prefix = format!("waypost1{}", noise);
        prop_assert!(parsed(&behind_the_prefix).is_err());
    }
}
