//! The command line from outside: the real binary, a real socket, a pretended engine behind it. Exit codes and shapes
//! are a contract that scripts rely on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use common::{HERE, Office};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use waypost_core::limits::FRAGMENT;

/// Runs the binary; no node, no configuration and no home but the ones given.
async fn run(home: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(args).env_clear().env("HOME", home).env("PATH", std::env::var("PATH").unwrap_or_default());
    command.env("WAYPOST_DATA", home.join("data")).env("WAYPOST_CONFIG", home.join("w.toml"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(stdin).await;
    drop(input);
    tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await.unwrap().unwrap()
}

impl Office {
    async fn run(&self, args: &[&str], stdin: &[u8]) -> (i32, String, String) {
        let socket = self.socket.to_str().unwrap();
        let args: Vec<&str> = args.iter().copied().chain(["--socket", socket]).collect();
        shown(run(self.socket.parent().unwrap(), &args, stdin).await)
    }

    /// Runs what must succeed.
    async fn ok(&self, args: &[&str], stdin: &[u8]) -> String {
        let (code, out, err) = self.run(args, stdin).await;
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }

    async fn exit(&self, args: &[&str]) -> i32 {
        self.run(args, b"x").await.0
    }
}

fn shown(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
async fn without_a_node_the_exit_code_is_69() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["status"][..], &["recv", "jobs"], &["send", "jobs@b"], &["peers"], &["id"]] {
        let args: Vec<&str> = args.iter().copied().chain(["--socket", "/nowhere/s"]).collect();
        let (code, _, err) = shown(run(dir.path(), &args, b"").await);
        assert_eq!(code, 69, "{args:?}");
        assert!(err.contains("no node answers at /nowhere/s: start one with `waypost run`"), "{err}");
    }
}

#[tokio::test]
async fn mistakes_on_the_command_line_are_2_and_in_the_configuration_78() {
    let dir = tempfile::tempdir().unwrap();
    let code = async |args: &[&str]| shown(run(dir.path(), args, b"").await).0;
    assert_eq!(code(&["send", "jobs"]).await, 2);
    assert_eq!(code(&["recv", "jo/bs"]).await, 2);
    assert_eq!(code(&["join", "nonsense"]).await, 2);
    assert_eq!(code(&["--help"]).await, 0);
    assert_eq!(code(&["run", "--config", "/nowhere/w.toml"]).await, 78);
    std::fs::write(dir.path().join("w.toml"), "nmae = 1\ndial = \"x\"\n").unwrap();
    let (code, _, err) = shown(run(dir.path(), &["run"], b"").await);
    assert_eq!(code, 78);
    assert!(err.contains("w.toml:1:1: ") && err.contains("w.toml:2:8: "), "{err}");
}

#[tokio::test]
async fn refusals_end_with_their_exit_codes() {
    let office = Office::open();
    assert_eq!(office.exit(&["send", "jobs@nobody"]).await, 75);
    assert_eq!(office.exit(&["send", "jobs@reused"]).await, 1);
    assert_eq!(office.exit(&["send", "jobs@full"]).await, 75);
    assert_eq!(office.exit(&["invite"]).await, 75);
    assert_eq!(office.exit(&["send", "jobs@b", "/nowhere/file"]).await, 1);
}

/// Who waits for a delivery waits for the name as well, says so once, and no longer than told.
#[tokio::test]
async fn a_name_nobody_has_yet_is_waited_for() {
    let office = Office::open();
    let args = ["send", "jobs@nobody", "--wait", "delivered", "--timeout", "600ms"];
    let (code, _, err) = office.run(&args, b"").await;
    assert_eq!(code, 75);
    assert_eq!(err.matches("waiting for that").count(), 1, "{err}");
    assert!(office.count("Submitted") >= 2, "it asked again");
}

#[tokio::test]
async fn ids_come_one_a_line_and_bodies_come_back() {
    let office = Office::open();
    let ids = office.ok(&["send", "jobs@b", "--lines"], b"one\ntwo\n\nfour").await;
    assert_eq!(ids.lines().count(), 4);
    assert!(ids.lines().all(|id| id.len() == 36));
    assert_eq!(office.count("Submitted"), 1, "lines go in batches");
    assert_eq!(office.ok(&["recv", "jobs", "-n", "4"], b"").await, "one\ntwo\n\nfour\n");
    assert_eq!(office.exit(&["recv", "jobs", "--timeout", "100ms"]).await, 75);
    assert_eq!(office.exit(&["recv", "jobs", "--timeout", "100ms", "--follow"]).await, 0);
}

#[tokio::test]
async fn a_received_message_has_its_shape() {
    let office = Office::open();
    let sent = json(&office.ok(&["send", "jobs@b", "--json", "--header", "kind=x"], b"hello").await);
    assert_eq!((&sent["channel"], &sent["state"]), (&"jobs".into(), &"accepted".into()));
    let line = office.ok(&["--json", "recv", "jobs"], b"").await;
    let wanted = serde_json::json!({
        "id": sent["id"], "from": HERE.to_string(), "channel": "jobs", "deliveries": 1,
        "sent_at": "2025-11-24T16:00:00.007Z", "headers": {"kind": "x"}, "body_base64": "aGVsbG8=",
    });
    assert_eq!(json(&line), wanted);
}

#[tokio::test]
async fn only_what_is_asked_for_is_taken() {
    let office = Office::open();
    office.ok(&["send", "jobs@b", "--lines"], b"1\n2\n3\n").await;
    assert_eq!(office.ok(&["recv", "jobs"], b"").await, "1\n");
    assert_eq!(office.ok(&["recv", "jobs", "-n", "2", "--raw"], b"").await, "23");
}

#[tokio::test]
async fn large_files_go_and_come_whole() {
    let office = Office::open();
    let dir = tempfile::tempdir().unwrap();
    let body: Vec<u8> = (0..5 * FRAGMENT + 17).map(|n| (n % 253) as u8).collect();
    let file = dir.path().join("film.bin");
    std::fs::write(&file, &body).unwrap();
    let out = dir.path().join("in");
    let args = |args: [&str; 2]| [args[0].to_owned(), args[1].to_owned()];
    for wanted in [args(["--out", out.to_str().unwrap()]), args(["--exec", "cmp - \"$FILM\""])] {
        office.ok(&["send", "jobs@b", file.to_str().unwrap()], b"").await;
        let exec = wanted[1].replace("$FILM", file.to_str().unwrap());
        office.ok(&["recv", "jobs", &wanted[0], &exec], b"").await;
    }
    assert_eq!(std::fs::read(out.join("film.bin")).unwrap(), body);
    office.ok(&["send", "jobs@b"], &body).await;
    let id = office.ok(&["recv", "jobs", "--out", out.to_str().unwrap()], b"").await;
    assert_eq!(std::fs::read(id.trim_end()).unwrap(), body);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2, "nothing is left behind");
}

