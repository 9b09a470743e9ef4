//! One node's process: started, killed, stopped, started again on the same data, name and ports.

use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::client::{Client, SOON};
use super::command::{self, Finished};
use super::{Sandbox, exit, wait};

/// From a start to the first answer: recovery of a large store on a busy machine included.
const READY: Duration = Duration::from_secs(60);
/// From SIGTERM to the end.
const STOPPED: Duration = Duration::from_secs(30);

static NODES: AtomicU32 = AtomicU32::new(0);

/// A node. Spoken to as its [`Client`]; killed when dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    home: PathBuf,
    client: Client,
    listen: Vec<String>,
    peers: Vec<String>,
    environment: Vec<(String, String)>,
    /// Whom it dials on the host's own network.
    dials: &'static str,
    /// The network namespace it lives in, where there is nobody else to be found.
    namespace: Option<String>,
    address: Option<String>,
    child: Option<Child>,
}

impl Deref for Node {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Node {
    /// A node that has not run yet, with a folder of its own in `sandbox`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(sandbox: &Sandbox, binary: &Path, name: &str) -> Result<Self> {
        let home = sandbox.file(name);
        fs::create_dir_all(&home)?;
        let client = Client::new(binary, &sandbox.socket(name), &home);
        let listen = own_ports();
        Ok(Self {
            name: name.to_owned(),
            home,
            client,
            listen,
            peers: vec![],
            environment: vec![],
            dials: "known",
            namespace: None,
            address: None,
            child: None,
        })
    }

    /// Listens only where the address has this part, as in `udp`. Before the first start.
    pub fn listen_only(&mut self, part: &str) {
        let part = format!("/{part}/");
        self.listen.retain(|address| address.contains(&part));
    }

    /// Listens only at `listen`. Before a start.
    pub fn listen_at(&mut self, listen: &str) {
        self.listen = vec![listen.to_owned()];
    }

    /// Lives in a network namespace from the next start on, and looks around there for neighbours.
    pub fn live_in(&mut self, namespace: &str) {
        self.namespace = Some(namespace.to_owned());
    }

    /// Also dials whom it only heard of, from the next start on.
    pub fn dial_anybody(&mut self) {
        self.dials = "any";
    }

    /// Dials `peer` from the next start on.
    pub fn add_peer(&mut self, peer: &str) {
        self.peers.push(peer.to_owned());
    }

    /// Names no peer from the next start on.
    pub fn forget_peers(&mut self) {
        self.peers.clear();
    }

    /// Listens at other ports from the next start on.
    pub fn move_ports(&mut self) {
        self.listen = own_ports();
    }

    /// Sets a variable of its environment from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// What it said, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// A client of its socket that does not borrow the node.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Its address.
    ///
    /// # Errors
    /// Before its first start.
    pub fn address(&self) -> Result<&str> {
        self.address.as_deref().with_context(|| format!("{} has not run yet", self.name))
    }

    /// `channel` here, as a sender names it.
    ///
    /// # Errors
    /// Before its first start.
    pub fn channel(&self, channel: &str) -> Result<String> {
        Ok(format!("{channel}@{}", self.address()?))
    }

    /// Where to dial it: its first address with `transport` in it.
    ///
    /// # Errors
    /// Before its first start.
    pub fn dial_at(&self, transport: &str) -> Result<String> {
        let needle = format!("/{transport}/");
        let listen = self.listen.iter().find(|listen| listen.contains(&needle)).context("no such transport")?;
        Ok(format!("{listen}/p2p/{}", self.address()?))
    }

