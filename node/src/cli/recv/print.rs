//! Messages to standard output: bodies with a newline after each, bare, or as lines of JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncWriteExt, Stdout};

use super::consumer::{Consumer, Part};
use super::{Received, Taken, next_part};
use crate::api::wire::Delivery;
use crate::cli::exit::Failure;
use crate::cli::output::unwritable;

/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 20;

/// Standard output.
pub struct Printer {
    out: Stdout,
    buffer: Vec<u8>,
    form: Form,
    /// A part of the message being taken has been written already.
    left: bool,
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    Raw,
    Lines,
}

impl Printer {
    /// JSON wins over raw; clap lets only one be said.
    #[must_use]
    pub fn new(json: bool, raw: bool) -> Self {
        let form = match (json, raw) {
            (true, _) => Form::Json,
            (_, true) => Form::Raw,
            _ => Form::Lines,
        };
        Self { out: tokio::io::stdout(), buffer: Vec::new(), form, left: false }
    }

    /// Whether another message may be gathered.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.buffer.len() < GATHERED
    }

    /// Writes a message; safe only after [`Printer::flush`].
    ///
    /// # Errors
    /// Standard output is closed, or the stream has ended.
    pub async fn take(&mut self, consumer: &mut Consumer, message: &Delivery) -> Result<Taken, Failure> {
        self.left = false;
        match self.form {
            Form::Json => self.take_json(consumer, message).await,
            Form::Raw | Form::Lines => self.take_body(consumer, message).await,
        }
    }

    /// Everything is out.
    ///
    /// # Errors
    /// Standard output is closed.
    pub async fn flush(&mut self) -> Result<(), Failure> {
        let buffer = std::mem::take(&mut self.buffer);
        self.out.write_all(&buffer).await.map_err(|error| unwritable(&error))?;
        self.out.flush().await.map_err(|error| unwritable(&error))
    }

    async fn take_body(&mut self, consumer: &mut Consumer, message: &Delivery) -> Result<Taken, Failure> {
        let begun = self.buffer.len();
        let mut first = true;
        loop {
            match next_part(consumer, message, &mut first).await? {
                Part::Bytes(bytes) => self.buffer.extend_from_slice(&bytes),
                Part::End => break,
                Part::Gone => return Ok(self.take_back(begun)),
            }
            self.flush_when_full().await?;
        }
        if matches!(self.form, Form::Lines) {
            self.buffer.push(b'\n');
        }
        Ok(Taken::Done)
    }

    /// The body comes last in the object, so that one of any size can be written as it comes.
    async fn take_json(&mut self, consumer: &mut Consumer, message: &Delivery) -> Result<Taken, Failure> {
        let begun = self.buffer.len();
        let head = serde_json::to_string(&Received::of(message)).map_err(|error| Failure::failed(error.to_string()))?;
        let open = head.strip_suffix('}').unwrap_or(&head);
        self.buffer.extend_from_slice(format!("{open},\"body_base64\":\"").as_bytes());
        let mut encoder = Base64::default();
        let mut first = true;
        loop {
            match next_part(consumer, message, &mut first).await? {
                Part::Bytes(bytes) => encoder.push(&bytes, &mut self.buffer),
                Part::End => break,
                Part::Gone => return Ok(self.take_back(begun)),
            }
            self.flush_when_full().await?;
        }
        encoder.finish(&mut self.buffer);
        self.buffer.extend_from_slice(b"\"}\n");
        Ok(Taken::Done)
    }

    /// Nothing of a message that went away is printed; if some of it has left already, the line is broken off there.
    fn take_back(&mut self, begun: usize) -> Taken {
        if self.left {
            self.buffer.clear();
            self.buffer.push(b'\n');
        } else {
            self.buffer.truncate(begun);
        }
        Taken::Gone
    }

    async fn flush_when_full(&mut self) -> Result<(), Failure> {
        if self.has_room() {
            return Ok(());
        }
        self.left = true;
        self.flush().await
    }
}

/// Base64 of bytes that come in parts: what does not fill a group of three waits for the next part.
#[derive(Default)]
struct Base64 {
    rest: Vec<u8>,
}

impl Base64 {
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / 3 * 3;
        out.extend_from_slice(STANDARD.encode(&self.rest[..whole]).as_bytes());
        self.rest.drain(..whole);
    }

    fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(STANDARD.encode(&self.rest).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_in_parts_is_base64_of_the_whole() {
        for sizes in [&[0][..], &[1, 1, 1, 1], &[262_144, 7], &[2, 0, 5]] {
            let parts: Vec<Vec<u8>> = sizes.iter().map(|size| vec![0xa5; *size]).collect();
            let (mut encoder, mut out) = (Base64::default(), Vec::new());
            parts.iter().for_each(|part| encoder.push(part, &mut out));
            encoder.finish(&mut out);
            assert_eq!(out, STANDARD.encode(parts.concat()).into_bytes());
        }
    }
}
