//! Messages to files: each is there whole and synced, or not at all. Never writes outside its directory and never over
//! a file that it did not write for the same message.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use super::consumer::{Consumer, Part};
use super::{Received, Taken, next_part};
use crate::api::wire::Delivery;
use crate::cli::exit::Failure;
use crate::cli::output::{json, line};

/// Bytes of a file name that every usual file system takes.
const LONGEST_NAME: usize = 255;

/// A directory to write messages into.
pub struct Files {
    directory: PathBuf,
    json: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    message: Received<'a>,
    file: String,
}

impl Files {
    /// Makes the directory when there is none.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: PathBuf, json: bool) -> Result<Self, Failure> {
        let made = std::fs::create_dir_all(&directory);
        made.map_err(|error| Failure::failed(format!("cannot make {}: {error}", directory.display())))?;
        Ok(Self { directory, json })
    }

    /// Writes a message and prints the name of its file.
    ///
    /// # Errors
    /// The stream has ended, or standard output is closed.
    pub async fn take(&mut self, consumer: &mut Consumer, message: &Delivery) -> Result<Taken, Failure> {
        let Some(id) = plain_name(&message.id) else {
            return Ok(Taken::Failed("its id cannot name a file".to_owned()));
        };
        let temporary = self.directory.join(format!(".{id}.part"));
        let written = match self.write(&temporary, consumer, message).await? {
            Ok(true) => self.place(&temporary, id, message).await,
            Ok(false) => {
                let _ = fs::remove_file(&temporary).await;
                return Ok(Taken::Gone);
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(path) => self.tell(message, &path).map(|()| Taken::Done),
            Err(error) => {
                let _ = fs::remove_file(&temporary).await;
                Ok(Taken::Failed(format!("cannot write it into {}: {error}", self.directory.display())))
            }
        }
    }

    /// Whether the whole body came. The outer error is the stream's, the inner one the disk's.
    async fn write(
        &self,
        temporary: &Path,
        consumer: &mut Consumer,
        message: &Delivery,
    ) -> Result<io::Result<bool>, Failure> {
        let mut file = match File::create(temporary).await {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let mut first = true;
        loop {
            match next_part(consumer, message, &mut first).await? {
                Part::Bytes(bytes) => {
                    if let Err(error) = file.write_all(&bytes).await {
                        return Ok(Err(error));
                    }
                }
                Part::End => break,
                Part::Gone => return Ok(Ok(false)),
            }
        }
        // Not before the disk has it: an acknowledged message is nowhere else.
        let synced = match file.flush().await {
            Ok(()) => file.sync_all().await,
            failed => failed,
        };
        Ok(synced.map(|()| true))
    }

    /// Gives the file its name: the one its sender gave it where that is safe and new, else its id.
    async fn place(&self, temporary: &Path, id: &str, message: &Delivery) -> io::Result<PathBuf> {
        let wanted = message.headers.get("file-name").and_then(|name| plain_name(name));
        let path = match wanted.map(|name| self.directory.join(name)) {
            Some(path) if rename_to_new(temporary, &path)? => path,
            // A file of this id can only be an earlier delivery of the same message.
            _ => {
                let path = self.directory.join(id);
                fs::rename(temporary, &path).await?;
                path
            }
        };
        File::open(&self.directory).await?.sync_all().await?;
        Ok(path)
    }

    fn tell(&self, message: &Delivery, path: &Path) -> Result<(), Failure> {
        let file = path.display().to_string();
        if self.json { json(&Written { message: Received::of(message), file }) } else { line(&file) }
    }
}

/// Whether the file has its name now; `false` when there is one of that name.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<bool> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        // Not every file system can; a link fails in the same way when the name is taken.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match std::fs::hard_link(from, to) {
            Ok(()) => std::fs::remove_file(from).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

/// A name that stays in its directory, is not hidden, and surprises no terminal.
fn plain_name(name: &str) -> Option<&str> {
    let plain = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.starts_with('.')
        && !name.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_taken_from_a_sender() {
        for safe in ["report.pdf", "Grüße aus Köln.txt", "-rf", "a b"] {
            assert_eq!(plain_name(safe), Some(safe));
        }
        for unsafe_name in ["", ".", "..", ".bashrc", "a/b", "/etc/passwd", "..\\x", "a\nb", "a\0b", &"x".repeat(256)] {
            assert_eq!(plain_name(unsafe_name), None, "{unsafe_name:?}");
        }
    }

    #[tokio::test]
    async fn an_existing_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path().to_owned(), false).unwrap();
        let headers = [("file-name".to_owned(), "a.txt".to_owned())].into();
        let message = Delivery { headers, ..Delivery::default() };
        let temporary = dir.path().join(".0-1.part");
        for (body, name) in [("first", "a.txt"), ("second", "0-1"), ("again", "0-1")] {
            std::fs::write(&temporary, body).unwrap();
            let path = files.place(&temporary, "0-1", &message).await.unwrap();
            assert_eq!(path.file_name().unwrap(), name);
            assert_eq!(std::fs::read_to_string(path).unwrap(), body);
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("a.txt")).unwrap(), "first");
    }
}
