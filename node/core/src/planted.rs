//! Bugs on purpose, to see that the simulator finds them: each breaks one rule in the place where the code keeps it.
//! Without the feature `planted`, which no build of the daemon has, every switch is the constant `false`.

/// Declares the bugs, each with what goes wrong and the rules it breaks.
macro_rules! bugs {
    ($($name:ident: $what:literal, $rules:literal;)*) => {
        /// A mistake somebody could make.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum Bug {
            $(#[doc = $what] $name,)*
        }

        impl Bug {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What goes wrong, in a line.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)* }
            }

            /// The rules of the protocol that it breaks.
            #[must_use]
            pub const fn rules(self) -> &'static str {
                match self { $(Self::$name => $rules,)* }
            }

            /// As in the source.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

bugs! {
    ClaimsLeaveAsHints: "claims leave before the sync", "CLAIM-1";
    CountersSavedNowAndThen: "the counters are saved with every eighth commit only", "CLAIM-1, STORE-1";
    DueForgottenAtStart: "a start finds the first destination with due mail and no other", "CLAIM-2";
    IncarnationReused: "a start goes on under the incarnation it finds", "START-1";
    LeftForgotten: "that mail may have left is not stored, nor assumed at the start", "CANCEL-1, START-2";
    StagesKept: "what was streaming in at a crash is never thrown away", "START-3";
    SubstatesNotToldAgain: "a start does not tell sub-states again", "RECEIPT-7";
    FilterSkipped: "what has a record enters again", "FILTER-1";
    FloorNotStored: "the filter forgets its floor at a restart", "FILTER-1, FILTER-3";
    SkippedEnters: "what was signed as skipped may still enter", "FILTER-2";
    RangeKeepsCutTags: "a delivered range that the floor cuts keeps the tags of what is gone", "FILTER-3";
    ReceiptSpansGap: "a delivered range reaches over a number that never entered", "RECEIPT-1, RECEIPT-2";
    TagsNotCompared: "a delivered range is believed whatever its tags", "RECEIPT-4";
    EndingOverwritten: "a receipt after an unconfirmed ending is another ending", "RECEIPT-4";
    FreedByHighest: "a relay frees all below the highest number a receipt names", "RECEIPT-3";
    FloorPassesOpen: "the floor passes a number without an ending", "WORD-1";
    SecondMarkPassesUnconsumed: "the second mark passes what has no sub-state", "WORD-5";
    WordNotRepeated: "a word that ends something is told once", "WORD-3";
    ClosedFlowReopened: "mail goes into the flow of the incarnation before", "FLOW-4, START-2";
    EncapsulationReused: "a flow takes the encapsulation of the incarnation before", "SEAL-3, FLOW-2";
    KeysForgottenAtStart: "idempotency keys do not outlive the process", "IDEM-1";
    KeyNotBound: "a key is answered whatever the request", "IDEM-1";
    CancelledAfterItLeft: "what has left is cancelled at once", "CANCEL-1";
    AgesByWallClock: "a wall clock set forward ages mail", "AGE-1";
    AgeCountedTwice: "a holder adds its time twice", "AGE-3";
    AgeNotCarried: "a relay counts from zero", "AGE-3";
    DelayedTooEarly: "a delayed message goes ten minutes before it is due when something wakes", "DELAY-1";
    FreedAtCustody: "the source frees its copy when a neighbour has custody", "CUSTODY-3, P5";
    StandbyDropped: "a relay drops its copy when the next has custody", "CUSTODY-3";
    StandbyNotRevived: "no receipt comes and no copy is active again", "RETRY-1";
    DroppedIgnored: "a copy given up elsewhere wakes no standby", "CUSTODY-4";
    CustodyOfAnyClass: "custody for one class is taken for all", "CUSTODY-1";
    WaveNeverRaised: "retries stay on the first wave", "RETRY-1, WAVE-3";
    TakenTwiceInAWave: "a relay takes again what it has given up in this wave", "WAVE-2";
    HaveForATombstone: "a relay has what it only remembers", "HOP-5, WAVE-2";
    CreditNeverReturned: "a taker grants its first window and no other", "CREDIT-2";
    RefusedForgotten: "what a neighbour refused is never offered again", "HOP-6";
    InHandLost: "what was in hand on a lost connection is not due again", "HOP-2";
    RefusedAfterRecording: "a full inbox refuses what the filter has recorded", "QUOTA-2, FILTER-1";
    OutboxNotCountedOff: "ended messages count in the outbox", "QUOTA-1";
    BodyNotFreed: "the source keeps the body of what has ended", "RECEIPT-3";
    PredecessorIgnored: "ordered messages wait for nothing", "ORDER-2";
    SuccessorNotReleased: "a consumed message releases nobody", "ORDER-3";
    SettledStays: "an acknowledged message stays in the inbox", "CONSUME-2";
    DeliveryCountLost: "the count of deliveries is not stored", "CONSUME-1";
    LeaseLost: "what a closed consumer held goes to nobody", "CONSUME-3";
    DeadLetterLost: "a dead letter is deleted", "CONSUME-4";
}

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(u8::MAX);

/// Whether a bug is switched on.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether a bug is switched on: never, in this build.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

/// Switches one bug on for the whole process, or all off.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(u8::MAX, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Bug;

    fn sources(folder: &Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                sources(&entry.path(), into);
            } else if entry.file_name() != "planted.rs" {
                into.push_str(&std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }

    #[test]
    fn every_bug_has_a_switch_and_a_build_without_the_feature_has_none() {
        let mut source = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut source);
        for bug in Bug::ALL {
            assert!(source.contains(&format!("planted::is(Bug::{})", bug.name())), "{bug:?} has no switch");
            assert!(!super::is(*bug), "{bug:?} is on");
        }
    }
}
