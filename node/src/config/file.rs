//! `waypost.toml`: reads what it says and reports every mistake in it at once, each with its line and column.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Settings, checks, units};

/// A mistake and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong and what would be right.
    pub what: String,
}

/// What a file says, and on which line each setting stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileSettings {
    /// What it says.
    pub settings: Settings,
    /// By key, as in `limits.outbox_bytes`; counted from 1.
    pub lines: BTreeMap<String, usize>,
}

/// Reads the text of a configuration file.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn read(text: &str) -> Result<FileSettings, Vec<Mistake>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader::default();
    for error in errors {
        reader.mistake::<()>(error.span().unwrap_or_default(), error.message().to_owned());
    }
    let settings = reader.settings(table.get_ref());
    if !reader.mistakes.is_empty() {
        return Err(reader.located(text));
    }
    let lines = reader.starts.into_iter().map(|(key, start)| (key, place(text, start).0)).collect();
    Ok(FileSettings { settings, lines })
}

#[derive(Default)]
struct Reader {
    mistakes: Vec<(Range<usize>, String)>,
    /// Where each key begins.
    starts: BTreeMap<String, usize>,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader {
    fn settings(&mut self, table: &DeTable<'_>) -> Settings {
        let mut settings = Settings::default();
        for (key, value) in table {
            self.note("", key);
            match key.get_ref().as_ref() {
                "data" => settings.data = self.text(value).map(Into::into),
                "force" => settings.force = self.truth(value),
                "socket" => settings.socket = self.text(value).map(Into::into),
                "socket_group" => settings.socket_group = self.checked(value, checks::group),
                "socket_mode" => settings.socket_mode = self.checked(value, checks::mode),
                "name" => settings.name = self.checked(value, checks::node_name),
                "dial" => settings.dial = self.checked(value, checks::dial),
                "mdns" => settings.mdns = self.truth(value),
                "listen" => settings.listen = self.addresses(value, checks::listen_address),
                "peers" => settings.peers = self.addresses(value, checks::peer_address),
                "limits" => self.limits(value, &mut settings),
                "log" => self.log(value, &mut settings),
                _ => self.unknown(
                    key.span(),
                    key.get_ref(),
                    "data, force, socket, socket_group, socket_mode, name, dial, mdns, listen, peers, [limits] or [log]",
                ),
            }
        }
        settings
    }

    fn limits(&mut self, value: &Value<'_>, settings: &mut Settings) {
        let limits = &mut settings.limits;
        for (key, value) in self.table(value).into_iter().flatten() {
            self.note("limits.", key);
            match key.get_ref().as_ref() {
                "outbox_bytes" => limits.outbox_bytes = self.number(value, units::bytes),
                "outbox_messages" => limits.outbox_messages = self.number(value, units::count),
                "inbox_bytes" => limits.inbox_bytes = self.number(value, units::bytes),
                "transit_bytes" => limits.transit_bytes = self.number(value, units::bytes),
                "disk_reserve" => limits.disk_reserve = self.number(value, units::bytes),
                _ => self.unknown(
                    key.span(),
                    key.get_ref(),
                    "outbox_bytes, outbox_messages, inbox_bytes, transit_bytes or disk_reserve",
                ),
            }
        }
    }

    fn log(&mut self, value: &Value<'_>, settings: &mut Settings) {
        for (key, value) in self.table(value).into_iter().flatten() {
            self.note("log.", key);
            match key.get_ref().as_ref() {
                "filter" => settings.log_filter = self.checked(value, checks::log_filter),
                "format" => settings.log_format = self.checked(value, checks::log_format),
                _ => self.unknown(key.span(), key.get_ref(), "filter or format"),
            }
        }
    }

    fn note(&mut self, table: &str, key: &Spanned<std::borrow::Cow<'_, str>>) {
        self.starts.insert(format!("{table}{}", key.get_ref()), key.span().start);
    }

    fn table<'a, 'i>(&mut self, value: &'a Value<'i>) -> Option<&'a DeTable<'i>> {
        value.get_ref().as_table().or_else(|| self.wrong_kind(value, "a table"))
    }

    fn text(&mut self, value: &Value<'_>) -> Option<String> {
        match value.get_ref().as_str() {
            Some("") => self.mistake(value.span(), "may not be empty: leave the line out instead".to_owned()),
            Some(text) => Some(text.to_owned()),
            None => self.wrong_kind(value, "a text in quotes"),
        }
    }

    fn truth(&mut self, value: &Value<'_>) -> Option<bool> {
        value.get_ref().as_bool().or_else(|| self.wrong_kind(value, "true or false"))
    }

    fn checked<T>(&mut self, value: &Value<'_>, check: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(value)?;
        check(&text).map_or_else(|what| self.mistake(value.span(), what), Some)
    }

    fn addresses(&mut self, value: &Value<'_>, check: impl Fn(&str) -> Result<String, String>) -> Option<Vec<String>> {
        let Some(list) = value.get_ref().as_array() else {
            return self.wrong_kind(value, "a list of addresses, as in [\"/ip4/0.0.0.0/tcp/4884\"]");
        };
        Some(list.iter().filter_map(|item| self.checked(item, &check)).collect())
    }

    fn number(&mut self, value: &Value<'_>, read: impl Fn(&str) -> Result<u64, String>) -> Option<u64> {
        if let Some(integer) = value.get_ref().as_integer() {
            let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
            return number.or_else(|| self.wrong_kind(value, "a whole number that is not negative"));
        }
        match value.get_ref().as_str() {
            Some(_) => self.checked(value, read),
            None => self.wrong_kind(value, "a whole number, or a size as in \"64 MiB\""),
        }
    }

    fn wrong_kind<T>(&mut self, value: &Value<'_>, wanted: &str) -> Option<T> {
        self.mistake(value.span(), format!("this is {} where {wanted} is wanted", kind(value.get_ref())))
    }

    fn unknown(&mut self, at: Range<usize>, key: &str, known: &str) {
        self.mistake::<()>(at, format!("{key:?} is not known here: use {known}"));
    }

    /// Notes a mistake; always `None`, the value that could not be read.
    fn mistake<T>(&mut self, at: Range<usize>, what: String) -> Option<T> {
        self.mistakes.push((at, what));
        None
    }

    fn located(mut self, text: &str) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|(at, _)| at.start);
        let locate = |(at, what): (Range<usize>, String)| {
            let (line, column) = place(text, at.start);
            Mistake { line, column, what }
        };
        self.mistakes.into_iter().map(locate).collect()
    }
}

