//! What goes to standard output: JSON lines with their shapes, tables and times for people. Talk goes elsewhere.

use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::exit::Failure;

/// Prints one object as a line of JSON.
///
/// # Errors
/// Nobody reads any more.
pub fn json(object: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(object).map_err(|error| Failure::failed(error.to_string()))?;
    line(&text)
}

/// Prints a line.
///
/// # Errors
/// Nobody reads any more.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| unwritable(&error))
}

/// Prints rows with their columns aligned.
///
/// # Errors
/// Nobody reads any more.
pub fn table(rows: &[Vec<String>]) -> Result<(), Failure> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// The failure when standard output cannot be written.
#[must_use]
pub fn unwritable(error: &io::Error) -> Failure {
    // Whoever closed the pipe knows that it did.
    let closed = error.kind() == io::ErrorKind::BrokenPipe;
    Failure::failed(if closed { String::new() } else { format!("cannot write to standard output: {error}") })
}

/// RFC 3339, UTC, milliseconds.
#[must_use]
pub fn utc(ms: u64) -> String {
    stamp(ms).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// For people on this host.
#[must_use]
pub fn local(ms: u64) -> String {
    stamp(ms).to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

fn stamp(ms: u64) -> Timestamp {
    i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// A size for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A time span for people: its two largest units.
#[must_use]
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, 0) => format!("{ms}ms"),
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

/// What is absent has no key.
#[must_use]
pub fn absent(text: &str) -> bool {
    text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_end_in_z() {
        assert_eq!(utc(1_764_000_000_007), "2025-11-24T16:00:00.007Z");
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(span(90_061_000), "1d 1h");
        assert_eq!(span(999), "999ms");
    }
}
