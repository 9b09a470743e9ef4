//! The process itself: how it is configured, told to stop, watched over and read from; what it refuses to start on.

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use waypost_tests::harness::client::SOON;
use waypost_tests::harness::{Client, Finished, Node, Sandbox, binary, command, exit, wait};
use waypost_tests::workspace_root;

/// How long a node may take to end.
const END: Duration = Duration::from_secs(10);

fn node(name: &str) -> (Sandbox, Node) {
    let sandbox = Sandbox::new(name).unwrap();
    let node = Node::new(&sandbox, &binary::find().unwrap(), "a").unwrap();
    (sandbox, node)
}

/// Runs `waypost run` to an end that should come at once.
fn refused(sandbox: &Sandbox, node: &Node, socket: &Path) -> String {
    let mut command = node.run_command(socket);
    let ended = command::run(&mut command, None, sandbox.path(), SOON).unwrap();
    ended.expect(exit::CONFIGURATION).unwrap().stderr
}

/// A process that is ended with its test.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn beside(node: &Node, script: &str, out: &Path) -> Beside {
    let mut shell = Command::new("sh");
    command::clean_environment(&mut shell);
    shell.args(["-c", script]).env("WAYPOST", node.binary()).env("WAYPOST_SOCKET", node.socket());
    shell.stdin(Stdio::null()).stdout(File::create(out).unwrap()).stderr(Stdio::null());
    Beside(shell.spawn().unwrap())
}

/// A consumer that has come and does not read: its connection stays, whatever the node says.
fn deaf_consumer(sandbox: &Sandbox, node: &Node) -> Beside {
    let out = sandbox.file("deaf");
    node.send(&node.channel("deaf").unwrap(), b"hello").unwrap();
    let consumer = beside(node, "exec \"$WAYPOST\" recv deaf --follow", &out);
    wait::until("the consumer's first message", SOON, &[], || Ok((fs::metadata(&out)?.len() > 0).then_some(())))
        .unwrap();
    kill_process(Pid::from_child(&consumer.0), Signal::STOP).unwrap();
    consumer
}

#[test]
fn told_to_stop_it_ends_in_time_with_0_and_has_kept_what_it_accepted() {
    let (sandbox, mut node) = node("stop");
    for signal in [Signal::TERM, Signal::INT] {
        node.start().unwrap();
        let before = node.status().unwrap().inbox.messages;
        let _deaf = deaf_consumer(&sandbox, &node);
        let _idle = node.follow("nothing-comes", Duration::from_secs(600)).map(Beside).unwrap();
        let accepted = sandbox.file("accepted");
        let to = node.channel("work").unwrap();
        let busy = beside(&node, &format!("yes a line of mail | \"$WAYPOST\" send --lines {to}"), &accepted);
        let enough = || Ok((fs::read_to_string(&accepted)?.lines().count() > 2000).then_some(()));
        wait::until("a busy sender", SOON, &[&node.log()], enough).unwrap();
        let begun = Instant::now();
        node.tell(signal).unwrap();
        let ended = node.await_end().unwrap();
        assert_eq!(ended.code(), Some(0), "{signal:?}: {ended}");
        assert!(begun.elapsed() < END, "{signal:?}: {:?}", begun.elapsed());
        assert!(!node.socket().exists(), "it left its socket");
        drop(busy);
        let text = fs::read_to_string(&accepted).unwrap();
        let ids = text.lines().filter(|line| line.len() == 36).count() as u64;
        node.start().unwrap();
        let kept = node.status().unwrap().inbox.messages - before;
        assert!(kept >= ids, "{ids} were accepted and {kept} are there");
        node.kill9().unwrap();
    }
}

#[test]
fn told_twice_it_ends_at_once() {
    let (sandbox, mut node) = node("twice-told");
    node.start().unwrap();
    let _deaf = deaf_consumer(&sandbox, &node);
    node.tell(Signal::TERM).unwrap();
    let log = node.log();
    let stopping = || Ok(fs::read_to_string(&log)?.contains("stopping").then_some(()));
    wait::until("the node to begin to stop", SOON, &[&log], stopping).unwrap();
    node.tell(Signal::TERM).unwrap();
    assert_eq!(node.await_end().unwrap().code(), Some(130));
    assert!(fs::read_to_string(&log).unwrap().contains("told twice"));
}