/// Line and column of a byte, each counted from 1.
fn place(text: &str, start: usize) -> (usize, usize) {
    let before = text.get(..start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Dial, LogFormat};

    #[test]
    fn everything_it_may_say_is_read() {
        let FileSettings { settings, lines } = read(concat!(
            "data = \"/d\"\nsocket = \"/s\"\nname = \"harbour\"\ndial = \"known\"\nmdns = false\n",
            "listen = [\"/ip4/0.0.0.0/tcp/1\"]\npeers = [\"/dns4/b/tcp/1\"]\n",
            "[limits]\noutbox_bytes = \"64 MiB\"\noutbox_messages = 1_000\ninbox_bytes = 0x10\n",
            "[log]\nfilter = \"debug\"\nformat = \"json\"\n",
        ))
        .unwrap();
        assert_eq!(settings.name.as_deref(), Some("harbour"));
        assert_eq!((settings.dial, settings.mdns), (Some(Dial::Known), Some(false)));
        assert_eq!(settings.limits.outbox_bytes, Some(64 << 20));
        assert_eq!((settings.limits.outbox_messages, settings.limits.inbox_bytes), (Some(1000), Some(16)));
        assert_eq!(settings.log_format, Some(LogFormat::Json));
        assert_eq!(settings.peers.unwrap(), ["/dns4/b/tcp/1"]);
        assert_eq!((lines["data"], lines["limits.inbox_bytes"], lines["log.format"]), (1, 11, 14));
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let text = "nmae = \"x\"\nname = \"any\"\n  dial = 3\nlisten = [\"oops\", 7]\n[limits]\noutbox_bytes = \"1 elephant\"\n";
        let places: Vec<_> = read(text).unwrap_err().iter().map(|mistake| (mistake.line, mistake.column)).collect();
        assert_eq!(places, [(1, 1), (2, 8), (3, 10), (4, 11), (4, 19), (6, 16)]);
    }

    #[test]
    fn broken_syntax_has_a_place_too() {
        let mistakes = read("name = \"a\"\ndata = \n").unwrap_err();
        assert_eq!(mistakes[0].line, 2);
    }
}
