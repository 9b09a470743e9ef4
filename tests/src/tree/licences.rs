//! Which licences the dependencies may carry: an SPDX expression is allowed when some choice it offers is.

use super::Project;

/// Permissive licences: notices are all they ask for.
const ALLOWED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Exceptions add permissions, never duties.
const EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

/// Packages let in under another licence, with the reason.
const LET_IN: [(&str, &str); 1] =
    // In the lock file for port mapping, a feature of libp2p that is off: it is not compiled.
    [("attohttpc", "MPL-2.0")];

/// Packages whose licence is missing, unreadable or not allowed.
#[must_use]
pub fn check(project: &Project) -> Vec<String> {
    let let_in = |name: &str, licence: &str| LET_IN.contains(&(name, licence));
    let mut found = Vec::new();
    for package in &project.packages.packages {
        match &package.license {
            None => found.push(format!("{} {} names no licence", package.name, package.version)),
            Some(licence) if allows(licence) || let_in(&package.name, licence) => {}
            Some(licence) => found.push(format!("{} {} is under {licence}", package.name, package.version)),
        }
    }
    found
}

/// Whether the expression can be satisfied with allowed licences alone; one that cannot be read cannot.
fn allows(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words };
    reader.any_of() == Some(true) && reader.words.is_empty()
}

struct Reader<'a> {
    words: &'a [&'a str],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn eat(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    fn any_of(&mut self) -> Option<bool> {
        let mut allowed = self.all_of()?;
        while self.eat("OR") {
            allowed |= self.all_of()?;
        }
        Some(allowed)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut allowed = self.one()?;
        while self.eat("AND") {
            allowed &= self.one()?;
        }
        Some(allowed)
    }

    fn one(&mut self) -> Option<bool> {
        if self.eat("(") {
            let allowed = self.any_of()?;
            return self.eat(")").then_some(allowed);
        }
        let licence = self.next()?;
        let excepted = if self.eat("WITH") { EXCEPTIONS.contains(&self.next()?) } else { true };
        Some(excepted && ALLOWED.contains(&licence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_needs_one_allowed_licence_and_a_sum_needs_all() {
        for allowed in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(allows(allowed), "{allowed}");
        }
        for refused in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR X) AND MPL-2.0",
            "MIT WITH Strange-exception",
            "(MIT",
            "",
            "MIT MIT",
        ] {
            assert!(!allows(refused), "{refused}");
        }
    }
}
