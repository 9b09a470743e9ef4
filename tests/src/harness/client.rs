//! What an application or a person does at one node's socket: typed wrappers over `waypost --json`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::command::{self, Finished};
use super::words::{Id, Peer, Received, Route, Sent, Status, Trace};

/// For commands that answer from the node's own state.
pub const SOON: Duration = Duration::from_secs(20);
/// For commands that wait for mail to travel.
pub const PATIENT: Duration = Duration::from_secs(120);

/// The command line at one socket. Cheap to clone; outlives the node behind it.
#[derive(Clone, Debug)]
pub struct Client {
    binary: PathBuf,
    socket: PathBuf,
    scratch: PathBuf,
}

impl Client {
    /// Speaks to whatever listens at `socket`, now or later; keeps its passing files in `scratch`.
    #[must_use]
    pub fn new(binary: &Path, socket: &Path, scratch: &Path) -> Self {
        Self { binary: binary.to_owned(), socket: socket.to_owned(), scratch: scratch.to_owned() }
    }

    /// The binary it runs.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The socket it speaks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command::clean_environment(&mut command);
        command.arg("--socket").arg(&self.socket);
        command
    }

    /// Runs `waypost --socket S ARGS…` to its end, whatever end that is.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, deadline: Duration) -> Result<Finished> {
        command::run(self.command().args(args), None, &self.scratch, deadline)
    }

    /// The same with `--json`.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn json<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, deadline: Duration) -> Result<Finished> {
        command::run(self.command().arg("--json").args(args), None, &self.scratch, deadline)
    }

    /// Who the node is and where it listens.
    ///
    /// # Errors
    /// When no node answers.
    pub fn id(&self) -> Result<Id> {
        self.json(["id"], SOON)?.ok()?.one()
    }

    /// What the node holds.
    ///
    /// # Errors
    /// When no node answers.
    pub fn status(&self) -> Result<Status> {
        self.json(["status"], SOON)?.ok()?.one()
    }

    /// Whom the node knows.
    ///
    /// # Errors
    /// When no node answers.
    pub fn peers(&self) -> Result<Vec<Peer>> {
        self.json(["peers"], SOON)?.ok()?.lines()
    }

    /// Whether the node has a connection to `address`.
    ///
    /// # Errors
    /// When no node answers.
    pub fn is_connected_to(&self, address: &str) -> Result<bool> {
        Ok(self.peers()?.iter().any(|peer| peer.connected && peer.address == address))
    }

    /// Which way mail goes.
    ///
    /// # Errors
    /// When no node answers.
    pub fn routes(&self) -> Result<Vec<Route>> {
        self.json(["routes"], SOON)?.ok()?.lines()
    }

    /// A message's ladder and custody log.
    ///
    /// # Errors
    /// When no node answers or the message is unknown.
    pub fn trace(&self, id: &str) -> Result<Trace> {
        self.json(["trace", id], SOON)?.ok()?.one()
    }

    /// A token that admits a new host.
    ///
    /// # Errors
    /// When no node answers.
    pub fn invite(&self) -> Result<String> {
        last_line(&self.run(["invite"], SOON)?.ok()?)
    }

    /// Sends one message and waits until it is accepted.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn send(&self, to: &str, body: &[u8]) -> Result<String> {
        self.send_with(to, body, &[])?.ok()?.one().map(|sent: Sent| sent.id)
    }

    /// Sends one message with further options, to whatever end.
    ///
    /// # Errors
    /// When the command does not end in time.
    pub fn send_with(&self, to: &str, body: &[u8], options: &[&str]) -> Result<Finished> {
        let file = tempfile::NamedTempFile::new_in(&self.scratch)?;
        fs::write(file.path(), body)?;
        let args = ["send", to].into_iter().chain(options.iter().copied()).chain(["-"]);
        command::run(self.command().arg("--json").args(args), Some(file.path()), &self.scratch, PATIENT)
    }

    /// Sends each file as a message of its own; gives the ids in their order.
    ///
    /// # Errors
    /// When they are not all accepted.
    pub fn send_files(&self, to: &str, files: &[PathBuf]) -> Result<Vec<String>> {
        let args = ["send", to].into_iter().map(OsString::from).chain(files.iter().map(OsString::from));
        ids(&self.json(args, PATIENT)?.ok()?)
    }

    /// Starts sending files and does not wait; the command's talk goes to this process's.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn begin_send_files(&self, to: &str, files: &[PathBuf]) -> Result<Child> {
        let mut command = self.command();
        command.args(["send", to]).args(files).stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().context("starting waypost send")
    }

    /// Sends each line of `lines` as a message of its own, to whatever end; accepted ids are in the answer.
    ///
    /// # Errors
    /// When the command does not end in time.
    pub fn send_lines(&self, to: &str, lines: &[String], options: &[&str]) -> Result<Finished> {
        let file = tempfile::NamedTempFile::new_in(&self.scratch)?;
        fs::write(file.path(), lines.join("\n") + "\n")?;
        let args = ["--json", "send", "--lines", to].into_iter().chain(options.iter().copied()).chain(["-"]);
        command::run(self.command().args(args), Some(file.path()), &self.scratch, PATIENT)
    }

    /// Receives and acknowledges exactly `count` messages.
    ///
    /// # Errors
    /// When fewer come within `patience` of one another.
    pub fn recv(&self, channel: &str, count: usize, patience: Duration) -> Result<Vec<Received>> {
        let (count, timeout) = (count.to_string(), format!("{}ms", patience.as_millis()));
        let args = ["recv", channel, "-n", &count, "--timeout", &timeout];
        self.json(args, patience + PATIENT)?.ok()?.lines()
    }

    /// Receives exactly `count` messages into files of the folder `out`.
    ///
    /// # Errors
    /// When fewer come within `patience` of one another.
    pub fn recv_into(&self, channel: &str, count: usize, out: &Path, patience: Duration) -> Result<()> {
        fs::create_dir_all(out)?;
        let (count, timeout) = (count.to_string(), format!("{}ms", patience.as_millis()));
        let args = ["recv", channel, "-n", &count, "--timeout", &timeout, "--out"].map(OsStr::new);
        self.run(args.into_iter().chain([out.as_os_str()]), patience + PATIENT)?.ok()?;
        Ok(())
    }

    /// Starts a consumer that prints one JSON object a message and ends when none has come for `idle`.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn follow(&self, channel: &str, idle: Duration) -> Result<Child> {
        let timeout = format!("{}ms", idle.as_millis());
        let mut command = self.command();
        command.args(["--json", "recv", channel, "--follow", "--timeout", &timeout]);
        let talk = File::options().create(true).append(true).open(self.scratch.join("follow.err"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(talk);
        command.spawn().context("starting waypost recv --follow")
    }
}

/// The ids of a `send`, also of one that failed half-way.
///
/// # Errors
/// When the output is not what `send --json` prints.
pub fn ids(finished: &Finished) -> Result<Vec<String>> {
    Ok(finished.lines::<Sent>()?.into_iter().map(|sent| sent.id).collect())
}

fn last_line(finished: &Finished) -> Result<String> {
    finished.text().lines().last().map(str::to_owned).context("nothing was printed")
}
