//! Ties `proto/PROTOCOL.md` to the code: each numbered rule is kept somewhere and tested somewhere, and says so by name.

use std::collections::{BTreeMap, BTreeSet};

use super::Project;
use super::sources::Tree;

/// Where the rules are.
const PROTOCOL: &str = "proto/PROTOCOL.md";

/// A rule's name: letters, a hyphen, digits.
type Rule = String;

/// Rules without code or test, and citations of rules that do not exist.
#[must_use]
pub fn check(project: &Project) -> Vec<String> {
    findings(&project.tree)
}

fn findings(tree: &Tree) -> Vec<String> {
    let Some(protocol) = tree.file(PROTOCOL) else {
        return vec![format!("{PROTOCOL} is missing: the rules live there")];
    };
    let (defined, mut found) = defined_rules(&protocol.text);
    if defined.is_empty() {
        found.push(format!("{PROTOCOL} defines no rule: a rule's paragraph begins with **NAME-1.**"));
    }
    let cited = Citations::read(tree, &defined);
    for rule in &defined {
        if !cited.in_code.contains(rule) {
            found.push(format!("{rule}: no code in node/ or proto/ cites it"));
        }
        if !cited.in_tests.contains(rule) {
            found.push(format!("{rule}: no test cites it"));
        }
    }
    found.extend(
        cited.unknown.iter().map(|(rule, path)| format!("{path} cites {rule}, which {PROTOCOL} does not define")),
    );
    found
}

/// The rules whose paragraphs begin `**NAME-n.**`, and a finding for each that is defined twice.
fn defined_rules(protocol: &str) -> (BTreeSet<Rule>, Vec<String>) {
    let mut defined = BTreeSet::new();
    let mut found = Vec::new();
    for line in protocol.lines() {
        let opening = line.trim_start_matches(['-', '*', ' ']);
        let starts_bold = line.trim_start_matches(['-', ' ']).trim_start_matches("* ").starts_with("**");
        let Some((name, _)) = opening.split_once(".**") else { continue };
        if starts_bold && is_rule(name) && !defined.insert(name.to_owned()) {
            found.push(format!("{PROTOCOL} defines {name} twice"));
        }
    }
    (defined, found)
}

fn is_rule(word: &str) -> bool {
    let Some((family, number)) = word.split_once('-') else { return false };
    family.len() >= 2
        && family.bytes().all(|byte| byte.is_ascii_uppercase())
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

struct Citations {
    in_code: BTreeSet<Rule>,
    in_tests: BTreeSet<Rule>,
    unknown: BTreeMap<Rule, String>,
}

impl Citations {
    fn read(tree: &Tree, defined: &BTreeSet<Rule>) -> Self {
        let families: BTreeSet<&str> = defined.iter().filter_map(|rule| rule.split_once('-')).map(|(f, _)| f).collect();
        let mut cited = Self { in_code: BTreeSet::new(), in_tests: BTreeSet::new(), unknown: BTreeMap::new() };
        for file in &tree.files {
            let product = file.path.starts_with("node/") || file.path.starts_with("proto/");
            // This checker's own examples are no citations.
            if !(product || file.path.starts_with("tests/")) || file.path.starts_with("tests/src/tree/") {
                continue;
            }
            let (shipped, tests) = if file.path.ends_with(".rs") {
                let halves = tree.split(file);
                (mentions(&halves.shipped), mentions(&halves.tests))
            } else if file.path.ends_with(".proto") {
                (mentions(&file.text), Vec::new())
            } else {
                continue;
            };
            for mention in shipped.iter().chain(&tests) {
                let claimed =
                    mention.after_rule || mention.rule.split_once('-').is_some_and(|(f, _)| families.contains(f));
                if claimed && !defined.contains(&mention.rule) {
                    cited.unknown.insert(mention.rule.clone(), file.path.clone());
                }
            }
            cited.in_code.extend(shipped.into_iter().map(|mention| mention.rule));
            cited.in_tests.extend(tests.into_iter().map(|mention| mention.rule));
        }
        cited
    }
}

/// A word that looks like a rule's name.
struct Mention {
    rule: Rule,
    /// Whether the text calls it a rule; otherwise it may be the name of a hash or an encoding.
    after_rule: bool,
}

fn mentions(text: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    let mut after_rule = false;
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')) {
        if is_rule(word) {
            found.push(Mention { rule: word.to_owned(), after_rule });
        } else if !word.is_empty() && word != "and" {
            after_rule = matches!(word, "rule" | "rules");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::sources::Source;
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree::of(files.iter().map(|(path, text)| Source { path: (*path).into(), text: (*text).into() }).collect())
    }

    const RULES: (&str, &str) =
        (PROTOCOL, "# Rules\n\n**HOP-1.** Say hello.\n\n* **HOP-2.** Say it once.\n\nHOP-2 again.\n");

    #[test]
    fn a_rule_with_code_and_test_is_well() {
        let code =
            ("node/core/src/hop.rs", "// rules HOP-1 and HOP-2\n#[cfg(test)]\nmod tests {\n    // HOP-1, HOP-2\n}\n");
        assert_eq!(findings(&tree(&[RULES, code])), Vec::<String>::new());
    }

    #[test]
    fn a_rule_that_lacks_either_is_listed() {
        let code = ("node/core/src/hop.rs", "// rule HOP-1\n");
        let test = ("tests/tests/spine.rs", "// HOP-2\n");
        assert_eq!(
            findings(&tree(&[RULES, code, test])),
            ["HOP-1: no test cites it", "HOP-2: no code in node/ or proto/ cites it"]
        );
    }

    #[test]
    fn a_citation_of_no_rule_is_listed_and_a_hash_is_not() {
        let text =
            "// UTF-8, SHA-256; HOP-1 HOP-2 HOP-9, rule OLD-3\n#[cfg(test)]\nmod tests {\n    // HOP-1 HOP-2\n}\n";
        let found = findings(&tree(&[RULES, ("node/src/x.rs", text)]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("HOP-9") && found[1].contains("OLD-3"), "{found:?}");
    }

    #[test]
    fn missing_rules_and_double_ones_are_found() {
        assert_eq!(findings(&tree(&[])).len(), 1);
        assert_eq!(defined_rules("**HOP-1.** a\n\n**HOP-1.** b\n").1.len(), 1);
    }
}