    /// Starts it and waits until it answers. The first start founds a network, unless it has joined one.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// The same with further flags of `run`, this time only.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_with(&mut self, flags: &[&str]) -> Result<()> {
        self.launch(flags)?;
        self.await_ready()
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self, flags: &[&str]) -> Result<()> {
        if self.child.is_some() {
            bail!("{} is running already", self.name);
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = self.run_command(self.client.socket());
        command.args(flags).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.client.binary().display()))?);
        Ok(())
    }

    /// The number of its process.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().with_context(|| format!("{} is not running", self.name))?.id())
    }

    /// With which code it has ended by itself; `None`: it runs on. One that has ended can be started again.
    ///
    /// # Errors
    /// When it was not running, or was ended by a signal.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        let child = self.child.as_mut().with_context(|| format!("{} is not running", self.name))?;
        let Some(status) = child.try_wait()? else { return Ok(None) };
        self.child = None;
        status.code().map(Some).with_context(|| format!("{} ended with {status}", self.name))
    }

    /// Waits until it has ended by itself; gives its code.
    ///
    /// # Errors
    /// When it does not end.
    pub fn await_code(&mut self) -> Result<i32> {
        let (what, log) = (format!("{} to end by itself", self.name), self.log());
        wait::until(&what, STOPPED, &[&log], || self.ended())
    }

    /// The command that starts it, answering at `socket`: what a person would type, with everything of its own.
    #[must_use]
    pub fn run_command(&self, socket: &Path) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(self.client.binary()),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(self.client.binary());
                command
            }
        };
        command::clean_environment(&mut command);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("run").arg("--data").arg(self.data()).arg("--socket").arg(socket);
        command.args(["--name", &self.name]);
        if self.namespace.is_none() {
            // On the host's own network nobody is looked for or found, or dialled but whom a test names.
            command.args(["--dial", self.dials, "--no-mdns"]);
        }
        if forgets(&self.home) {
            command.arg("--force");
        }
        command.args(self.listen.iter().flat_map(|address| ["--listen", address]));
        command.args(self.peers.iter().flat_map(|address| ["--peer", address]));
        command
    }

    /// Waits until it answers and listens, after [`Node::launch`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn await_ready(&mut self) -> Result<()> {
        let log = self.log();
        let (child, client) = (&mut self.child, &self.client);
        let wanted = self.listen.len();
        let what = format!("{} to answer and to listen", self.name);
        let id = wait::until(&what, READY, &[&log], || {
            if let Some(status) = child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the node ended: {status}");
            }
            if client.json(["status"], SOON)?.code != exit::OK {
                return Ok(None);
            }
            Ok(Some(client.id()?).filter(|id| id.listen.len() >= wanted))
        })?;
        // The ports the system gave at the first start are kept, so that others find it again after a restart.
        self.listen = id.listen.iter().map(|address| without_peer(address)).collect();
        self.address = Some(id.address);
        Ok(())
    }

    /// Ends the process as a power switch would, for the process.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} is not running", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Kills it if it runs, and starts it again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        if self.child.is_some() {
            self.kill9()?;
        }
        self.start()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is not running.
    pub fn tell(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.name))?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Asks it to stop, and waits until it has, with 0.
    ///
    /// # Errors
    /// When it is not running, does not stop, or ends with another code.
    pub fn stop(&mut self) -> Result<()> {
        self.tell(Signal::TERM)?;
        let status = self.await_end()?;
        if !status.success() {
            bail!("{} stopped with {status}", self.name);
        }
        Ok(())
    }

    /// Waits until its process has ended, killing it when it does not.
    ///
    /// # Errors
    /// When it is not running or does not end.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("{} is not running", self.name))?;
        let stopped = wait::until(&format!("{} to stop", self.name), STOPPED, &[&self.log()], || Ok(child.try_wait()?));
        if stopped.is_err() {
            child.kill()?;
            child.wait()?;
        }
        stopped
    }

    /// Takes an invitation, before the first start.
    ///
    /// # Errors
    /// When the command cannot be run.
    pub fn try_join(&self, token: &str) -> Result<Finished> {
        let data = self.data();
        self.client.run(["join".as_ref(), token.as_ref(), "--data".as_ref(), data.as_os_str()], SOON)
    }

    /// Takes an invitation that must be good.
    ///
    /// # Errors
    /// When it is not.
    pub fn join(&self, token: &str) -> Result<()> {
        self.try_join(token)?.ok().map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A loopback address nobody else uses, because a port must still be free when its node comes back: on an address
/// shared with everything else on the machine, somebody's outgoing connection may have taken it meanwhile.
fn own_loopback() -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    let node = NODES.fetch_add(1, Ordering::Relaxed) % 250;
    format!("127.{}.{low}.{}", 1 + high % 254, 2 + node)
}

fn own_ports() -> Vec<String> {
    let host = own_loopback();
    vec![format!("/ip4/{host}/tcp/0"), format!("/ip4/{host}/udp/0/quic-v1")]
}

/// Whether `path` lies on a file system that a node refuses because it may forget, as in a container or in memory. A
/// test's mail need not outlive the machine.
fn forgets(path: &Path) -> bool {
    // statfs(2): tmpfs, ramfs, overlayfs, 9p, FUSE.
    const FORGETFUL: [u64; 5] = [0x0102_1994, 0x8584_58f6, 0x794c_7630, 0x0102_1997, 0x6573_5546];
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| FORGETFUL.contains(&kind)))
}

