//! Runs every check of the source tree and prints what it found. Part of `make check`; reads, never writes.

use std::process::ExitCode;

use anyhow::Result;
use waypost_tests::tree::{CHECKS, Project};

fn main() -> Result<ExitCode> {
    let project = Project::read(&waypost_tests::workspace_root()?)?;
    let mut findings = 0;
    for check in &CHECKS {
        let found = (check.findings)(&project);
        println!("{}  {}", if found.is_empty() { "ok    " } else { "FAILED" }, check.holds);
        for finding in &found {
            println!("          {finding}");
        }
        findings += found.len();
    }
    println!("SKIPPED  advisories: their database is not part of the tree; `cargo deny check advisories` fetches it");
    if findings == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{findings} findings");
    Ok(ExitCode::FAILURE)
}
