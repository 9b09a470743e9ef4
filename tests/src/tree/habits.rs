//! House habits a reader would notice: openings, lengths, no waiting for time, no place on somebody's machine.

use super::Project;
use super::sources::{Tree, code_only};

/// Lines a shipped Rust file may have.
const LONGEST: usize = 600;
/// The one place that may wait for time, and says why.
const WAITING: [&str; 3] = ["tests/src/harness/wait.rs", "node/src/testing.rs", "node/tests/common/mod.rs"];

/// Rust files that do not open with `//!`.
#[must_use]
pub fn check_openings(project: &Project) -> Vec<String> {
    openings(&project.tree)
}

fn openings(tree: &Tree) -> Vec<String> {
    tree.rust()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{} does not open with //! and what it owns", file.path))
        .collect()
}

/// Files with more lines outside their tests than a reader can hold.
#[must_use]
pub fn check_lengths(project: &Project) -> Vec<String> {
    let tree = &project.tree;
    tree.rust()
        .map(|file| (file, tree.split(file).shipped.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(file, lines)| format!("{} has {lines} lines outside tests; {LONGEST} at most", file.path))
        .collect()
}

/// Tests that sleep instead of awaiting a condition.
#[must_use]
pub fn check_sleeps(project: &Project) -> Vec<String> {
    sleeps(&project.tree)
}

fn sleeps(tree: &Tree) -> Vec<String> {
    tree.rust()
        .filter(|file| !WAITING.contains(&file.path.as_str()))
        .filter(|file| {
            let code = code_only(&tree.split(file).tests);
            code.contains("thread::sleep") || code.contains("time::sleep")
        })
        .map(|file| format!("{} sleeps in a test; await a fact with the helper in {}", file.path, WAITING[0]))
        .collect()
}

/// Text that names a home directory.
#[must_use]
pub fn check_home_paths(project: &Project) -> Vec<String> {
    home_paths(&project.tree)
}

fn home_paths(tree: &Tree) -> Vec<String> {
    // Put together here, so that this file does not contain them.
    let homes = ["home", "root", "Users"].map(|name| format!("/{name}/"));
    let mut found = Vec::new();
    for file in &tree.files {
        for (at, line) in file.text.lines().enumerate() {
            let named = homes.iter().any(|home| {
                line.match_indices(home.as_str())
                    .any(|(start, _)| !line[..start].ends_with(|c: char| c.is_alphanumeric() || "._-}~".contains(c)))
            });
            if named {
                found.push(format!("{}:{} names a home directory", file.path, at + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::sources::Source;
    use super::*;

    fn tree(path: &str, text: &str) -> Tree {
        Tree::of(vec![Source { path: path.into(), text: text.into() }])
    }

    #[test]
    fn a_file_without_an_opening_is_found() {
        assert_eq!(openings(&tree("node/src/x.rs", "use a;\n")).len(), 1);
        assert_eq!(openings(&tree("node/src/x.rs", "//! Owns a.\nuse a;\n")).len(), 0);
    }

    #[test]
    fn a_sleep_is_found_in_tests_and_left_alone_in_what_ships() {
        let slept = "std::thread::sleep(d);\n";
        assert_eq!(sleeps(&tree("tests/tests/x.rs", slept)).len(), 1);
        assert_eq!(sleeps(&tree("node/src/x.rs", slept)).len(), 0);
        assert_eq!(sleeps(&tree("node/src/x.rs", &format!("#[cfg(test)]\nmod t {{\n    {slept}}}\n"))).len(), 1);
        assert_eq!(sleeps(&tree("tests/tests/x.rs", "// thread::sleep\n")).len(), 0);
    }

    #[test]
    fn a_home_directory_is_found_and_a_route_is_not() {
        let home = format!("see /{}/ann/x", "home");
        assert_eq!(home_paths(&tree("README.md", &home)).len(), 1);
        assert_eq!(home_paths(&tree("README.md", &format!("example.org/{}/page", "home"))).len(), 0);
    }
}
