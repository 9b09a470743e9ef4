//! The log's keys: every field of every log line in `node` is one of the table in ARCHITECTURE.md, and every key of the
//! table is used. Knows the macros' surface only.

use std::collections::BTreeSet;

use super::Project;
use super::sources::{Tree, code_only};

/// Where the keys are listed.
const DOCUMENT: &str = "node/ARCHITECTURE.md";
/// The heading of the section with the table.
const HEADING: &str = "## The log";
/// The calls that write a line.
const CALLS: [&str; 5] =
    ["tracing::error!(", "tracing::warn!(", "tracing::info!(", "tracing::debug!(", "tracing::trace!("];

/// Fields that are no keys, and keys that nobody uses.
#[must_use]
pub fn check(project: &Project) -> Vec<String> {
    strays(&project.tree)
}

fn strays(tree: &Tree) -> Vec<String> {
    let keys = listed(tree.file(DOCUMENT).map(|file| file.text.as_str()).unwrap_or_default());
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    for file in tree.rust().filter(|file| file.path.starts_with("node/src/")) {
        let code = code_only(&tree.split(file).shipped);
        for field in CALLS.iter().flat_map(|call| code.match_indices(call)).flat_map(|(at, call)| {
            let arguments = &code[at + call.len()..];
            fields(&arguments[..end_of_call(arguments)])
        }) {
            if !keys.contains(&field) {
                found.push(format!("{} logs {field}, which is not in the table of keys in {DOCUMENT}", file.path));
            }
            used.insert(field);
        }
    }
    found.extend(keys.difference(&used).map(|key| format!("{DOCUMENT} lists the key {key}, which no line has")));
    found
}

/// The first column of the section's table.
fn listed(document: &str) -> BTreeSet<String> {
    let section = document.split(HEADING).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    section.lines().filter_map(row).collect()
}

/// Up to the parenthesis that closes the call.
fn end_of_call(text: &str) -> usize {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The names of a call's fields: `name = …`, `%name`, `?name` or `name`; strings have been blanked.
fn fields(arguments: &str) -> Vec<String> {
    let mut depth = 0;
    let parts = arguments.split(|c| {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    let name = |part: &str| part.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']).to_owned();
    parts.map(name).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sources::Source;
    use super::*;

    fn tree(document: &str, code: &str) -> Tree {
        let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        Tree::of(vec![file(DOCUMENT, document), file("node/src/x.rs", code)])
    }

    const DOCUMENTED: &str =
        "# A\n## The log\n| key | |\n|---|---|\n| `peer` | who |\n| `why` | reason |\n## Next\n| `x` | |\n";

    #[test]
    fn fields_that_are_no_keys_and_keys_without_fields_are_found() {
        let good = "fn a() { tracing::warn!(%peer, why = %text(a, \"b, c\"), \"turned, away\"); }";
        assert_eq!(strays(&tree(DOCUMENTED, good)), [""; 0]);
        let stray = "fn a() { tracing::info!(%peer, error = ?e, \"no\"); tracing::debug!(why, \"so\"); }";
        let found = strays(&tree(DOCUMENTED, stray));
        assert!(found.len() == 1 && found[0].contains("error"), "{found:?}");
        let unused = strays(&tree(DOCUMENTED, "fn a() { tracing::info!(%peer, \"no\"); }"));
        assert!(unused.len() == 1 && unused[0].contains("why"), "{unused:?}");
    }
}