#[test]
fn a_stale_socket_is_replaced_a_living_one_and_a_file_are_not() {
    let (sandbox, mut node) = node("socket");
    node.start().unwrap();
    let second = Node::new(&sandbox, node.binary(), "second").unwrap();
    let said = refused(&sandbox, &second, node.socket());
    assert!(said.contains("another node answers at") && said.contains("--socket"), "{said}");
    node.status().unwrap();
    node.kill9().unwrap();
    assert!(node.socket().exists(), "a killed node leaves its socket: without that this test proves nothing");
    node.start().unwrap();
    node.stop().unwrap();
    fs::write(node.socket(), "my notes").unwrap();
    let said = refused(&sandbox, &node, node.socket());
    assert!(said.contains("is not a socket"), "{said}");
    assert_eq!(fs::read(node.socket()).unwrap(), b"my notes");
}

#[test]
fn a_key_others_can_read_is_refused_with_what_to_type() {
    let (sandbox, mut node) = node("key");
    node.start().unwrap();
    node.stop().unwrap();
    let key = node.data().join("key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let said = refused(&sandbox, &node, node.socket());
    let remedy = format!("chmod 600 {}", key.display());
    assert!(said.contains(&format!("`{remedy}`")), "{said}");
    assert!(Command::new("sh").args(["-c", &remedy]).status().unwrap().success());
    node.start().unwrap();
}

#[test]
fn a_file_is_no_data_directory() {
    let (sandbox, node) = node("file");
    fs::write(node.data(), "mine").unwrap();
    let said = refused(&sandbox, &node, node.socket());
    assert!(said.contains("is a file"), "{said}");
    assert_eq!(fs::read(node.data()).unwrap(), b"mine");
}

/// Stands in for the service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn over(node: &mut Node, sandbox: &Sandbox, watchdog: Duration) -> Self {
        let path = sandbox.socket("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        node.set("NOTIFY_SOCKET", path.to_str().unwrap());
        node.set("WATCHDOG_USEC", &watchdog.as_micros().to_string());
        Self(socket)
    }

    fn next(&self) -> String {
        let mut text = [0; 4096];
        let bytes = self.0.recv(&mut text).expect("the node says nothing");
        String::from_utf8(text[..bytes].to_vec()).unwrap()
    }
}

#[test]
fn the_service_manager_is_told_when_it_serves_lives_and_stops() {
    let (sandbox, mut node) = node("notify");
    let manager = Manager::over(&mut node, &sandbox, Duration::from_millis(200));
    let mut process = node.run_command(node.socket()).stderr(Stdio::null()).spawn().map(Beside).unwrap();
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\n") && ready.contains("STATUS="), "{ready}");
    node.status().expect("it says that it is ready and does not answer");
    for _ in 0..4 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    kill_process(Pid::from_child(&process.0), Signal::TERM).unwrap();
    let last = std::iter::repeat_with(|| manager.next()).find(|said| said != "WATCHDOG=1\n");
    assert_eq!(last.as_deref(), Some("STOPPING=1\n"));
    assert!(process.0.wait().unwrap().success());
}

#[test]
fn the_unit_file_is_sound_and_gives_the_service_little() {
    let unit = fs::read_to_string(workspace_root().unwrap().join("node/systemd/waypost.service")).unwrap();
    let sandbox = Sandbox::new("unit").unwrap();
    // The program need not be installed here to look at the rest.
    let here = unit.replace("/usr/bin/waypost", binary::find().unwrap().to_str().unwrap());
    assert_ne!(here, unit);
    let path = sandbox.file("waypost.service");
    fs::write(&path, here).unwrap();
    let analyze = |args: &[&str]| -> Option<Finished> {
        let mut command = Command::new("systemd-analyze");
        command.args(args).arg(&path);
        command::run(&mut command, None, sandbox.path(), SOON).ok()
    };
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no systemd-analyze here; the unit file was not looked at");
        return;
    }
    let verified = analyze(&["verify", "--recursive-errors=no"]).unwrap().ok().unwrap();
    assert_eq!(verified.said().trim(), "", "systemd does not like the unit");
    // In tenths: what reliability asks of a daemon with keys.
    analyze(&["security", "--offline=true", "--no-pager", "--threshold=20"]).unwrap().ok().unwrap();
}

