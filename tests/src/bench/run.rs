//! One run: a chain of three processes, each case in turn, and what it cost each node. Cases follow one another only
//! when nobody answers for anything any more.

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use super::cases::{Case, Ends, Measured};
use super::disk;
use super::process::{self, Usage};
use super::socket::Socket;
use super::stats::Times;
use super::table::{Column, Table};
use crate::harness::client::PATIENT;
use crate::harness::{Chain, Node, wait};

/// What comes before the first case, so that none pays for what happens once.
const WARM_UP: Case = Case::Pipelined { body: 1000, messages: 2000, batch: 50, window: 500 };
const MB: f64 = 1e6;
const MIB: f64 = 1_048_576.0;

/// Three nodes and a connection to each.
struct Bench {
    chain: Chain,
    sockets: [Socket; 3],
    ends: Ends,
    runtime: Runtime,
}

/// A node's readings: usage, and commits so far.
type Reading = (Usage, u64);

/// Runs the cases on a new chain. `None`: the disk was too slow before a case, and `insist` was not given.
///
/// # Errors
/// When a message is lost, changed or repeated, or a node fails.
pub fn run(cases: &[Case], insist: bool) -> Result<Option<Table>> {
    let bench = Bench::start()?;
    bench.case(&WARM_UP)?;
    let mut table = Table { f_us: 0.0, void: false, columns: vec![] };
    let mut syncs = vec![];
    for case in cases {
        let f = disk::syncs(bench.chain.sandbox.path())?;
        let median = f.percentile(50).context("no sync was measured")?;
        table.void |= median > disk::BUSY;
        if table.void && !insist {
            return Ok(None);
        }
        syncs.push(median);
        eprintln!("  {} (fdatasync {} µs)", case.name(), median.as_micros());
        table.columns.push(bench.column(case, &f)?);
    }
    table.f_us = syncs.into_iter().collect::<Times>().percentile_us(50).context("no case was run")?;
    Ok(Some(table))
}

impl Bench {
    fn start() -> Result<Self> {
        let chain = Chain::a_b_c("bench")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let connect = |node: &Node| runtime.block_on(Socket::connect(node.socket()));
        let sockets = [connect(&chain.a)?, connect(&chain.b)?, connect(&chain.c)?];
        let [a, _, c] = &sockets;
        let ends = Ends { a: a.clone(), c: c.clone(), to: chain.c.address()?.to_owned() };
        let bench = Self { sockets, ends, runtime, chain };
        bench.await_known()?;
        Ok(bench)
    }

    fn nodes(&self) -> [&Node; 3] {
        [&self.chain.a, &self.chain.b, &self.chain.c]
    }

    /// A takes mail for C from the moment on at which it knows a way there.
    fn await_known(&self) -> Result<()> {
        self.chain.until("a message from a to c", PATIENT, || {
            let one = Case::OneAtATime { body: 10, messages: 1 };
            let sent = self.case(&one);
            sent.map(|_| Some(()))
        })
    }

    fn case(&self, case: &Case) -> Result<Measured> {
        let measured = self.runtime.block_on(case.run(&self.ends, self.chain.sandbox.path()))?;
        self.await_empty()?;
        Ok(measured)
    }

    /// By the sockets: starting a command for each look would be counted as the nodes' work.
    fn await_empty(&self) -> Result<()> {
        let logs = self.nodes().map(Node::log);
        let logs: Vec<_> = logs.iter().map(std::path::PathBuf::as_path).collect();
        wait::until("nobody to answer for anything", PATIENT, &logs, || {
            for socket in &self.sockets {
                let status = self.runtime.block_on(socket.clone().status())?;
                let outbox = status.outbox.unwrap_or_default().messages;
                let transit = status.transit.unwrap_or_default().envelopes;
                if outbox + transit + status.inbox.unwrap_or_default().messages > 0 {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    fn readings(&self) -> Result<Vec<Reading>> {
        let reading = |(node, socket): (&Node, &Socket)| {
            let status = self.runtime.block_on(socket.clone().status())?;
            Ok((Usage::of(node.pid()?)?, status.store.context("a node without a store")?.durable_seq))
        };
        self.nodes().into_iter().zip(&self.sockets).map(reading).collect()
    }

    fn column(&self, case: &Case, f: &Times) -> Result<Column> {
        for node in self.nodes() {
            process::forget_peak(node.pid()?)?;
        }
        let before = self.readings()?;
        let measured = self.case(case)?;
        let after = self.readings()?;
        let mut figures = of_disk(f);
        figures.extend(of_speed(&measured));
        let f_us = f.percentile_us(50).context("no sync was measured")?;
        for (what, times) in
            [("accepted", &measured.accepted), ("delivered", &measured.delivered), ("receipt", &measured.receipt)]
        {
            figures.extend(of_times(what, times, f_us));
        }
        for (node, (before, after)) in ["A", "B", "C"].into_iter().zip(before.into_iter().zip(after)) {
            figures.extend(of_node(node, &measured, (after.0.since(before.0), after.1 - before.1)));
        }
        // By figure, then by node: they are read across.
        figures.sort_by_key(|(what, ..)| what.split_once(" at ").map(|(what, _)| rank(what)));
        Ok(Column { case: case.name(), figures })
    }
}

type Figure = (String, &'static str, f64);

const OF_NODES: [&str; 4] = ["CPU", "peak memory", "written", "commits"];

fn rank(what: &str) -> Option<usize> {
    OF_NODES.iter().position(|known| *known == what)
}

fn of_disk(f: &Times) -> Vec<Figure> {
    let at = |percent| f.percentile_us(percent).map(|us| (format!("fdatasync p{percent}"), "µs", us));
    [50, 99].into_iter().filter_map(at).collect()
}

fn of_speed(measured: &Measured) -> Vec<Figure> {
    let seconds = measured.took.as_secs_f64();
    let rate = ("rate".to_owned(), "messages/s", measured.messages as f64 / seconds);
    let throughput = ("throughput".to_owned(), "MB/s", measured.bytes as f64 / MB / seconds);
    if measured.messages == 1 { vec![throughput] } else { vec![rate, throughput] }
}

fn of_times(what: &str, times: &Times, f_us: f64) -> Vec<Figure> {
    // Of one time every percentile is that time.
    let percents: &[u32] = if times.count() == 1 { &[50] } else { &[50, 99] };
    let both = percents.iter().filter_map(|percent| times.percentile_us(*percent).map(|us| (percent, us)));
    both.flat_map(|(percent, us)| {
        let what = format!("{what} p{percent}");
        [(what.clone(), "µs", us), (what, "f", us / f_us)]
    })
    .collect()
}

fn of_node(node: &str, measured: &Measured, (used, commits): Reading) -> Vec<Figure> {
    let messages = measured.messages as f64;
    let of = |what: usize| format!("{} at {node}", OF_NODES[what]);
    let mut figures = vec![
        (of(1), "MiB", used.peak as f64 / MIB),
        (of(2), "bytes per payload byte", used.written as f64 / measured.bytes as f64),
    ];
    if measured.messages == 1 {
        figures.push((of(0), "s", used.cpu_s));
        figures.push((of(3), "in all", commits as f64));
    } else {
        figures.push((of(0), "s per 100,000 messages", used.cpu_s / messages * 1e5));
        figures.push((of(3), "per message", commits as f64 / messages));
    }
    figures
}
