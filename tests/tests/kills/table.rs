//! What was under way when somebody was killed, and how that was spread over the run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// How somebody was killed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// While the others ran.
    Alone,
    /// Two nodes, both down before either was started again.
    Pair,
    /// So soon after its start that it may not have come up.
    Early,
}

/// What was under way at one kill.
#[derive(Clone, Debug)]
pub struct Kill {
    /// Its kind.
    pub kind: Kind,
    /// Whom it hit, as in `a` or `bc`.
    pub victims: String,
    /// Accepted and not yet received by the application: by the books, which lag behind the truth.
    pub in_flight: u64,
    /// What the nodes said just before: messages in A's outbox, envelopes at B, messages unread at C.
    pub where_they_were: Option<[u64; 3]>,
    /// How long the victim had run: of an early kill.
    pub ran: Option<Duration>,
}

impl Kill {
    /// One line about it.
    pub fn line(&self) -> String {
        let mut line = format!("{:?} {}, {} in flight", self.kind, self.victims, self.in_flight);
        if let Some([outbox, transit, inbox]) = self.where_they_were {
            let _ = write!(line, ": {outbox} in A's outbox, {transit} envelopes at B, {inbox} unread at C");
        }
        if let Some(ran) = self.ran {
            let _ = write!(line, ", {} ms after its start", ran.as_millis());
        }
        line
    }
}

/// Least, median and most.
fn spread(mut counts: Vec<u64>) -> String {
    counts.sort_unstable();
    match counts.as_slice() {
        [] => "-".to_owned(),
        [least, .., most] => format!("{least} {} {most}", counts[counts.len() / 2]),
        [only] => format!("{only} {only} {only}"),
    }
}

/// The run as a table: a line for each kind and victim; numbers are least, median, most.
pub fn table(kills: &[Kill]) -> String {
    let mut groups: BTreeMap<(Kind, &str), Vec<&Kill>> = BTreeMap::new();
    for kill in kills {
        groups.entry((kill.kind, &kill.victims)).or_default().push(kill);
    }
    let mut text = format!(
        "{:<6} {:<7} {:>5}  {:<17} {:<17} {:<13} {:<17} {}\n",
        "killed", "victim", "times", "in flight", "A's outbox", "at B", "unread at C", "ms after start"
    );
    for ((kind, victims), kills) in groups {
        let spread_at =
            |place: usize| spread(kills.iter().filter_map(|kill| Some(kill.where_they_were?[place])).collect());
        let ran = kills.iter().filter_map(|kill| u64::try_from(kill.ran?.as_millis()).ok()).collect();
        let _ = writeln!(
            text,
            "{:<6} {victims:<7} {:>5}  {:<17} {:<17} {:<13} {:<17} {}",
            format!("{kind:?}"),
            kills.len(),
            spread(kills.iter().map(|kill| kill.in_flight).collect()),
            spread_at(0),
            spread_at(1),
            spread_at(2),
            spread(ran)
        );
    }
    text
}

#[test]
fn the_table_tells_kinds_and_victims_apart() {
    let kill = |kind, victims: &str, in_flight| Kill {
        kind,
        victims: victims.to_owned(),
        in_flight,
        where_they_were: None,
        ran: None,
    };
    let kills =
        [kill(Kind::Alone, "a", 5), kill(Kind::Alone, "a", 700), kill(Kind::Alone, "a", 6), kill(Kind::Pair, "bc", 9)];
    let table = table(&kills);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("5 6 700") && table.contains("9 9 9"), "{table}");
}
