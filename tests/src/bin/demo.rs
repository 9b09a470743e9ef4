//! `make demo`: three real nodes on this machine, live and in plain words. A directory of files goes from A to C through
//! B while C is down and B is killed in the middle of it. Ends with 1 when anything is not as promised. Every wait is
//! for a fact.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use waypost_tests::harness::bodies::{Checksum, write_random};
use waypost_tests::harness::client::PATIENT;
use waypost_tests::harness::words::Trace;
use waypost_tests::harness::{Chain, Random};
use waypost_tests::tree::sources::Tree;

/// The large file, in bytes.
const LARGE: u64 = 64 << 20;
/// How often the kill may miss the middle of a transfer before the demo gives up: each miss sends one more large file.
const MISSES: usize = 5;
/// Where the files go on C.
const CHANNEL: &str = "files";

fn main() -> ExitCode {
    let begun = Instant::now();
    match demo() {
        Ok(()) => {
            println!("\nAll of it held, in {:.1} s.", begun.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    println!("Three nodes on this machine, each a process with a disk of its own. A and C know only B.\n");
    let mut chain = Chain::a_b_c("demo")?;
    for node in [&chain.a, &chain.b, &chain.c] {
        println!("  {}  {}", node.name().to_uppercase(), node.address()?);
    }
    println!("\nC goes down. Nobody will fetch what is sent to it.");
    chain.c.stop()?;

    let mut parcel = Parcel::pack(&chain)?;
    println!("A sends a directory to C: {} files, {}.", parcel.files.len(), size(parcel.bytes));
    send_and_kill_relay(&mut chain, &mut parcel)?;

    println!("B starts again, on the same disk.");
    chain.b.start()?;
    chain.await_connected(&chain.a)?;
    println!("C comes up and fetches its mail.");
    chain.c.start()?;
    let incoming = chain.sandbox.file("incoming");
    chain.c.recv_into(CHANNEL, parcel.files.len(), &incoming, PATIENT)?;
    compare(&parcel.folder, &incoming, parcel.files.len())?;

    show_one_message(&chain)?;
    chain.await_empty()?;
    let (a, b, c) = (chain.a.status()?, chain.b.status()?, chain.c.status()?);
    ensure!(c.inbox.messages == 0, "C still has {} messages nobody consumed", c.inbox.messages);
    println!(
        "\nOutbox of A: {} messages. Outbox of C: {}. Held at B: {} envelopes. Everybody is done.",
        a.outbox.messages, c.outbox.messages, b.transit.envelopes
    );
    let (a, c) = (chain.a.address()?, chain.c.address()?);
    ensure!(!chain.a.is_connected_to(c)? && !chain.c.is_connected_to(a)?, "A and C met directly");
    println!("A and C were never connected to each other.");
    Ok(())
}

/// What is sent: files in a folder of their own.
struct Parcel {
    folder: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
    random: Random,
}

impl Parcel {
    /// The project's own sources, and one large file.
    fn pack(chain: &Chain) -> Result<Self> {
        let folder = chain.sandbox.file("outgoing");
        fs::create_dir(&folder)?;
        let mut parcel = Self { folder, files: vec![], bytes: 0, random: Random::new(1) };
        for source in Tree::read(&waypost_tests::workspace_root()?)?.files {
            let path = parcel.folder.join(source.path.replace('/', "--"));
            fs::write(&path, &source.text).with_context(|| format!("copying {}", source.path))?;
            parcel.bytes += source.text.len() as u64;
            parcel.files.push(path);
        }
        parcel.add_large()?;
        Ok(parcel)
    }

    fn add_large(&mut self) -> Result<PathBuf> {
        let path = self.folder.join(format!("large-{}.bin", self.files.len()));
        write_random(&path, LARGE, &mut self.random)?;
        self.bytes += LARGE;
        self.files.push(path.clone());
        Ok(path)
    }
}

/// Sends the parcel and kills B when it holds some of it and not all.
fn send_and_kill_relay(chain: &mut Chain, parcel: &mut Parcel) -> Result<()> {
    let to = chain.c.channel(CHANNEL)?;
    let mut now = parcel.files.clone();
    for _ in 0..MISSES {
        let before = chain.b.status()?.transit.bytes;
        let mut sending = chain.a.begin_send_files(&to, &now)?;
        let held = chain.until("b to hold some of it", PATIENT, || {
            let held = chain.b.status()?.transit.bytes;
            // The large file's fragments follow the small files.
            Ok((held > before + LARGE / 8).then_some(held))
        })?;
        let in_the_middle = held < parcel.bytes - LARGE / 8;
        if in_the_middle {
            chain.b.kill9()?;
            println!("B holds {} of {}. B is killed (kill -9).", size(held), size(parcel.bytes));
        }
        ensure!(sending.wait()?.success(), "A did not accept the files");
        if in_the_middle {
            println!("A has accepted all of it: it is on A's disk, and A will not forget it.");
            return Ok(());
        }
        println!("B was quicker than the kill: it holds {} already. One more large file.", size(held));
        now = vec![parcel.add_large()?];
    }
    anyhow::bail!("{MISSES} transfers were over before B could be killed in the middle of one");
}

fn compare(outgoing: &Path, incoming: &Path, count: usize) -> Result<()> {
    let (sent, received) = (Checksum::of_folder(outgoing)?, Checksum::of_folder(incoming)?);
    ensure!(received.len() == count, "{} files arrived, {count} were sent", received.len());
    ensure!(sent == received, "the BLAKE3 checksums of both sides differ");
    println!("{count} files arrived; the BLAKE3 checksums of both sides are the same.");
    Ok(())
}

/// Sends one more message and prints what its sender can know about it.
fn show_one_message(chain: &Chain) -> Result<()> {
    let id = chain.a.send(&chain.c.channel("postcards")?, b"wish you were here")?;
    chain.c.recv("postcards", 1, PATIENT)?;
    chain.await_passed(&id, "consumed")?;
    let trace = chain.a.trace(&id)?;
    println!("\nOne more message, and what A knows about it:\n  {id}");
    for step in &trace.ladder {
        println!("  {}  {}{}", step.at, step.state, by(chain, step.by.as_deref()));
    }
    print_custody(chain, &trace);
    ensure!(trace.was_held_by(chain.b.address()?), "the trace does not show that B held it: {trace:?}");
    Ok(())
}

fn print_custody(chain: &Chain, trace: &Trace) {
    println!("  who held it:");
    for event in &trace.custody {
        let node = name_of(chain, &event.node);
        let peer = event.peer.as_deref().map_or(String::new(), |peer| format!(" ({})", name_of(chain, peer)));
        println!("  {}  {node}: {}{peer}", event.at, event.event);
    }
}

fn by(chain: &Chain, address: Option<&str>) -> String {
    address.map_or(String::new(), |address| format!(", says {}", name_of(chain, address)))
}

fn name_of(chain: &Chain, address: &str) -> String {
    let nodes = [&chain.a, &chain.b, &chain.c];
    let known = nodes.iter().find(|node| node.address().is_ok_and(|own| own == address));
    known.map_or_else(|| address.to_owned(), |node| node.name().to_uppercase())
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
