//! Neighbours that find one another on a local network nobody configured: three hosts that are network namespaces.

use std::fs;

use waypost_tests::harness::client::PATIENT;
use waypost_tests::harness::{Lan, Node, Sandbox, binary, wait};

#[test]
fn members_on_one_network_find_each_other_and_a_stranger_is_turned_away() {
    let Some(lan) = Lan::new(&["a", "b", "stranger"]).unwrap() else { return };
    let sandbox = Sandbox::new("lan").unwrap();
    let mut nodes = ["a", "b", "stranger"].map(|name| {
        let mut node = Node::new(&sandbox, &binary::find().unwrap(), name).unwrap();
        node.live_in(&lan.namespace(name));
        node
    });
    let [a, b, stranger] = &mut nodes;
    // The invitation names no address at which anybody but A reaches A.
    a.listen_at("/ip4/127.0.0.1/tcp/4884");
    a.start().unwrap();
    b.join(&a.invite().unwrap()).unwrap();
    a.stop().unwrap();
    for (at, node) in [&mut *a, &mut *b, &mut *stranger].into_iter().enumerate() {
        node.listen_at(&format!("/ip4/10.77.0.{}/tcp/4884", at + 1));
        node.start().unwrap();
    }
    let (first, second) = (a.address().unwrap().to_owned(), b.address().unwrap().to_owned());
    let logs = [a.log(), b.log(), stranger.log()];
    let logs: Vec<_> = logs.iter().map(|log| log.as_path()).collect();
    wait::until("A and B to find each other", PATIENT, &logs, || {
        Ok((a.is_connected_to(&second)? && b.is_connected_to(&first)?).then_some(()))
    })
    .unwrap();
    let sent = b.send_with(&a.channel("work").unwrap(), b"found you", &["--wait", "delivered"]).unwrap();
    sent.ok().unwrap();
    // The stranger finds them too, and each of them says why it has nothing to do with it.
    let foreign = stranger.address().unwrap().to_owned();
    for (node, other) in [(&*a, &foreign), (&*stranger, &first)] {
        wait::until(&format!("{} to turn the other away", node.name()), PATIENT, &logs, || {
            let log = fs::read_to_string(node.log())?;
            let line = log.lines().find(|line| line.contains("turned away") && line.contains(other.as_str()));
            Ok(line.filter(|line| line.contains("it belongs to another network")).map(drop))
        })
        .unwrap();
        assert!(!node.is_connected_to(other).unwrap());
    }
}
