//! Numbers that are repeated by their seed. For choosing and filling, never for keys.

use std::hash::{BuildHasher, RandomState};

/// `SplitMix64`: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The seed in the environment variable `SEED`, or a new one. Print it: it is what repeats a run.
    #[must_use]
    pub fn seed() -> u64 {
        let given = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
        given.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()))
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`, which is not 0. Slightly uneven; nobody here minds.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// Fills a slice.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.draw().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }

    /// `length` lower-case letters.
    pub fn letters(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(b'a' + (self.draw() % 26) as u8)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_sequence() {
        // The first numbers of seed 0, as the paper's reference code gives them.
        let mut random = Random::new(0);
        assert_eq!(random.draw(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.draw(), 0x6e78_9e6a_a1b9_65f4);
        let (mut one, mut two) = ([0; 13], [0; 13]);
        Random::new(7).fill(&mut one);
        Random::new(7).fill(&mut two);
        assert_eq!(one, two);
        assert_ne!(one, [0; 13]);
    }
}
