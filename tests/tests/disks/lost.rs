//! A relay whose disk lost what it had taken: cut short, rolled back, or gone. It says so, goes on, and its neighbour
//! offers again at once what it had acknowledged, long before any retry is due.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use waypost_tests::harness::client::{PATIENT, ids};
use waypost_tests::harness::{Chain, exit};

/// Well below a minute, after which a source would send again by itself.
const AT_ONCE: Duration = Duration::from_secs(30);

/// A hundred messages that B holds for C, which is away, and their ids; A keeps standby copies.
fn held_at_b(chain: &mut Chain) -> BTreeSet<String> {
    chain.c.stop().unwrap();
    let lines: Vec<String> = (0..100).map(|number| format!("message {number}")).collect();
    let sent = chain.a.send_lines(&chain.c.channel("work").unwrap(), &lines, &[]).unwrap().ok().unwrap();
    let sent = ids(&sent).unwrap();
    for id in &sent {
        chain.await_passed(id, "held").unwrap();
    }
    sent.into_iter().collect()
}

/// C comes back and gets each once.
fn assert_arrive(chain: &mut Chain, sent: &BTreeSet<String>) {
    // First at the relay again, whose neighbour only offers what the relay is known to have lost.
    chain.await_connected(&chain.a).unwrap();
    chain
        .until("b to hold the mail again", AT_ONCE, || Ok((chain.b.status()?.transit.envelopes > 0).then_some(())))
        .unwrap();
    chain.c.start().unwrap();
    let received = chain.c.recv("work", sent.len(), AT_ONCE).unwrap();
    let received: BTreeSet<String> = received.into_iter().map(|message| message.id).collect();
    assert_eq!(received, *sent);
    chain.await_empty().unwrap();
    assert_eq!(chain.c.status().unwrap().inbox.messages, 0);
}

fn newest_log(data: &Path) -> PathBuf {
    let files = fs::read_dir(data.join("store")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "log")).max().unwrap()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// DISK-1, HELLO-2: a log damaged below its mark is told with numbers and kept, and what it held arrives all the same.
#[test]
fn a_damaged_log_is_told_and_its_mail_arrives() {
    let mut chain = Chain::a_b_c("damaged").unwrap();
    chain.b.restart().unwrap();
    chain.await_connected(&chain.a).unwrap();
    let sent = held_at_b(&mut chain);
    chain.b.kill9().unwrap();
    let log = newest_log(&chain.b.data());
    let mut bytes = fs::read(&log).unwrap();
    // What B took is somewhere in it: from there on everything is lost.
    let middle = bytes.len() / 10;
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).unwrap();
    chain.b.start().unwrap();
    let damage = chain.b.status().unwrap().disk().unwrap().damage;
    assert!(damage.contains("synced writes") && damage.contains("quarantine/1"), "{damage}");
    assert!(fs::read_to_string(chain.b.log()).unwrap().contains("the store lost "), "the log says it too");
    let kept = chain.b.data().join("quarantine/1").join(log.file_name().unwrap());
    assert_eq!(fs::read(kept).unwrap(), bytes);
    assert_arrive(&mut chain, &sent);
}

/// HELLO-2: a data directory restored from an earlier copy; the copy fits its own mark, the neighbour knows better.
#[test]
fn a_rolled_back_relay_is_offered_again_what_it_had() {
    let mut chain = Chain::a_b_c("rollback").unwrap();
    let (data, before) = (chain.b.data(), chain.sandbox.file("before"));
    chain.b.stop().unwrap();
    copy(&data, &before);
    chain.b.start().unwrap();
    chain.await_connected(&chain.a).unwrap();
    let sent = held_at_b(&mut chain);
    chain.b.kill9().unwrap();
    fs::remove_dir_all(&data).unwrap();
    copy(&before, &data);
    chain.b.start().unwrap();
    assert_eq!(chain.b.status().unwrap().transit.envelopes, 0, "B knows nothing of them");
    assert_arrive(&mut chain, &sent);
}

/// DISK-2, HELLO-2: a store that is gone is refused with what to do; done, the relay is a member again and has its mail.
#[test]
fn a_relay_without_its_store_is_refused_until_its_owner_says_so() {
    let mut chain = Chain::a_b_c("gone").unwrap();
    let sent = held_at_b(&mut chain);
    chain.b.kill9().unwrap();
    fs::remove_dir_all(chain.b.data().join("store")).unwrap();
    chain.b.launch(&[]).unwrap();
    assert_eq!(chain.b.await_code().unwrap(), exit::CONFIGURATION);
    assert!(fs::read_to_string(chain.b.log()).unwrap().contains("--accept-loss"));
    assert!(!chain.b.data().join("store").exists(), "nothing empty in its place");
    chain.b.join(&chain.a.invite().unwrap()).unwrap();
    let a = chain.a.dial_at("tcp").unwrap();
    chain.b.add_peer(&a);
    chain.b.start_with(&["--accept-loss"]).unwrap();
    let damage = chain.b.status().unwrap().disk().unwrap().damage;
    assert!(damage.contains("synced writes"), "{damage}");
    chain
        .until("b to be a member again", PATIENT, || Ok(chain.b.is_connected_to(chain.a.address()?)?.then_some(())))
        .unwrap();
    assert_arrive(&mut chain, &sent);
}
