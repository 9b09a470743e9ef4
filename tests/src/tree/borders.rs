//! The borders inside `node`: which folder may name which library. Crate borders are checked in `packages`.

use super::Project;
use super::sources::{Tree, code_only};

/// A library that one part of `node` owns.
struct Border {
    /// What code elsewhere must not contain, outside comments and strings.
    needles: &'static [&'static str],
    /// The file or folder that may, relative to the root.
    owners: &'static [&'static str],
}

const ROCKSDB: Border =
    Border { needles: &["rocksdb"], owners: &["node/src/store.rs", "node/src/store/", "node/src/store_tests.rs"] };
const LIBP2P: Border = Border { needles: &["libp2p"], owners: &["node/src/net/", "node/src/net.rs"] };
const TONIC_SERVER: Border = Border {
    needles: &[
        "tonic::transport::Server",
        "tonic::transport::server",
        "transport::Server",
        "tonic::service",
        "tonic_reflection",
        "tonic_health",
        "_server::",
    ],
    owners: &["node/src/api/", "node/src/api.rs"],
};

/// Who names rocksdb outside the store.
#[must_use]
pub fn check_rocksdb(project: &Project) -> Vec<String> {
    crossings(&project.tree, &ROCKSDB)
}

/// Who names libp2p outside the net folder.
#[must_use]
pub fn check_libp2p(project: &Project) -> Vec<String> {
    crossings(&project.tree, &LIBP2P)
}

/// Who names tonic's server outside the api folder.
#[must_use]
pub fn check_tonic_server(project: &Project) -> Vec<String> {
    crossings(&project.tree, &TONIC_SERVER)
}

fn crossings(tree: &Tree, border: &Border) -> Vec<String> {
    let inside = |path: &str| border.owners.iter().any(|owner| path.starts_with(owner));
    tree.rust()
        .filter(|file| (file.path.starts_with("node/") || file.path.starts_with("proto/")) && !inside(&file.path))
        .flat_map(|file| {
            let code = code_only(&file.text);
            code.lines()
                .enumerate()
                .filter_map(|(at, line)| border.needles.iter().find(|needle| line.contains(*needle)).map(|n| (at, n)))
                .map(|(at, needle)| {
                    format!("{}:{} names {needle}, which belongs in {}", file.path, at + 1, border.owners[0])
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::sources::Source;
    use super::*;

    #[test]
    fn a_name_across_a_border_is_found_and_one_in_a_comment_is_not() {
        let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let tree = Tree::of(vec![
            file("node/src/store.rs", "use rocksdb::DB;\n"),
            file("node/src/driver.rs", "// rocksdb does it\nlet a = \"rocksdb\";\nuse rocksdb::DB;\n"),
        ]);
        assert_eq!(
            crossings(&tree, &ROCKSDB),
            ["node/src/driver.rs:3 names rocksdb, which belongs in node/src/store.rs"]
        );
    }
}
