//! What goes to standard output: JSON lines with their shapes, tables and times for people. Talk goes elsewhere.

use std::io::{self, Write};
use std::time::Duration;

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

#[derive(Serialize)]
struct Said<'a> {
    error: &'a str,
    code: u8,
}

/// Prints what failed as a line of JSON on standard error: what is wrong, and the exit code.
pub fn error_json(failure: &Failure) {
    let said = Said { error: &failure.message, code: failure.exit as u8 };
    // Whoever cannot be told by standard error has the exit code.
    let _ = serde_json::to_writer(io::stderr().lock(), &said).map(|()| eprintln!());
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

/// A number of things for people: `1 message`, `2 messages`.
#[must_use]
pub fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
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

/// A duration as it was asked for, in its largest whole unit: `2 s`, `90 s`, `1500 ms`.
#[must_use]
pub fn exact(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let whole = units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{ms} ms"), |(unit, name)| format!("{} {name}", ms / unit))
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
        let exactly = |ms| exact(Duration::from_millis(ms));
        assert_eq!([exactly(2000), exactly(90_000), exactly(1500), exactly(0)], ["2 s", "90 s", "1500 ms", "0 ms"]);
        assert_eq!((count(1, "message"), count(0, "message")), ("1 message".into(), "0 messages".into()));
    }
}