fn without_peer(address: &str) -> String {
    address.split("/p2p/").next().unwrap_or(address).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for the daemon: `run` records its arguments and stays; the rest answers from what is on disk.
    const FAKE: &str = r#"#!/bin/sh
here=$(dirname "$0")
case " $* " in
*" run "*)
    echo "$*" >> "$here/runs"
    : > "$here/up"
    trap 'rm -f "$here/up"; exit 0' TERM
    while :; do read -r _ < "$here/pipe"; done ;;
*" status"*) test -f "$here/up" || exit 69
    echo '{"outbox":{"messages":1,"bytes":2},"inbox":{"messages":0,"bytes":0},"transit":{"envelopes":0,"bytes":0,"standby":0}}' ;;
*" id"*) echo '{"address":"12D3","network":"n","listen":["/ip4/127.0.0.1/tcp/4567/p2p/12D3","/ip4/127.0.0.1/udp/89/quic-v1"]}' ;;
*" join "*) echo "$*" > "$here/joined" ;;
*" invite"*) printf 'for you:\nTOKEN\n' ;;
*" send "*" --lines"*|*" send --lines"*) n=0; while read -r _; do n=$((n + 1)); echo "{\"id\":\"m$n\"}"; done ;;
*) echo "what?" >&2; exit 2 ;;
esac
"#;

    /// Puts a program in place by another process: were it written from here, a command that another test starts at
    /// that moment would hold it open for writing, and the system would refuse to run it.
    fn install(sandbox: &Sandbox, script: &str) -> PathBuf {
        let (draft, binary) = (sandbox.file("draft"), sandbox.file("waypost"));
        fs::write(&draft, script).unwrap();
        assert!(Command::new("install").args(["-m", "755"]).args([&draft, &binary]).status().unwrap().success());
        binary
    }

    fn fake() -> (Sandbox, Node, PathBuf) {
        let sandbox = Sandbox::new("fake").unwrap();
        let binary = install(&sandbox, FAKE);
        assert!(Command::new("mkfifo").arg(sandbox.file("pipe")).status().unwrap().success());
        let node = Node::new(&sandbox, &binary, "b").unwrap();
        let runs = sandbox.file("runs");
        (sandbox, node, runs)
    }

    #[test]
    fn a_node_comes_back_on_the_ports_it_was_given() {
        let (_sandbox, mut node, runs) = fake();
        node.start().unwrap();
        assert_eq!(node.dial_at("tcp").unwrap(), "/ip4/127.0.0.1/tcp/4567/p2p/12D3");
        assert_eq!(node.dial_at("quic-v1").unwrap_err().to_string(), "no such transport");
        assert_eq!(node.dial_at("udp").unwrap(), "/ip4/127.0.0.1/udp/89/quic-v1/p2p/12D3");
        node.add_peer("/ip4/127.0.0.1/tcp/1/p2p/X");
        node.restart().unwrap();
        let runs = fs::read_to_string(runs).unwrap();
        let (first, second) = runs.trim_end().split_once('\n').unwrap();
        assert!(first.contains("/tcp/0 ") && first.contains("/udp/0/quic-v1"), "{first}");
        assert!(second.contains("--listen /ip4/127.0.0.1/tcp/4567 --listen /ip4/127.0.0.1/udp/89/quic-v1"), "{second}");
        assert!(second.ends_with("--peer /ip4/127.0.0.1/tcp/1/p2p/X"), "{second}");
    }

    #[test]
    fn commands_are_wrapped_and_a_stopped_node_is_missed() {
        let (sandbox, mut node, _) = fake();
        node.join("T").unwrap();
        assert!(fs::read_to_string(sandbox.file("joined")).unwrap().contains("join T --data"));
        node.start().unwrap();
        assert_eq!(node.status().unwrap().outbox.messages, 1);
        assert_eq!(node.invite().unwrap(), "TOKEN");
        let sent = node.send_lines("x@y", &["one".into(), "two".into()], &[]).unwrap();
        assert_eq!(super::super::client::ids(&sent).unwrap(), ["m1", "m2"]);
        node.stop().unwrap();
        assert_eq!(node.json(["status"], SOON).unwrap().code, exit::UNAVAILABLE);
    }

    #[test]
    fn a_node_that_ends_at_once_is_reported_with_its_last_words() {
        let (sandbox, mut node, _) = fake();
        install(&sandbox, "#!/bin/sh\necho no room >&2\nexit 78\n");
        let failed = format!("{:#}", node.start().unwrap_err());
        assert!(failed.contains("no room") && failed.contains("78"), "{failed}");
    }

    #[test]
    fn every_node_has_a_loopback_address_of_its_own() {
        assert_ne!(own_loopback(), own_loopback());
        assert!(own_loopback().parse::<std::net::Ipv4Addr>().unwrap().is_loopback());
    }
}
