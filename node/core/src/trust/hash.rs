//! The BLAKE3 of a whole body from its fragments, so that none needs to be read twice (rule SEAL-9).

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// Bytes of a fragment: all but the last of a body have just this many. A power of two, so each is a whole subtree.
pub const FRAGMENT: usize = 256 * 1024;

/// The chaining value of fragment `index`, or the hash itself of an `is_only` one.
///
/// `None` for bytes that cannot be such a fragment: empty (unless the only one), or longer than [`FRAGMENT`].
#[must_use]
pub fn fragment_cv(index: u64, bytes: &[u8], is_only: bool) -> Option<[u8; 32]> {
    if bytes.len() > FRAGMENT || (bytes.is_empty() && !is_only) || (is_only && index != 0) {
        return None;
    }
    if is_only {
        return Some(*blake3::hash(bytes).as_bytes());
    }
    let offset = index.checked_mul(FRAGMENT as u64)?;
    Some(blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root())
}

/// The hash of the body whose fragments have these values, in order; equal to BLAKE3 of the whole.
///
/// All fragments but the last must be full: the caller's duty, which the hash itself then witnesses.
#[must_use]
pub fn whole_hash(cvs: &[[u8; 32]]) -> [u8; 32] {
    match cvs {
        [] => *blake3::hash(&[]).as_bytes(),
        [only] => *only,
        several => {
            let (left, right) = several.split_at(left_fragments(several.len()));
            *merge_subtrees_root(&joined(left), &joined(right), Mode::Hash).as_bytes()
        }
    }
}

/// The value of a subtree that is not the root.
fn joined(cvs: &[[u8; 32]]) -> [u8; 32] {
    if let [only] = cvs {
        return *only;
    }
    let (left, right) = cvs.split_at(left_fragments(cvs.len()));
    merge_subtrees_non_root(&joined(left), &joined(right), Mode::Hash)
}

/// How many of `count` (at least two) lie in the left subtree: the largest power of two below it (BLAKE3 paper, §2.1).
fn left_fragments(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_fragments(body: &[u8]) -> [u8; 32] {
        let is_only = body.len() <= FRAGMENT;
        let cvs: Vec<_> =
            body.chunks(FRAGMENT).zip(0..).map(|(bytes, index)| fragment_cv(index, bytes, is_only).unwrap()).collect();
        whole_hash(&cvs)
    }

    fn body(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 257) as u8).collect()
    }

    /// SEAL-9 at the borders of chunks and fragments.
    #[test]
    fn every_border_length_hashes_as_a_whole() {
        for fragments in 0..9 {
            for around in [-1024, -1, 0, 1, 1023, 1024, 1025] {
                let Ok(len) = usize::try_from(fragments * FRAGMENT as i64 + around) else { continue };
                assert_eq!(in_fragments(&body(len)), *blake3::hash(&body(len)).as_bytes(), "{len} bytes");
            }
        }
    }

    #[test]
    fn what_is_no_fragment_has_no_value() {
        assert_eq!(fragment_cv(0, &[0; FRAGMENT + 1], false), None);
        assert_eq!(fragment_cv(1, &[], false), None);
        assert_eq!(fragment_cv(1, b"x", true), None);
        assert_eq!(fragment_cv(u64::MAX, b"x", false), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// SEAL-9 for any length up to twenty fragments.
        #[test]
        fn fragments_hash_as_a_whole(len in 0..20 * FRAGMENT) {
            let body = body(len);
            prop_assert_eq!(in_fragments(&body), *blake3::hash(&body).as_bytes());
        }
    }
}
