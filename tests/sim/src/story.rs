//! What happened, twice: as a hash over every event, which two runs of a seed must share, and, when asked for, as lines
//! for people.

use std::fmt;

/// The running hash, and the lines if they are wanted.
pub struct Story {
    hasher: blake3::Hasher,
    told: bool,
    now_us: u64,
}

impl Story {
    /// A story that is told on stdout if `told`.
    #[must_use]
    pub fn new(told: bool) -> Self {
        Self { hasher: blake3::Hasher::new(), told, now_us: 0 }
    }

    /// The world's time for what follows.
    pub fn at(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// Notes an event in the hash.
    pub fn note(&mut self, kind: u8, numbers: [u64; 3], bytes: &[u8]) {
        let mut head = [kind; 33];
        head[1..9].copy_from_slice(&self.now_us.to_be_bytes());
        for (place, number) in numbers.iter().enumerate() {
            head[9 + 8 * place..17 + 8 * place].copy_from_slice(&number.to_be_bytes());
        }
        self.hasher.update(&head).update(bytes);
    }

    /// Tells a line.
    pub fn tell(&self, line: fmt::Arguments<'_>) {
        if self.told {
            let ms = self.now_us / 1000;
            println!("{:>9}.{:03} {line}", ms / 1000, ms % 1000);
        }
    }

    /// Whether lines are told: making one may cost something.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}
