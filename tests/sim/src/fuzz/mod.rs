//! A fuzzer of everything that reads what others wrote: each target takes bytes, and neither panics nor breaks what it
//! promises, whatever they are. Deterministic from a seed; knows nothing of sanitizers or instrumented builds.
//!
//! What reaches a new class of result is kept and changed further. `mutate` makes inputs, `targets` lists what runs
//! them, `run` spends the time, `regressions` is what was found once.

mod bench;
mod decoders;
mod frames;
pub mod mutate;
mod neighbours;
mod regressions;
mod rows;
pub mod run;
mod script;
mod seeds;
mod town;
pub mod wire;

/// One decoder, or several that read alike.
pub trait Target {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Inputs to begin with: good ones.
    fn seeds(&self) -> Vec<Vec<u8>>;

    /// Reads an input. Returns the classes of what came of it: what is not seen before makes the input worth keeping.
    ///
    /// # Errors
    /// What was promised and is broken.
    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String>;
}

/// All of them, freshly made.
///
/// # Errors
/// When the members they use cannot be made: a defect.
pub fn targets() -> anyhow::Result<Vec<Box<dyn Target>>> {
    Ok(vec![
        Box::new(decoders::Names),
        Box::new(decoders::Tokens::new()?),
        Box::new(decoders::Membership::new()?),
        Box::new(rows::Rows),
        Box::new(rows::Flows),
        Box::new(rows::Disks::new()?),
        Box::new(frames::Frames::new()?),
        Box::new(script::Bodies::new()?),
        Box::new(script::Streams::new()?),
    ])
}

/// The class of a result: its words, without numbers and names, so that two that differ in those are one.
#[must_use]
pub fn class_of(what: &str) -> u64 {
    // An address is shown as … and six characters.
    let mut skip = 0;
    let mut hasher = blake3::Hasher::new();
    for character in what.chars().take(160) {
        if character == '…' {
            skip = 7;
        }
        if skip == 0 && character.is_ascii_alphabetic() {
            hasher.update(&[character as u8]);
        }
        skip = usize::saturating_sub(skip, 1);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// Fails with words when a promise does not hold.
fn promise(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BODY-4, and the rows that cannot be: what was found once stays mended, and good inputs break nothing: also without an hour of fuzzing.
    #[test]
    fn every_target_takes_its_seeds() {
        for mut target in targets().unwrap() {
            let mut seen = std::collections::BTreeSet::new();
            for (place, input) in target.seeds().into_iter().chain(regressions::of(target.name())).enumerate() {
                match target.run(&input) {
                    Ok(classes) => seen.extend(classes),
                    Err(what) => panic!("{}, input {place}: {what}", target.name()),
                }
            }
            assert!(!seen.is_empty(), "{} has no seeds", target.name());
        }
    }

    /// The mutator draws all from its seed, and what it makes of messages mostly still reads as one.
    #[test]
    fn inputs_come_again_from_their_seed() {
        let of = wire::encode(&[wire::Field::number(1, 7), wire::Field::bytes(2, b"abc".as_slice())]);
        let draw = |seed| {
            let mut rng = crate::rng::Rng::of(seed, "mutate", 0);
            (0..200).map(|_| mutate::mutate(&mut rng, &of, b"donor")).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        let read = draw(3).iter().filter(|input| wire::fields(input).is_some()).count();
        assert!(read > 50, "only {read} of 200 still read as messages");
    }
}
