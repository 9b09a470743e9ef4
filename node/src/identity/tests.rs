//! Keys that stay the same and stay private; one network for life.

use std::os::unix::fs::PermissionsExt;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use waypost_core::trust::{AdmissionClock, Terms, found, verify_chain};

use super::*;

fn token(seed: u8) -> Token {
    let founder = NodeKey::from_seed(&[seed; 32]);
    let clock = AdmissionClock { now_ms: 1000, build_ms: 0, highest_stored_ms: 0 };
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    let founding = found(&mut rng, founder.id(), 1000);
    let inviter = verify_chain(founding.network, founder.id(), &[founding.certificate]).unwrap();
    let terms = Terms { once: false, lifetime_ms: 1000 };
    Token::issue(&founder, &inviter, terms, clock, NodeKey::from_seed(&[seed + 1; 32]), &[]).unwrap()
}

#[test]
fn a_key_is_drawn_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    assert!(load(&data).unwrap().is_none());
    let key = load_or_create(&data).unwrap();
    assert_eq!(load_or_create(&data).unwrap().id(), key.id());
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(data.join("key")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path()).unwrap();
    fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(0o640)).unwrap();
    let refused = load(dir.path()).unwrap_err();
    assert!(matches!(refused, IdentityError::Exposed { mode: 0o640, .. }));
    let path = dir.path().join("key");
    assert!(refused.to_string().contains(&format!("`chmod 600 {}`", path.display())), "{refused}");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(load(dir.path()).unwrap().is_some());
}

#[test]
fn a_damaged_key_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path()).unwrap();
    let path = dir.path().join("key");
    let mut content = fs::read(&path).unwrap();
    content[40] ^= 1;
    fs::write(&path, &content).unwrap();
    assert!(matches!(load_or_create(dir.path()), Err(IdentityError::Damaged { .. })));
    assert_eq!(fs::read(&path).unwrap(), content);
}

#[test]
fn a_node_joins_one_network_and_may_join_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let (first, other) = (token(1), token(100));
    let address = join(dir.path(), &first).unwrap();
    assert_eq!(network(dir.path()).unwrap(), Some(first.network()));
    assert_eq!(invitation(dir.path()).unwrap().unwrap().network(), first.network());
    let invited = dir.path().join("invitation");
    fs::set_permissions(&invited, fs::Permissions::from_mode(0o604)).unwrap();
    assert!(matches!(invitation(dir.path()), Err(IdentityError::Exposed { mode: 0o604, .. })));
    assert_eq!(join(dir.path(), &first).unwrap(), address);
    assert!(matches!(join(dir.path(), &other), Err(IdentityError::OtherNetwork { .. })));
    assert_eq!(network(dir.path()).unwrap(), Some(first.network()));
    forget_invitation(dir.path()).unwrap();
    assert!(invitation(dir.path()).unwrap().is_none());
}