/// Runs a command that needs no node, with nothing of this machine's configuration.
fn bare(sandbox: &Sandbox, variables: &[(&str, &str)], args: &[&str]) -> Finished {
    let mut command = Command::new(binary::find().unwrap());
    command.env_clear().env("HOME", sandbox.path()).envs(variables.iter().copied()).args(args);
    command::run(&mut command, None, sandbox.path(), SOON).unwrap()
}

#[test]
fn a_configuration_is_checked_as_a_whole_and_shown_with_who_said_what() {
    let sandbox = Sandbox::new("config").unwrap();
    let file = sandbox.file("w.toml");
    let path = file.to_str().unwrap();
    let wrong = "nmae = \"x\"\ndial = \"all\"\nlisten = [\"/ip4/0.0.0.0/tcp/1\", \"oops\"]\n[limits]\noutbox_bytes = \"1 elephant\"\n";
    fs::write(&file, wrong).unwrap();
    let checked = bare(&sandbox, &[("WAYPOST_SOCKET_MODE", "77")], &["config", "check", path]);
    let said = checked.expect(exit::CONFIGURATION).unwrap().stderr;
    for place in [":1:1: ", ":2:8: ", ":3:33: ", ":5:16: "] {
        assert!(said.contains(&format!("{path}{place}")), "{place} in {said}");
    }
    assert!(said.contains("WAYPOST_SOCKET_MODE: ") && said.trim().lines().count() == 5, "{said}");
    // What `check` refuses, `run` refuses.
    bare(&sandbox, &[], &["run", "--config", path]).expect(exit::CONFIGURATION).unwrap();

    fs::write(&file, "name = \"harbour\"\n[limits]\ndisk_reserve = \"1 GiB\"\n").unwrap();
    let checked = bare(&sandbox, &[], &["config", "check", path]).ok().unwrap();
    assert_eq!((checked.text().as_str(), checked.stderr.as_str()), ("ok\n", ""));
    let variables = [("WAYPOST_DIAL", "known")];
    let shown = bare(&sandbox, &variables, &["config", "show", path, "--socket", "/there/s"]).ok().unwrap().text();
    let wanted = [
        format!("name = \"harbour\"  # {path}:1"),
        format!("limits.disk_reserve = 1073741824  # {path}:3"),
        "dial = \"known\"  # WAYPOST_DIAL".to_owned(),
        "socket = \"/there/s\"  # --socket".to_owned(),
        "mdns = true  # default".to_owned(),
        format!(
            "data = \"{}\"  # default",
            if rustix::process::geteuid().is_root() {
                "/var/lib/waypost".to_owned()
            } else {
                sandbox.file(".local/share/waypost").display().to_string()
            }
        ),
    ];
    for line in wanted {
        assert!(shown.lines().any(|shown| shown == line), "{line} in\n{shown}");
    }
    // A conventional file is found without being named.
    let etc = [("CONFIGURATION_DIRECTORY", sandbox.path().to_str().unwrap())];
    fs::rename(&file, sandbox.file("waypost.toml")).unwrap();
    assert!(bare(&sandbox, &etc, &["config", "show"]).ok().unwrap().text().contains("harbour"));
}

#[test]
fn with_json_every_failure_is_one_object() {
    let (sandbox, mut node) = node("json");
    let client = Client::new(&binary::find().unwrap(), &sandbox.socket("none"), sandbox.path());
    let error = |finished: Finished, code: i32| {
        let said: Value = serde_json::from_str(&finished.expect(code).unwrap().stderr).unwrap();
        assert_eq!(said["code"], code);
        said["error"].as_str().unwrap().to_owned()
    };
    assert!(error(client.json(["status"], SOON).unwrap(), exit::UNAVAILABLE).contains("no node answers"));
    assert!(error(client.run(["stauts", "--json"], SOON).unwrap(), exit::USAGE).contains("stauts"));
    let configured = bare(&sandbox, &[("WAYPOST_DIAL", "x")], &["config", "check", "--json"]);
    assert!(error(configured, exit::CONFIGURATION).contains("WAYPOST_DIAL"));
    node.start().unwrap();
    let unknown = node.send_with("work@nobody", b"x", &[]).unwrap();
    assert!(error(unknown, exit::TRY_AGAIN).contains("nobody"));
    let status: Value = node.json(["status"], SOON).unwrap().ok().unwrap().one().unwrap();
    assert_eq!((status["name"].as_str(), status["address"].as_str()), (Some("a"), node.address().ok()));
    assert!(
        status["network"].as_str().is_some_and(|id| !id.is_empty()) && status["listen"].as_array().unwrap().len() == 2
    );
}