/// Half a file is no message, however its sender died.
#[tokio::test]
async fn a_sender_that_dies_sends_nothing() {
    for signal in ["-KILL", "-INT"] {
        let office = Office::open();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(["send", "jobs@b", "--socket", office.socket.to_str().unwrap()]);
        let mut child = command.env_clear().stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&vec![0; 1 << 20]).await.unwrap();
        office.until_told("BodyGrew").await;
        let pid = child.id().unwrap().to_string();
        std::process::Command::new("kill").args([signal, &pid]).status().unwrap();
        let ended = child.wait().await.unwrap();
        assert_eq!(ended.code(), (signal == "-INT").then_some(130));
        office.until_told("BodyAbandoned").await;
        assert_eq!(office.count("BodyEnded"), 0);
    }
}

#[tokio::test]
async fn a_command_that_fails_is_tried_again() {
    let office = Office::open();
    office.ok(&["send", "jobs@b", "--header", "kind=x"], b"hello").await;
    let command = "test \"$WAYPOST_DELIVERIES\" = 3 && test \"$WAYPOST_HEADER_KIND\" = x && cat";
    assert_eq!(office.ok(&["recv", "jobs", "--exec", command], b"").await, "hello");
    assert_eq!((office.count("Nacked 1000"), office.count("Nacked 2000")), (1, 1));
    assert_eq!(office.count("Acknowledged"), 1);
}

#[tokio::test]
async fn a_message_that_never_succeeds_ends_as_a_dead_letter() {
    let office = Office::open();
    office.ok(&["send", "jobs@b"], b"poison").await;
    let (code, _, err) = office.run(&["recv", "jobs", "--exec", "false", "--max-deliveries", "2"], b"").await;
    assert_eq!(code, 1);
    assert!(err.contains("dead-lettered after 2 deliveries"), "{err}");
    assert_eq!(office.count("Nacked"), 2);
}

#[tokio::test]
async fn waiting_ends_with_the_level_or_with_the_time() {
    let office = Office::open();
    let line = office.ok(&["send", "jobs@b", "--wait", "delivered", "--json"], b"x").await;
    assert_eq!(json(&line)["state"], "delivered");
    let late = ["send", "jobs@b", "--wait", "consumed", "--timeout", "100ms"];
    let (code, out, err) = office.run(&late, b"x").await;
    assert_eq!((code, out.lines().count()), (75, 1));
    assert!(err.contains("the message stays"), "{err}");
}

#[tokio::test]
async fn lists_have_their_shapes() {
    let office = Office::open();
    let status = json(&office.ok(&["status", "--json"], b"").await);
    assert_eq!(status["store"], serde_json::json!({"bytes": 1 << 20, "free_bytes": 2 << 20, "durable_seq": 17}));
    assert_eq!(status["transit"], serde_json::json!({"envelopes": 5, "bytes": 6, "standby": 1}));
    assert_eq!((&status["version"], &status["peers"]), (&"9.9.9".into(), &1.into()));
    let peer = json(&office.ok(&["peers", "--json"], b"").await);
    let here = HERE.to_string();
    let wanted =
        serde_json::json!({"address": here, "name": "b", "connected": true, "transport": "quic", "rtt_ms": 1.5});
    assert_eq!(peer, wanted);
    let route = json(&office.ok(&["routes", "--json"], b"").await);
    assert_eq!(route, serde_json::json!({"to": here, "waiting": 3}));
    let id = json(&office.ok(&["id", "--json"], b"").await);
    assert_eq!(
        id,
        serde_json::json!({"address": here, "name": "here", "network": "net", "listen": ["/ip4/127.0.0.1/tcp/1"]})
    );
    assert_eq!(office.ok(&["id"], b"").await, format!("{here}\n"));
    assert!(office.ok(&["status"], b"").await.contains("1 message, 2"));
}

#[tokio::test]
async fn a_node_that_has_never_run_knows_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let key = waypost::identity::load_or_create(&data).unwrap();
    let (code, out, _) = shown(run(dir.path(), &["id", "--data", data.to_str().unwrap()], b"").await);
    assert_eq!((code, out), (0, format!("{}\n", key.id())));
}

#[tokio::test]
async fn cancel_says_what_became_of_the_message() {
    let office = Office::open();
    let id = office.ok(&["send", "jobs@b"], b"x").await;
    let outcome = json(&office.ok(&["cancel", "--json", id.trim_end()], b"").await);
    assert_eq!(outcome, serde_json::json!({"id": id.trim_end(), "state": "cancelled"}));
    assert!(office.ok(&["trace", id.trim_end()], b"").await.contains("accepted"));
}
