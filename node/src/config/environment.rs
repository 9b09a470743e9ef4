//! `WAYPOST_*`: the same settings as in the file, one variable each. An empty variable says nothing.

use super::{Env, Limits, Settings, checks, units};

/// Reads the environment and notes what is wrong in it.
pub fn read(env: Env<'_>, mistakes: &mut Vec<String>) -> Settings {
    let mut reader = Reader { env, mistakes };
    Settings {
        data: reader.text("WAYPOST_DATA").map(Into::into),
        force: reader.checked("WAYPOST_FORCE", checks::truth),
        socket: reader.text("WAYPOST_SOCKET").map(Into::into),
        socket_group: reader.checked("WAYPOST_SOCKET_GROUP", checks::group),
        socket_mode: reader.checked("WAYPOST_SOCKET_MODE", checks::mode),
        listen: reader.list("WAYPOST_LISTEN", checks::listen_address),
        peers: reader.list("WAYPOST_PEERS", checks::peer_address),
        name: reader.checked("WAYPOST_NAME", checks::node_name),
        mdns: reader.checked("WAYPOST_MDNS", checks::truth),
        dial: reader.checked("WAYPOST_DIAL", checks::dial),
        limits: Limits {
            outbox_bytes: reader.checked("WAYPOST_OUTBOX_BYTES", units::bytes),
            outbox_messages: reader.checked("WAYPOST_OUTBOX_MESSAGES", units::count),
            inbox_bytes: reader.checked("WAYPOST_INBOX_BYTES", units::bytes),
            transit_bytes: reader.checked("WAYPOST_TRANSIT_BYTES", units::bytes),
            disk_reserve: reader.checked("WAYPOST_DISK_RESERVE", units::bytes),
        },
        log_filter: reader.checked("WAYPOST_LOG", checks::log_filter),
        log_format: reader.checked("WAYPOST_LOG_FORMAT", checks::log_format),
    }
}

struct Reader<'a> {
    env: Env<'a>,
    mistakes: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// An empty variable says nothing: that is how one is unset in a unit file.
    fn text(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn checked<T>(&mut self, name: &str, check: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.text(name)?;
        check(&value).map_err(|what| self.mistakes.push(format!("{name}: {what}"))).ok()
    }

    /// Separated by commas or blanks; every item that is wrong is named.
    fn list(&mut self, name: &str, check: impl Fn(&str) -> Result<String, String>) -> Option<Vec<String>> {
        let value = self.text(name)?;
        let separator = |c: char| c == ',' || c.is_whitespace();
        let items = value.split(separator).filter(|item| !item.is_empty());
        Some(
            items
                .filter_map(|item| check(item).map_err(|what| self.mistakes.push(format!("{name}: {what}"))).ok())
                .collect(),
        )
    }
}
