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

#[test]
fn what_is_shown_says_who_said_it_and_is_itself_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("w.toml");
    let text = "name = \"file\"\npeers = [\"/dns4/a/tcp/1\"]\n\n[limits]\noutbox_bytes = \"1 MiB\"\n[log]\nfilter = \"warn\"\n";
    fs::write(&file, text).unwrap();
    let home = with_home(dir.path());
    let env = |name: &str| match name {
        "WAYPOST_SOCKET_GROUP" => Some("root".to_owned()),
        "WAYPOST_LOG" => Some("debug".to_owned()),
        "WAYPOST_CONFIG" => Some(file.display().to_string()),
        _ => home(name),
    };
    let flags = Settings { name: Some("flag".into()), mdns: Some(false), ..Settings::default() };
    let shown = show(flags.clone(), None, false, &env).unwrap();
    let of = |name: &str| shown.iter().find(|shown| shown.key.name == name).unwrap();
    assert_eq!(of("name").from, "--name");
    assert_eq!(of("log.filter").from, "WAYPOST_LOG");
    assert_eq!(of("limits.outbox_bytes").from, format!("{}:5", file.display()));
    assert_eq!((of("dial").from.as_str(), of("mdns").value.as_bool()), ("default", Some(false)));
    // What is shown, written into a file, says the same again.
    let again = dir.path().join("again.toml");
    let lines: String = shown.iter().map(|shown| format!("{} = {}\n", shown.key.name, shown.value)).collect();
    fs::write(&again, lines).unwrap();
    let first = load(flags, Some(&file), false, &env).unwrap();
    assert_eq!(first, load(Settings::default(), Some(&again), false, &home).unwrap());
    assert_eq!((first.socket.gid, first.socket.mode), (Some(0), 0o660));
}

/// The README shows every setting but `force`, under the names it has.
#[test]
fn the_readmes_example_is_a_configuration() {
    let readme = include_str!("../../../README.md");
    let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    // No host has the group it names.
    let example = example.replace("\"mail-users\"", "\"0\"");
    let read = file::read(&example).unwrap();
    for key in KEYS.iter().filter(|key| key.name != "force") {
        let line = read.lines.get(key.name).and_then(|line| example.lines().nth(line - 1)).expect(key.name);
        assert!(line.contains(key.variable) && line.contains(key.flag), "{line}");
    }
}

/// Each setting is reached by its name in the file and by its variable, and by no other way.
#[test]
fn every_key_is_read_where_it_says() {
    let sample = |name: &str| match name {
        "force" | "mdns" => "true",
        "socket_group" => "0",
        "socket_mode" => "0660",
        "dial" => "known",
        "listen" | "peers" => "/ip4/127.0.0.1/tcp/1",
        "log.format" => "json",
        "log.filter" => "debug",
        "name" => "harbour",
        limit if limit.starts_with("limits.") => "7",
        _ => "/there",
    };
    for key in KEYS {
        let value = sample(key.name);
        let env = |name: &str| (name == key.variable).then(|| value.to_owned());
        let from = |shown: Vec<Shown>| shown.into_iter().filter(|shown| shown.from != "default").collect::<Vec<_>>();
        let by_env = from(keys::shown(&Layers::gather(Settings::default(), None, true, &env)));
        assert_eq!(by_env.len(), 1, "{}", key.variable);
        assert_eq!((by_env[0].key, by_env[0].from.as_str()), (key, key.variable));
        let text = format!("{} = {}\n", key.name, by_env[0].value);
        let file = file::read(&text).unwrap();
        assert_eq!(file.lines.get(key.name), Some(&1), "{text}");
        assert_eq!(file.settings, environment::read(&env, &mut Vec::new()), "{text}");
    }
}
