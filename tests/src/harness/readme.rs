//! Reads the commands out of a document, so that tests can type them to the letter. A block fenced as `sh HOST` is typed on
//! that host.

/// The "host" on which containers are run.
pub const COMPOSE: &str = "compose";

/// One line of a fenced block.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// On which host it is typed, if the block says so.
    pub host: Option<String>,
    /// The command.
    pub text: String,
}

/// The commands of all shell blocks, in order.
#[must_use]
pub fn commands(readme: &str) -> Vec<Line> {
    let mut found = Vec::new();
    let mut fence: Option<Option<String>> = None;
    for line in readme.lines() {
        if let Some(info) = line.strip_prefix("```") {
            let mut words = info.split_whitespace();
            let is_shell = matches!(words.next(), Some("sh" | "console"));
            fence = if fence.is_none() { Some(words.next().map(str::to_owned).filter(|_| is_shell)) } else { None };
            if !is_shell && fence.is_some() {
                fence = Some(Some(String::new()));
            }
            continue;
        }
        let Some(host) = &fence else { continue };
        let text = line.strip_prefix("$ ").unwrap_or(line).split("  #").next().unwrap_or_default().trim();
        let counts = host.as_deref() != Some("") && !text.is_empty() && !text.starts_with('#');
        if counts {
            found.push(Line { host: host.clone(), text: text.to_owned() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart() {
        let text = "```\npicture\n```\n```sh b\nwaypost run --name b   # stays\n\n# talk\n```\n```console\n$ make demo\n```\nwaypost x\n";
        let line = |host: Option<&str>, text: &str| Line { host: host.map(str::to_owned), text: text.to_owned() };
        assert_eq!(commands(text), [line(Some("b"), "waypost run --name b"), line(None, "make demo")]);
    }
}
