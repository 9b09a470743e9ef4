//! The README's commands, to the letter and in order, against real nodes; its `make` targets against the Makefile.
//! A block fenced as `sh HOST` is typed on that host. Only what a document cannot know is put in: TOKEN, ID and
//! B_ADDRESS; and nodes listen on loopback, at free ports, instead of the world.

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use waypost_tests::harness::client::PATIENT;
use waypost_tests::harness::readme::{COMPOSE, Line, commands};
use waypost_tests::harness::{Node, Sandbox, binary, command, wait};
use waypost_tests::workspace_root;

/// The hosts of the README and what their commands have said so far.
struct Hosts {
    nodes: BTreeMap<String, Node>,
    sandbox: Sandbox,
    token: String,
    id: String,
}

impl Hosts {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new("readme")?;
        std::os::unix::fs::symlink(binary::find()?, sandbox.file("waypost"))?;
        Ok(Self { nodes: BTreeMap::new(), sandbox, token: String::new(), id: String::new() })
    }

    fn node(&mut self, host: &str) -> Result<&mut Node> {
        if !self.nodes.contains_key(host) {
            self.nodes.insert(host.to_owned(), Node::new(&self.sandbox, &binary::find()?, host)?);
        }
        self.nodes.get_mut(host).context("it was put there")
    }

    fn run(&mut self, line: &Line) -> Result<()> {
        let host = line.host.as_deref().with_context(|| format!("no host is named for `{}`", line.text))?;
        let text = self.filled_in(&line.text)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["waypost", "run", options @ ..] => self.start(host, options),
            ["waypost", "join", token] => self.node(host)?.join(token),
            _ => {
                self.await_names(host, &text)?;
                self.shell(host, &text)
            }
        }
        .with_context(|| format!("on {host}: {}", line.text))
    }

    /// A person is slower than the nodes' facts; a test waits until the host has heard of the node it sends to.
    fn await_names(&mut self, host: &str, text: &str) -> Result<()> {
        let Some(name) = text.split_whitespace().find_map(|word| Some(word.split_once('@')?.1.to_owned())) else {
            return Ok(());
        };
        let folder = self.sandbox.path().to_owned();
        let node = self.node(host)?;
        let (socket, log) = (node.socket().to_owned(), node.log());
        let known = format!("\"name\":\"{name}\"");
        wait::until(&format!("{host} to hear of {name}"), PATIENT, &[&log], || {
            let mut routes = Command::new(folder.join("waypost"));
            command::clean_environment(&mut routes);
            routes.args(["--json", "routes"]).env("WAYPOST_SOCKET", &socket);
            let said = command::run(&mut routes, None, &folder, PATIENT)?.ok()?.text();
            Ok(said.contains(&known).then_some(()))
        })
    }

    fn filled_in(&self, text: &str) -> Result<String> {
        let b_address = self.nodes.get("b").and_then(|b| b.dial_at("tcp").ok()).unwrap_or_default();
        let mut filled = text.to_owned();
        for (word, value) in [("B_ADDRESS", &b_address), ("TOKEN", &self.token), ("ID", &self.id)] {
            if text.split_whitespace().any(|each| each == word) {
                if value.is_empty() {
                    bail!("`{text}` needs {word}, which nothing before it printed");
                }
                filled = filled.replace(word, value);
            }
        }
        Ok(filled)
    }

    fn start(&mut self, host: &str, options: &[&str]) -> Result<()> {
        let node = self.node(host)?;
        for pair in options.chunks(2) {
            match pair {
                ["--name", name] if *name == node.name() => {}
                ["--peer", address] => node.add_peer(address),
                // The harness names free ports on loopback instead.
                ["--listen", _] => {}
                other => bail!("this test does not know {other:?}"),
            }
        }
        node.start()
    }

    fn shell(&mut self, host: &str, text: &str) -> Result<()> {
        let folder = self.sandbox.path().to_owned();
        let node = self.node(host)?;
        let mut shell = Command::new("sh");
        command::clean_environment(&mut shell);
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        shell.args(["-ec", text]).current_dir(&folder).env("PATH", path).env("WAYPOST_SOCKET", node.socket());
        let said = command::run(&mut shell, None, &folder, PATIENT)?.ok()?.text();
        let last = said.lines().last().unwrap_or_default().to_owned();
        if text.contains("waypost invite") {
            self.token = last;
        } else if text.contains("waypost send") {
            self.id = last;
        }
        Ok(())
    }
}

fn readme() -> String {
    fs::read_to_string(workspace_root().unwrap().join("README.md")).unwrap()
}

#[test]
fn every_waypost_command_of_the_readme_does_what_it_says() {
    // What is typed where containers run is for `compose.rs`.
    let typed_on_hosts = |line: &Line| line.text.contains("waypost ") && line.host.as_deref() != Some(COMPOSE);
    let lines: Vec<Line> = commands(&readme()).into_iter().filter(typed_on_hosts).collect();
    assert!(lines.len() >= 8, "the README lost its quick start: {lines:?}");
    let mut hosts = Hosts::new().unwrap();
    for line in &lines {
        println!("{}> {}", line.host.as_deref().unwrap_or("?"), line.text);
        hosts.run(line).unwrap();
    }
}

#[test]
fn every_make_target_of_the_readme_exists() {
    let makefile = fs::read_to_string(workspace_root().unwrap().join("Makefile")).unwrap();
    let lines = commands(&readme());
    let targets: Vec<&str> = lines.iter().filter_map(|line| line.text.strip_prefix("make ")).collect();
    assert!(targets.iter().any(|target| target.starts_with("demo")) && targets.iter().any(|t| t.starts_with("test")));
    for target in targets.iter().filter_map(|target| target.split_whitespace().next()) {
        assert!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "make {target}");
    }
}
