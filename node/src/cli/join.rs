//! `join`: prepares a data directory for its first run in the network of a token. Talks to no node.

use std::io::Read;

use serde::Serialize;
use waypost_core::trust::Token;
use zeroize::Zeroizing;

use super::args::JoinArgs;
use super::exit::{Exit, Failure};
use super::output::json;
use super::{Context, wall_ms};
use crate::identity;

/// Characters of standard input that are read; no token is longer.
const TOKEN_MOST: u64 = 128 << 10;

#[derive(Serialize)]
struct Joined {
    address: String,
    network: String,
}

/// Checks the token and stores it.
///
/// # Errors
/// It is not a token, has expired, or the directory belongs to another network.
pub fn join(context: &Context, args: JoinArgs) -> Result<Exit, Failure> {
    let data = context.data(args.data)?;
    let text = Zeroizing::new(if args.token == "-" { from_stdin()? } else { args.token });
    let token = Token::parse(&text).map_err(|why| Failure::new(Exit::Usage, why.to_string()))?;
    if token.expired_at(wall_ms()) {
        let message = "the token has expired: ask a member for a new one (`waypost invite` there)";
        return Err(Failure::new(Exit::NotPermitted, message));
    }
    let address = identity::join(&data, &token)?;
    if context.json {
        json(&Joined { address: address.to_string(), network: token.network().to_string() })?;
    } else {
        eprintln!("{address} joins network {} at its first `waypost run`", token.network());
    }
    Ok(Exit::Done)
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(TOKEN_MOST).read_to_string(&mut text);
    read.map_err(|error| Failure::failed(format!("cannot read the token from standard input: {error}")))?;
    Ok(text)
}
