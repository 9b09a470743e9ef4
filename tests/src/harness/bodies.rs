//! Bodies to send and the checksums that say whether what came out is what went in.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::Random;

/// BLAKE3 of a body, in hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Checksum(pub String);

impl Checksum {
    /// Of bytes in memory.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(blake3::hash(body).to_hex().to_string())
    }

    /// Of a file, read in pieces.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        hasher.update_reader(file).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self(hasher.finalize().to_hex().to_string()))
    }

    /// Of every file of a folder, sorted, so that two folders can be compared whatever their files are called.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn of_folder(folder: &Path) -> Result<Vec<Self>> {
        let mut sums = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
            sums.push(Self::of_file(&entry?.path())?);
        }
        sums.sort();
        Ok(sums)
    }
}

/// Writes `length` bytes that do not compress; gives their checksum.
///
/// # Errors
/// When the file cannot be written.
pub fn write_random(path: &Path, length: u64, random: &mut Random) -> Result<Checksum> {
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("making {}", path.display()))?);
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        random.fill(&mut piece[..now]);
        hasher.update(&piece[..now]);
        file.write_all(&piece[..now])?;
        left -= now as u64;
    }
    file.flush()?;
    Ok(Checksum(hasher.finalize().to_hex().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_summed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        let sum = write_random(&path, 100_001, &mut Random::new(1)).unwrap();
        assert_eq!(sum, Checksum::of(&fs::read(&path).unwrap()));
        assert_eq!(sum, Checksum::of_file(&path).unwrap());
        assert_eq!(Checksum::of_folder(dir.path()).unwrap(), [sum]);
    }
}
