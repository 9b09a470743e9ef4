//! One network with a key and certificates for each host, founded by the first.

use waypost_core::id::NetworkId;
use waypost_core::trust::{NodeKey, Roster, found, membership};
use waypost_proto::hop;

use crate::clock::BEGIN_WALL_MS;
use crate::plan::Plan;
use crate::rng::Rng;

/// A key and its certificates, a host.
pub(crate) type Members = Vec<(NodeKey, Vec<hop::Signed>)>;

/// Keys and certificates for one network, founded by the first host.
pub(crate) fn members(plan: &Plan) -> anyhow::Result<(NetworkId, Members)> {
    let mut rng = Rng::of(plan.seed, "keys", 0);
    let keys: Vec<NodeKey> = plan.hosts.iter().map(|_| NodeKey::draw(rng.source())).collect();
    let founding = found(rng.source(), keys[0].id(), BEGIN_WALL_MS - 10_000_000);
    let mut roster = Roster::new(founding.network);
    roster.admit_chain(keys[0].id(), std::slice::from_ref(&founding.certificate))?;
    let founder_key = NodeKey::from_seed(&keys[0].seed());
    let mut members = Vec::new();
    for (place, key) in keys.into_iter().enumerate() {
        let chain =
            if place == 0 { vec![founding.certificate.clone()] } else { admit(&founder_key, &roster, &key, &mut rng)? };
        members.push((key, chain));
    }
    Ok((founding.network, members))
}

fn admit(founder: &NodeKey, roster: &Roster, key: &NodeKey, rng: &mut Rng) -> anyhow::Result<Vec<hop::Signed>> {
    let clock = membership::AdmissionClock { now_ms: BEGIN_WALL_MS - 5_000_000, build_ms: 0, highest_stored_ms: 0 };
    let member = roster.member(&founder.id()).ok_or_else(|| anyhow::anyhow!("the founder is no member"))?;
    let terms = membership::Terms { once: false, lifetime_ms: 10_000_000 };
    let token = membership::Token::issue(founder, member, terms, clock, NodeKey::draw(rng.source()), &[])?;
    let admissible = membership::examine(member, roster, &token.join(key), key.id(), clock)?;
    Ok(admissible.certify(founder, None)?.chain)
}
