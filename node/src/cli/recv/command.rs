//! Messages to a command: `sh -c CMD` for each, the body on its standard input. Only an exit code of 0 is a success.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use super::consumer::{Consumer, Part};
use super::{Received, Taken, next_part};
use crate::api::wire::Delivery;
use crate::cli::Context;
use crate::cli::exit::Failure;
use crate::cli::output;

/// A command for every message.
pub struct Commands<'a> {
    command: &'a str,
    /// Handed on, so that the command talks to the same node.
    socket: Option<&'a Path>,
    json: bool,
}

impl<'a> Commands<'a> {
    /// Runs nothing yet.
    #[must_use]
    pub fn new(command: &'a str, context: &'a Context) -> Self {
        Self { command, socket: context.socket_flag.as_deref(), json: context.json }
    }

    /// Runs the command with a message.
    ///
    /// # Errors
    /// The stream has ended, or standard output is closed.
    pub async fn take(&mut self, consumer: &mut Consumer, message: &Delivery) -> Result<Taken, Failure> {
        let mut child = match self.prepared(message).spawn() {
            Ok(child) => child,
            Err(error) => return Ok(Taken::Failed(format!("the command could not be started: {error}"))),
        };
        if !feed(&mut child, consumer, message).await? {
            // It has read half a body and must not take it for a whole one.
            let _ = child.kill().await;
            return Ok(Taken::Gone);
        }
        match child.wait().await {
            Ok(status) if status.success() => {
                if self.json {
                    output::json(&Received::of(message))?;
                }
                Ok(Taken::Done)
            }
            Ok(status) => Ok(Taken::Failed(format!("the command ended with {status}"))),
            Err(error) => Ok(Taken::Failed(format!("the command was lost: {error}"))),
        }
    }

    fn prepared(&self, message: &Delivery) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.command).stdin(Stdio::piped()).kill_on_drop(true);
        command.envs(variables(message));
        if let Some(socket) = self.socket {
            command.env("WAYPOST_SOCKET", socket);
        }
        command
    }
}

/// Whether the command got the whole body, as far as it wanted it.
async fn feed(child: &mut Child, consumer: &mut Consumer, message: &Delivery) -> Result<bool, Failure> {
    let mut stdin = child.stdin.take();
    let mut first = true;
    loop {
        match next_part(consumer, message, &mut first).await? {
            Part::Bytes(bytes) => write(&mut stdin, &bytes).await,
            Part::End => return Ok(true),
            Part::Gone => return Ok(false),
        }
    }
}

/// A command that stops reading may still succeed: what it does not want is let go.
async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) {
    if let Some(open) = stdin
        && open.write_all(bytes).await.is_err()
    {
        *stdin = None;
    }
}

/// Headers become `WAYPOST_HEADER_FILE_NAME` and the like; what the environment cannot hold is left out.
fn variables(message: &Delivery) -> Vec<(String, String)> {
    let header = |(name, value): (&String, &String)| (format!("WAYPOST_HEADER_{}", variable_name(name)), value.clone());
    let own = [
        ("WAYPOST_ID", message.id.clone()),
        ("WAYPOST_FROM", message.from.clone()),
        ("WAYPOST_CHANNEL", message.channel.clone()),
        ("WAYPOST_DELIVERIES", message.deliveries.to_string()),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    own.chain(message.headers.iter().map(header)).filter(|(_, value)| !value.contains('\0')).collect()
}

fn variable_name(header: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    header.chars().map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_become_variables_that_a_shell_can_name() {
        let headers = [("file-name", "a.pdf"), ("x=y", "1"), ("bad", "a\0b")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let message = Delivery { id: "i".into(), deliveries: 2, headers, ..Delivery::default() };
        let variables = variables(&message);
        let value = |name: &str| variables.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        assert_eq!(value("WAYPOST_HEADER_FILE_NAME"), Some("a.pdf"));
        assert_eq!(value("WAYPOST_HEADER_X_Y"), Some("1"));
        assert_eq!(value("WAYPOST_HEADER_BAD"), None);
        assert_eq!((value("WAYPOST_ID"), value("WAYPOST_DELIVERIES")), (Some("i"), Some("2")));
    }
}
