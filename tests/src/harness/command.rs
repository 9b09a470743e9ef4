//! Runs one `waypost` command to its end, under a deadline, with everything it said kept in files.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use super::wait;

static RUNS: AtomicU64 = AtomicU64::new(0);

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    command: String,
    /// Its exit code; for one ended by a signal 128 and the signal, as a shell has it.
    pub code: i32,
    /// Data.
    pub stdout: Vec<u8>,
    /// Talk.
    pub stderr: String,
}

/// Takes `WAYPOST_*` of whoever runs the tests out of a child's environment.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("WAYPOST_")) {
            command.env_remove(name);
        }
    }
}

/// Runs `command` to its end; its output goes through files in `scratch`, so that no pipe can fill.
///
/// # Errors
/// When it cannot be started, or has not ended by the deadline: it is then killed.
pub fn run(command: &mut Command, stdin: Option<&Path>, scratch: &Path, deadline: Duration) -> Result<Finished> {
    let shown = format!("{command:?}");
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let (out, talk) = (scratch.join(format!("run{run}.out")), scratch.join(format!("run{run}.err")));
    let input = match stdin {
        Some(path) => Stdio::from(File::open(path).with_context(|| format!("opening {}", path.display()))?),
        None => Stdio::null(),
    };
    command.stdin(input).stdout(File::create(&out)?).stderr(File::create(&talk)?);
    let mut child = command.spawn().with_context(|| format!("starting {shown}"))?;
    let ended = wait::until(&format!("the end of {shown}"), deadline, &[&talk], || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    let status = ended?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let stderr = String::from_utf8_lossy(&fs::read(&talk)?).into_owned();
    let finished = Finished { command: shown, code, stdout: fs::read(&out)?, stderr };
    fs::remove_file(out)?;
    fs::remove_file(talk)?;
    Ok(finished)
}

impl Finished {
    /// Itself, when it ended with 0.
    ///
    /// # Errors
    /// What it said, when it did not.
    pub fn ok(self) -> Result<Self> {
        self.expect(super::exit::OK)
    }

    /// Itself, when it ended with `code`.
    ///
    /// # Errors
    /// What it said, when it did not.
    pub fn expect(self, code: i32) -> Result<Self> {
        if self.code != code {
            bail!("{} ended with {}, not {code}: {}", self.command, self.code, self.stderr.trim());
        }
        Ok(self)
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// All it said, for looking for a word in it.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.text(), self.stderr)
    }

    /// Standard output as one JSON object a line.
    ///
    /// # Errors
    /// When a line is no such object.
    pub fn lines<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let text = self.text();
        let read = |line| serde_json::from_str(line).with_context(|| format!("{} printed {line}", self.command));
        text.lines().filter(|line| !line.trim().is_empty()).map(read).collect()
    }

    /// Standard output as exactly one JSON object.
    ///
    /// # Errors
    /// When it is not.
    pub fn one<T: DeserializeOwned>(&self) -> Result<T> {
        let mut lines = self.lines()?;
        if lines.len() != 1 {
            bail!("{} printed {} objects, not one", self.command, lines.len());
        }
        lines.pop().context("one object")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> Result<Finished> {
        let scratch = tempfile::tempdir()?;
        run(Command::new("sh").args(["-c", script]), None, scratch.path(), deadline)
    }

    #[test]
    fn code_data_and_talk_are_kept_apart() {
        let finished = shell("echo '{\"a\":1}'; echo talk >&2; exit 75", Duration::from_secs(20)).unwrap();
        assert_eq!((finished.code, finished.stderr.as_str()), (75, "talk\n"));
        assert_eq!(finished.one::<serde_json::Value>().unwrap()["a"], 1);
        assert!(finished.ok().unwrap_err().to_string().contains("talk"));
    }

    #[test]
    fn a_command_that_hangs_is_killed_and_quoted() {
        let hung = shell("echo so far >&2; exec cat /dev/zero >/dev/null", Duration::from_millis(100)).unwrap_err();
        assert!(format!("{hung:#}").contains("so far"), "{hung:#}");
    }
}
