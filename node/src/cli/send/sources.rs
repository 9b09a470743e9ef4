//! Where messages come from: files, standard input, lines. Small ones are gathered into batches, large ones streamed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::time::timeout;
use waypost_core::limits::{BODY_BYTES, FRAGMENT};
use waypost_core::message::Invalid;

use super::base_name;
use crate::cli::exit::Failure;

/// Messages in one `Send` at most.
const BATCH_MESSAGES: usize = 1000;
/// Bytes of bodies in one `Send` at most; leaves room for headers below the API's 4 MiB.
const BATCH_BYTES: usize = 2 << 20;

/// How long a batch that has lines waits for more.
const MOMENT: Duration = Duration::from_millis(10);

/// Small messages: file name, if there is one, and body.
pub type Batch = Vec<(Option<String>, Bytes)>;
type Reader = Box<dyn AsyncRead + Unpin>;

/// What to send next.
pub enum Source {
    /// Whole bodies.
    Batch(Batch),
    /// One body, to be streamed.
    Large(Large),
}

/// A body that is larger than a fragment, or may be.
pub struct Large {
    /// The file's base name.
    pub name: Option<String>,
    /// Its size; `None` for standard input.
    pub size: Option<u64>,
    /// Its bytes.
    pub reader: Reader,
}

/// Everything there is to send, in order.
pub struct Sources {
    files: VecDeque<PathBuf>,
    /// The input whose lines are being read.
    lines: Option<Lines>,
    by_line: bool,
}

/// Looks at every file before anything is sent.
///
/// # Errors
/// A file cannot be a message.
pub fn open(files: &[PathBuf], by_line: bool) -> Result<Sources, Failure> {
    for path in files.iter().filter(|path| !is_stdin(path)) {
        let found = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if found.is_dir() {
            return Err(Failure::failed(format!("{} is a directory: send its files", path.display())));
        }
        if found.len() > BODY_BYTES && !by_line {
            let why = Invalid::Body { bytes: found.len() };
            return Err(Failure::failed(format!("{}: {why}", path.display())));
        }
    }
    let stdin = || vec![PathBuf::from("-")];
    let files = if files.is_empty() { stdin() } else { files.to_vec() };
    Ok(Sources { files: files.into(), lines: None, by_line })
}

impl Sources {
    /// What to send next; `None`: that was all.
    ///
    /// # Errors
    /// Something cannot be read.
    pub async fn next(&mut self) -> Result<Option<Source>, Failure> {
        if self.by_line { self.next_lines().await } else { self.next_files().await }
    }

    async fn next_files(&mut self) -> Result<Option<Source>, Failure> {
        let mut batch = Batch::new();
        let mut bytes = 0;
        while let Some(path) = self.files.front() {
            let full = batch.len() == BATCH_MESSAGES || bytes + FRAGMENT > BATCH_BYTES;
            let large = open_file(path).await?;
            // What standard input holds is known once it is read: alone, for it may be large.
            let (small, unknown) = (large.size.is_some_and(|size| size <= FRAGMENT as u64), large.size.is_none());
            if !batch.is_empty() && (full || !small) {
                break;
            }
            self.files.pop_front();
            if !small && !unknown {
                return Ok(Some(Source::Large(large)));
            }
            match read_small(large).await? {
                Source::Batch(one) => {
                    bytes += one.iter().map(|(_, body)| body.len()).sum::<usize>();
                    batch.extend(one);
                }
                grown if batch.is_empty() => return Ok(Some(grown)),
                Source::Large(_) => return Err(Failure::failed("a file grew while it was being sent: send it again")),
            }
        }
        Ok((!batch.is_empty()).then_some(Source::Batch(batch)))
    }

    async fn next_lines(&mut self) -> Result<Option<Source>, Failure> {
        loop {
            let Some(lines) = &mut self.lines else {
                let Some(path) = self.files.pop_front() else { return Ok(None) };
                self.lines = Some(Lines::of(open_file(&path).await?.reader));
                continue;
            };
            let batch = lines.batch().await?;
            if !batch.is_empty() {
                return Ok(Some(Source::Batch(batch)));
            }
            self.lines = None;
        }
    }
}

