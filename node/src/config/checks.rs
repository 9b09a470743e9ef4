//! One value of the configuration at a time: is it what it should be, and if not, what would be? The same for the file,
//! the environment and the flags.

use tracing_subscriber::EnvFilter;
use waypost_core::message::{NodeName, Recipient};

use super::{Dial, Group, LogFormat};
use crate::net;

/// A node's name.
///
/// # Errors
/// What a name looks like.
pub fn node_name(text: &str) -> Result<String, String> {
    let name = text.parse::<NodeName>().map_err(|why| why.to_string())?;
    // A name that reads as an address could never be sent to.
    match text.parse::<Recipient>() {
        Ok(Recipient::Named(_)) => Ok(name.as_str().to_owned()),
        _ => Err(format!("{text:?} begins like a node's address: choose another name")),
    }
}

/// `known` or `any`.
///
/// # Errors
/// That it is neither.
pub fn dial(text: &str) -> Result<Dial, String> {
    match text {
        "known" => Ok(Dial::Known),
        "any" => Ok(Dial::Any),
        _ => Err(format!("{text:?} is not a way to dial: use \"known\" or \"any\"")),
    }
}

/// An address to listen at.
///
/// # Errors
/// What one looks like.
pub fn listen_address(text: &str) -> Result<String, String> {
    net::check_listen(text).map(|()| text.to_owned())
}

/// An address to dial.
///
/// # Errors
/// What one looks like.
pub fn peer_address(text: &str) -> Result<String, String> {
    net::check_peer(text).map(|()| text.to_owned())
}

/// `text` or `json`.
///
/// # Errors
/// That it is neither.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not a log format: use \"text\" or \"json\"")),
    }
}

/// What the log is to show.
///
/// # Errors
/// What a filter looks like.
pub fn log_filter(text: &str) -> Result<String, String> {
    let hint = "use error, warn, info, debug or trace, or one for a part as in \"waypost=debug,info\"";
    // A bare word would be taken for a part of the program, and a level that is misspelt for one that says nothing.
    let is_bare =
        |part: &&str| !part.contains(['=', '[']) && part.parse::<tracing::level_filters::LevelFilter>().is_err();
    if let Some(word) = text.split(',').map(str::trim).find(is_bare) {
        return Err(format!("the log filter {text:?} names no level in {word:?}; {hint}"));
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("the log filter {text:?} cannot be read: {error}; {hint}")),
    }
}

/// `true` or `false`, and what else people write in an environment.
///
/// # Errors
/// That it is neither.
pub fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("{text:?} is neither \"true\" nor \"false\"")),
    }
}

/// A file mode in octal that lets the owner read and write.
///
/// # Errors
/// What one looks like.
pub fn mode(text: &str) -> Result<u32, String> {
    let octal = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) && (3..=4).contains(&text.len());
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
        _ => Err(format!(
            "{text:?} is not a mode for a socket: use \"0600\", \"0660\" for a group, or \"0666\" for everybody"
        )),
    }
}

/// A group of this host's users, by name or number.
///
/// # Errors
/// That there is none of that name.
pub fn group(text: &str) -> Result<Group, String> {
    if let Ok(gid) = text.parse() {
        return Ok(Group { name: text.to_owned(), gid });
    }
    match nix::unistd::Group::from_name(text) {
        Ok(Some(found)) => Ok(Group { name: text.to_owned(), gid: found.gid.as_raw() }),
        Ok(None) => Err(format!("there is no group {text:?} on this host: make it with `groupadd --system {text}`")),
        Err(error) => Err(format!("the group {text:?} cannot be looked up: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_leave_the_node_its_own_socket() {
        assert_eq!((mode("0600"), mode("660"), mode("0666")), (Ok(0o600), Ok(0o660), Ok(0o666)));
        for wrong in ["", "6", "0060", "1600", "0680", "0o600", "+600", "00600"] {
            assert!(mode(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn groups_are_found_by_name_or_number() {
        assert_eq!(group("0").map(|group| group.gid), Ok(0));
        assert_eq!(group("root").map(|group| group.gid), Ok(0));
        assert!(group("no-such-group-here").unwrap_err().contains("groupadd --system no-such-group-here"));
    }

    #[test]
    fn a_name_that_reads_as_an_address_is_none() {
        assert!(node_name("harbour").is_ok());
        let own = waypost_core::trust::NodeKey::from_seed(&[1; 32]).id().to_string();
        for wrong in [own.as_str(), &own[..40], "any"] {
            assert!(node_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_log_filter_is_read_before_the_node_starts() {
        assert!(log_filter("waypost=debug,info").is_ok() && log_filter("WARN").is_ok());
        assert!(log_filter("loud").unwrap_err().contains("loud"));
        assert!(log_filter("waypost=loudly").unwrap_err().contains("waypost=loudly"));
    }
}
