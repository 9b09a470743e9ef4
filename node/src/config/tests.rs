//! The layers of the configuration, and what is said about mistakes in them.

use std::fs;

use super::*;

fn with_home(dir: &Path) -> impl Fn(&str) -> Option<String> {
    let home = dir.display().to_string();
    move |name| (name == "HOME").then(|| home.clone())
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    fs::write(&file, "name = \"file\"\ndial = \"known\"\ndata = \"/from/file\"\n").unwrap();
    let home = with_home(dir.path());
    let env = |name: &str| match name {
        "WAYPOST_NAME" => Some("env".to_owned()),
        "WAYPOST_DATA" => Some("/from/env".to_owned()),
        "WAYPOST_PEERS" => Some("/dns4/a/tcp/1, /dns4/b/tcp/2".to_owned()),
        _ => home(name),
    };
    let flags = Settings { name: Some("flag".into()), ..Settings::default() };
    let config = load(flags, Some(&file), false, &env).unwrap();
    assert_eq!((config.name.as_str(), config.dial), ("flag", Dial::Known));
    assert_eq!(config.data, Path::new("/from/env"));
    assert_eq!(config.peers.len(), 2);
    assert_eq!(config.listen.len(), 4);
}

#[test]
fn a_missing_default_file_is_fine_and_a_missing_named_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let env = with_home(dir.path());
    assert!(load(Settings::default(), None, false, &env).is_ok());
    let missing = dir.path().join("nowhere.toml");
    let error = load(Settings::default(), Some(&missing), false, &env).unwrap_err();
    assert!(error.to_string().contains("nowhere.toml"), "{error}");
}

#[test]
fn mistakes_of_all_layers_come_together() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    fs::write(&file, "name = \"any\"\nmdns = 3\n").unwrap();
    let env = |name: &str| (name == "WAYPOST_DIAL").then(|| "everybody".to_owned());
    let ConfigError(mistakes) = load(Settings::default(), Some(&file), false, &env).unwrap_err();
    assert_eq!(mistakes.len(), 5, "{mistakes:?}");
    assert!(mistakes[0].contains("w.toml:1:8: "), "{mistakes:?}");
    assert!(mistakes[2].starts_with("WAYPOST_DIAL: "), "{mistakes:?}");
}

#[test]
fn limits_reach_the_policy() {
    let limits = Limits { outbox_messages: Some(7), ..Limits::default() };
    let flags = Settings { limits, ..Settings::default() };
    let policy = load(flags, None, true, &|_| None).map(|config| config.policy()).unwrap();
    assert_eq!(policy.outbox_messages, 7);
    assert_eq!(policy.outbox_bytes, Policy::default().outbox_bytes);
}

#[test]
fn client_commands_find_the_configured_socket() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join(".config/waypost");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("waypost.toml"), "socket = \"/elsewhere/s\"\n").unwrap();
    assert_eq!(find(false, &with_home(dir.path())).socket, Some("/elsewhere/s".into()));
}