/// An input read line by line.
struct Lines {
    reader: BufReader<Reader>,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Lines {
    fn of(reader: Reader) -> Self {
        Self { reader: BufReader::with_capacity(FRAGMENT, reader), partial: Vec::new() }
    }

    /// Lines until a batch is full, or no more come for a moment: a slow writer's lines do not wait for one another.
    async fn batch(&mut self) -> Result<Batch, Failure> {
        let mut batch = Batch::new();
        let mut bytes = 0;
        while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let line = if batch.is_empty() {
                self.line().await?
            } else {
                match timeout(MOMENT, self.line()).await {
                    Ok(line) => line?,
                    Err(_) => break,
                }
            };
            let Some(line) = line else { break };
            bytes += line.len();
            batch.push((None, line));
        }
        Ok(batch)
    }

    /// The next line without its newline. Nothing is lost when this is given up halfway.
    async fn line(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let buffered = self.reader.fill_buf().await;
            let buffered = buffered.map_err(|error| Failure::failed(format!("cannot read the lines: {error}")))?;
            let newline = buffered.iter().position(|byte| *byte == b'\n');
            let end = newline.unwrap_or(buffered.len());
            self.partial.extend_from_slice(&buffered[..end]);
            let over = buffered.is_empty();
            self.reader.consume(end + usize::from(newline.is_some()));
            if self.partial.len() > FRAGMENT {
                let message = format!("a line is longer than {FRAGMENT} bytes: send it as a file, without --lines");
                return Err(Failure::failed(message));
            }
            if newline.is_some() || (over && !self.partial.is_empty()) {
                return Ok(Some(std::mem::take(&mut self.partial).into()));
            }
            if over {
                return Ok(None);
            }
        }
    }
}

async fn open_file(path: &Path) -> Result<Large, Failure> {
    if is_stdin(path) {
        return Ok(Large { name: None, size: None, reader: Box::new(tokio::io::stdin()) });
    }
    let file = tokio::fs::File::open(path).await.map_err(|error| unreadable(path, &error))?;
    let found = file.metadata().await.map_err(|error| unreadable(path, &error))?;
    // A pipe or a device has no size worth believing.
    let size = found.is_file().then_some(found.len());
    Ok(Large { name: base_name(path), size, reader: Box::new(file) })
}

/// Reads a body that should fit into a fragment; gives it back as large when it has grown.
async fn read_small(mut large: Large) -> Result<Source, Failure> {
    let mut body = Vec::new();
    let longest = FRAGMENT as u64 + 1;
    let read = (&mut large.reader).take(longest).read_to_end(&mut body).await;
    read.map_err(|error| Failure::failed(format!("cannot read {}: {error}", large.name.as_deref().unwrap_or("-"))))?;
    if body.len() <= FRAGMENT {
        return Ok(Source::Batch(vec![(large.name, body.into())]));
    }
    let reader = Box::new(std::io::Cursor::new(body).chain(large.reader));
    Ok(Source::Large(Large { name: large.name, size: None, reader }))
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(mut sources: Sources) -> Vec<Vec<usize>> {
        let mut found = Vec::new();
        while let Some(source) = sources.next().await.unwrap() {
            found.push(match source {
                Source::Batch(batch) => batch.iter().map(|(_, body)| body.len()).collect(),
                Source::Large(_) => vec![usize::MAX],
            });
        }
        found
    }

    #[tokio::test]
    async fn small_files_are_gathered_and_large_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![7; bytes]).unwrap();
            path
        };
        let files = [file("a", 0), file("b", FRAGMENT), file("c", FRAGMENT + 1), file("d", 3)];
        assert_eq!(all(open(&files, false).unwrap()).await, [vec![0, FRAGMENT], vec![usize::MAX], vec![3]]);
        assert!(open(&[dir.path().join("nowhere")], false).is_err());
    }

    #[tokio::test]
    async fn lines_lose_their_newline_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, "one\n\n three \nlast").unwrap();
        assert_eq!(all(open(&[path], true).unwrap()).await, [[3, 0, 7, 4]]);
    }
}