#[test]
fn a_malformed_address_is_called_malformed() {
    let (_sandbox, mut node) = node("malformed");
    node.start().unwrap();
    let whole = node.channel("work").unwrap();
    for cut in [&whole[..whole.len() - 3], "work@12D3KooW", "work@12D3KooWnot-at-all"] {
        let said = node.run(["send", cut], SOON).unwrap().expect(exit::USAGE).unwrap().stderr;
        assert!(said.contains("malformed address") && !said.contains("no node named"), "{said}");
    }
}

#[test]
fn what_can_never_fit_into_the_outbox_is_not_to_be_tried_again() {
    let (_sandbox, mut node) = node("never");
    node.set("WAYPOST_OUTBOX_BYTES", "600kB");
    node.start().unwrap();
    let to = node.channel("work").unwrap();
    let refused = node.send_with(&to, &vec![7; 700_000], &[]).unwrap().expect(exit::FAILED).unwrap();
    assert!(refused.stderr.contains("can never fit"), "{refused:?}");
    node.send(&to, &vec![7; 500_000]).unwrap();
    assert_eq!(node.recv("work", 1, SOON).unwrap().len(), 1);
}

#[test]
fn every_line_of_a_json_log_is_one_object() {
    let (_sandbox, mut node) = node("log");
    node.set("WAYPOST_LOG_FORMAT", "json");
    node.set("WAYPOST_LOG", "waypost=debug");
    node.start().unwrap();
    let id = node.send(&node.channel("work").unwrap(), b"hello").unwrap();
    node.stop().unwrap();
    let text = fs::read_to_string(node.log()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let line = |message: &str| lines.iter().find(|line| line["message"] == message).expect(message);
    assert_eq!(line("running")["node"].as_str(), node.address().ok());
    assert_eq!((&line("accepted")["id"], &line("accepted")["level"]), (&id.as_str().into(), &"DEBUG".into()));
    assert!(line("stopped")["ms"].as_u64().is_some_and(|ms| ms < 10_000));
}

#[test]
fn dead_letters_are_listed_with_reasons_retried_and_dropped() {
    let (_sandbox, mut node) = node("dead");
    node.start().unwrap();
    let to = node.channel("jobs").unwrap();
    let ids: Vec<String> = ["one", "two"].map(|body| node.send(&to, body.as_bytes()).unwrap()).into();
    let failing = ["recv", "jobs", "-n", "2", "--exec", "false", "--max-deliveries", "1"];
    node.run(failing, SOON).unwrap().expect(exit::FAILED).unwrap();
    let list =
        |channel: &str| node.json(["dead", "list", channel], SOON).unwrap().ok().unwrap().lines::<Value>().unwrap();
    let letters = list("jobs");
    assert_eq!(letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    let first = &letters[0];
    assert_eq!((first["channel"].as_str(), first["from"].as_str()), (Some("jobs"), node.address().ok()));
    assert_eq!((first["reason"].as_str(), first["deliveries"].as_u64()), (Some("delivered too often"), Some(1)));
    assert!(first["died_at"].as_str().unwrap().ends_with('Z') && list("other").is_empty());
    let said = node.run(["dead", "drop", &ids[0]], SOON).unwrap().ok().unwrap().text();
    assert_eq!(said, format!("{}  dropped\n", ids[0]));
    let gone = node.run(["dead", "drop", &ids[0]], SOON).unwrap().expect(exit::FAILED).unwrap();
    assert!(gone.stderr.contains(&ids[0]), "{gone:?}");
    node.run(["dead", "retry"], SOON).unwrap().expect(exit::USAGE).unwrap();
    let retried = node.json(["dead", "retry", "--all"], SOON).unwrap().ok().unwrap().one::<Value>().unwrap();
    assert_eq!((retried["id"].as_str(), retried["state"].as_str()), (Some(ids[1].as_str()), Some("retried")));
    let again = node.recv("jobs", 1, SOON).unwrap();
    assert_eq!(again[0].id, ids[1]);
    assert_eq!(node.status().unwrap().inbox.messages, 0);
}
