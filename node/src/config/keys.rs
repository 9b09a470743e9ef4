//! Every setting by its names: in the file, in the environment, on the command line; and how each is shown.

use toml::Value;

use super::{Dial, Layers, LogFormat, Settings};

/// A setting's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// In the file; with a dot, in that table.
    pub name: &'static str,
    /// In the environment.
    pub variable: &'static str,
    /// On the command line of `run`; empty: not there.
    pub flag: &'static str,
}

const fn key(name: &'static str, variable: &'static str, flag: &'static str) -> Key {
    Key { name, variable, flag }
}

/// All of them, in the order in which they are shown.
pub const KEYS: [Key; 17] = [
    key("data", "WAYPOST_DATA", "--data"),
    key("force", "WAYPOST_FORCE", "--force"),
    key("socket", "WAYPOST_SOCKET", "--socket"),
    key("socket_group", "WAYPOST_SOCKET_GROUP", ""),
    key("socket_mode", "WAYPOST_SOCKET_MODE", ""),
    key("name", "WAYPOST_NAME", "--name"),
    key("dial", "WAYPOST_DIAL", "--dial"),
    key("mdns", "WAYPOST_MDNS", "--no-mdns"),
    key("listen", "WAYPOST_LISTEN", "--listen"),
    key("peers", "WAYPOST_PEERS", "--peer"),
    key("limits.outbox_bytes", "WAYPOST_OUTBOX_BYTES", ""),
    key("limits.outbox_messages", "WAYPOST_OUTBOX_MESSAGES", ""),
    key("limits.inbox_bytes", "WAYPOST_INBOX_BYTES", ""),
    key("limits.transit_bytes", "WAYPOST_TRANSIT_BYTES", ""),
    key("limits.disk_reserve", "WAYPOST_DISK_RESERVE", ""),
    key("log.filter", "WAYPOST_LOG", "--log"),
    key("log.format", "WAYPOST_LOG_FORMAT", "--log-format"),
];

/// A setting that has a value.
#[derive(Clone, PartialEq, Debug)]
pub struct Shown {
    /// Its names.
    pub key: Key,
    /// Its value, as the file would have it.
    pub value: Value,
    /// Who said it: a flag, a variable, a line of a file, or `default`.
    pub from: String,
}

/// Of each setting the value that holds, and who said it.
pub(super) fn shown(layers: &Layers) -> Vec<Shown> {
    let (flags, environment) = (layers.flags.values(), layers.environment.values());
    let (file, defaults) = (layers.file.settings.values(), layers.defaults.values());
    let path = layers.path.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    let mut all = Vec::new();
    for (at, key) in KEYS.into_iter().enumerate() {
        let line = layers.file.lines.get(key.name).copied().unwrap_or_default();
        let said = [
            (&flags[at], key.flag.to_owned()),
            (&environment[at], key.variable.to_owned()),
            (&file[at], format!("{path}:{line}")),
            (&defaults[at], "default".to_owned()),
        ];
        let first = said.into_iter().find_map(|(value, from)| Some((value.clone()?, from)));
        all.extend(first.map(|(value, from)| Shown { key, value, from }));
    }
    all
}

impl Settings {
    /// In the order of [`KEYS`], as the file would have them.
    fn values(&self) -> [Option<Value>; KEYS.len()] {
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string().into());
        let list = |list: &Option<Vec<String>>| list.clone().map(Value::from);
        // Beyond what the file can say only where nobody could mean it.
        let number =
            |number: Option<u64>| number.map(|number| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)));
        let Self { limits, .. } = self;
        [
            path(&self.data),
            self.force.map(Value::from),
            path(&self.socket),
            self.socket_group.as_ref().map(|group| group.name.clone().into()),
            self.socket_mode.map(|mode| format!("{mode:04o}").into()),
            self.name.clone().map(Value::from),
            self.dial.map(|dial| dial_text(dial).into()),
            self.mdns.map(Value::from),
            list(&self.listen),
            list(&self.peers),
            number(limits.outbox_bytes),
            number(limits.outbox_messages),
            number(limits.inbox_bytes),
            number(limits.transit_bytes),
            number(limits.disk_reserve),
            self.log_filter.clone().map(Value::from),
            self.log_format.map(|format| format_text(format).into()),
        ]
    }
}

fn dial_text(dial: Dial) -> &'static str {
    match dial {
        Dial::Known => "known",
        Dial::Any => "any",
    }
}

fn format_text(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}
