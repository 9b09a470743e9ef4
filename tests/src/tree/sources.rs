//! The project's own files, and which parts of them are tests. Knows Rust's surface only: comments, strings, `mod`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// One text file of the project.
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

/// Every text file of the project that is tracked, or would be.
pub struct Tree {
    /// In the order of their paths.
    pub files: Vec<Source>,
    test_paths: BTreeSet<String>,
}

impl Tree {
    /// Reads what git knows under `root`; without git, everything but hidden folders and build output.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let paths = match tracked(root) {
            Some(paths) => paths,
            None => walk(root)?,
        };
        let mut files = Vec::new();
        for path in paths {
            let whole = root.join(&path);
            if !whole.is_file() {
                continue;
            }
            let bytes = fs::read(&whole).with_context(|| format!("reading {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(Source { path, text });
            }
        }
        Ok(Self::of(files))
    }

    /// A tree of these files.
    #[must_use]
    pub fn of(mut files: Vec<Source>) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let test_paths = files.iter().flat_map(declared_test_modules).collect();
        Self { files, test_paths }
    }

    /// The file at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|file| file.path == path)
    }

    /// All Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// Whether the whole file exists for tests: in the tests crate, in a `tests` folder, or a `#[cfg(test)]` module's.
    #[must_use]
    pub fn is_test_file(&self, file: &Source) -> bool {
        let stem = file.path.trim_end_matches(".rs");
        file.path.starts_with("tests/")
            || file.path.contains("/tests/")
            || self.test_paths.iter().any(|module| {
                stem == module || stem.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('/'))
            })
    }

    /// A Rust file's text in two halves: what ships, and what is compiled for tests only.
    #[must_use]
    pub fn split(&self, file: &Source) -> Halves {
        if self.is_test_file(file) {
            return Halves { shipped: String::new(), tests: file.text.clone() };
        }
        split_inline_tests(&file.text)
    }
}

/// What of a file ships and what does not.
pub struct Halves {
    /// Compiled into the product.
    pub shipped: String,
    /// Compiled for tests.
    pub tests: String,
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty())?;
    let text = String::from_utf8(listed.stdout).ok()?;
    Some(text.split_terminator('\0').map(str::to_owned).collect())
}

fn walk(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).context("listing the project")? {
            let entry = entry?;
            let name = entry.file_name();
            let relative = folder.join(&name);
            let visible = name.to_str().is_some_and(|name| !name.starts_with('.') && name != "target");
            if !visible {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(relative);
            } else if let Some(path) = relative.to_str() {
                found.push(path.to_owned());
            }
        }
    }
    Ok(found)
}

/// The line that marks what follows as compiled for tests only.
const TEST_MARK: &str = "#[cfg(test)]";

/// `a/b.rs` with `#[cfg(test)] mod c;` declares the test module `a/b/c`; with `#[path = "d.rs"]` between, `a/d`.
fn declared_test_modules(file: &Source) -> Vec<String> {
    let Some(stem) = file.path.strip_suffix(".rs") else { return Vec::new() };
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let home = if matches!(name, "mod" | "lib" | "main") { folder } else { stem };
    let mut found = Vec::new();
    let mut lines = file.text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if line != TEST_MARK {
            continue;
        }
        let placed = |line: &&str| line.starts_with("#[path = ");
        let path =
            lines.next_if(placed).and_then(|line| line.split('"').nth(1)).map(|path| path.trim_end_matches(".rs"));
        let module = lines.peek().and_then(|item| item.strip_suffix(';')).and_then(|item| item.rsplit_once("mod "));
        if let Some((_, module)) = module {
            found.push(path.map_or_else(|| format!("{home}/{module}"), |path| format!("{folder}/{path}")));
        }
    }
    found
}

/// Relies on the formatter: an item that opens a brace ends at the next closing brace of the same indentation.
fn split_inline_tests(text: &str) -> Halves {
    let mut halves = Halves { shipped: String::new(), tests: String::new() };
    let mut end_of_tests: Option<String> = None;
    let mut marked = false;
    for line in text.lines() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        let in_tests = marked || end_of_tests.is_some() || line.trim() == TEST_MARK;
        let half = if in_tests { &mut halves.tests } else { &mut halves.shipped };
        half.push_str(line);
        half.push('\n');
        if let Some(end) = &end_of_tests {
            if line.strip_prefix(end.as_str()).is_some_and(|rest| rest.starts_with('}')) {
                end_of_tests = None;
            }
        } else if marked && line.ends_with('{') {
            end_of_tests = Some(indentation.to_owned());
            marked = false;
        } else if marked && (line.ends_with(';') || line.ends_with('}') || line.ends_with(',')) {
            marked = false;
        } else if line.trim() == TEST_MARK {
            marked = true;
        }
    }
    halves
}

/// The text with comments and the insides of string literals blanked; lines stay where they are.
#[must_use]
pub fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = literal_or_comment(rest, out.chars().next_back());
        if skipped > 0 {
            out.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// Bytes of the comment or string literal that `text` begins with; 0 when it begins with neither.
fn literal_or_comment(text: &str, before: Option<char>) -> usize {
    let up_to = |found: Option<usize>| found.unwrap_or(text.len());
    if text.starts_with("//") {
        return up_to(text.find('\n'));
    }
    if text.starts_with("/*") {
        return up_to(text.find("*/").map(|at| at + 2));
    }
    if text.starts_with('"') {
        return up_to(end_of_string(text));
    }
    if text.starts_with("'\"'") || text.starts_with("'\\\"'") {
        return up_to(text[1..].find("'").map(|at| at + 2));
    }
    let in_a_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_a_word && text.starts_with('r') {
        let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
        if text[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = 2 + hashes;
            return up_to(text[open..].find(&end).map(|at| open + at + end.len()));
        }
    }
    0
}

fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Whether `word` stands in `text` with nothing of a longer word on either side.
#[must_use]
pub fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_part)
            && !text[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn what_is_compiled_for_tests_is_told_from_what_ships() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n#[cfg(test)]\nuse d;\nfn e() {}\n";
        let halves = Tree::of(vec![]).split(&source("node/src/x.rs", text));
        assert_eq!(halves.shipped, "fn a() {}\nfn c() {}\nfn e() {}\n");
        assert!(halves.tests.contains("fn b()") && halves.tests.contains("use d;"));
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_a_test_file_with_all_below_it() {
        let parent =
            source("node/core/src/flow.rs", "#[cfg(test)]\nmod tries;\n#[cfg(test)]\n#[path = \"far.rs\"]\nmod far;\n");
        let tree = Tree::of(vec![
            parent,
            source("node/core/src/flow/tries.rs", ""),
            source("node/core/src/flow/tries/deep.rs", ""),
            source("node/core/src/flow/triesome.rs", ""),
            source("node/core/src/far.rs", ""),
        ]);
        let tests: Vec<bool> = tree.files.iter().map(|file| tree.is_test_file(file)).collect();
        assert_eq!(tests, [true, false, true, true, false]);
    }

    #[test]
    fn comments_and_strings_are_blanked_and_code_is_kept() {
        let code = code_only(
            "let a = \"x \\\" rocksdb\"; // rocksdb\nlet c = '\"'; let r = r#\"rocksdb \" \"#; rocksdb::open()",
        );
        assert_eq!(code.matches("rocksdb").count(), 1);
        assert!(code.contains("rocksdb::open()") && code.contains("let r = "));
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("see HOP-1.", "HOP-1"));
        assert!(!has_word("see HOP-12", "HOP-1") && !has_word("XHOP-1", "HOP-1"));
    }
}
