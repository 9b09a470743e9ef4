//! Which multiaddrs this node can listen at and dial: TCP or QUIC, by number or by name. Resolves and opens nothing.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Listen,
    Dial,
}

/// Checks an address to listen at.
///
/// # Errors
/// What one looks like.
pub fn check_listen(text: &str) -> Result<(), String> {
    check(text, Use::Listen)
}

/// Checks an address to dial.
///
/// # Errors
/// What one looks like.
pub fn check_peer(text: &str) -> Result<(), String> {
    check(text, Use::Dial)
}

fn check(text: &str, what_for: Use) -> Result<(), String> {
    let example = match what_for {
        Use::Listen => "/ip4/0.0.0.0/udp/4884/quic-v1 or /ip4/0.0.0.0/tcp/4884",
        Use::Dial => "/ip4/192.0.2.1/udp/4884/quic-v1 or /dns/harbour.example/tcp/4884",
    };
    let wrong = |why: &str| format!("{text:?} is not an address to {}: {why}; use one as {example}", verb(what_for));
    let address: Multiaddr = text.parse().map_err(|error: libp2p::multiaddr::Error| wrong(&error.to_string()))?;
    let mut parts: Vec<Protocol<'_>> = address.iter().collect();
    if what_for == Use::Dial && matches!(parts.last(), Some(Protocol::P2p(_))) {
        parts.pop();
    }
    let by_name = |host: &Protocol<'_>| matches!(host, Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_));
    let is_host = |host: &Protocol<'_>| {
        matches!(host, Protocol::Ip4(_) | Protocol::Ip6(_)) || (what_for == Use::Dial && by_name(host))
    };
    let port = match parts.as_slice() {
        [Protocol::Dnsaddr(_)] if what_for == Use::Dial => return Ok(()),
        [host, Protocol::Tcp(port)] | [host, Protocol::Udp(port), Protocol::QuicV1] if is_host(host) => *port,
        [host, ..] if by_name(host) => return Err(wrong("a node listens at a number, not at a name")),
        [host, Protocol::Udp(_)] if is_host(host) => return Err(wrong("/quic-v1 is missing at its end")),
        _ => return Err(wrong("it is a host with a TCP port, or with a UDP port and /quic-v1")),
    };
    if port == 0 && what_for == Use::Dial { Err(wrong("nobody can be reached at port 0")) } else { Ok(()) }
}

fn verb(what_for: Use) -> &'static str {
    match what_for {
        Use::Listen => "listen at",
        Use::Dial => "dial",
    }
}

/// What other hosts may be told of where a node listens: on a loopback address everybody finds himself. A node that
/// listens on nothing else is told of all the same; its neighbours live on the same host.
#[must_use]
pub fn for_others(addresses: &[Multiaddr]) -> Vec<String> {
    let is_loopback = |address: &&Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    };
    let (loopback, others): (Vec<&Multiaddr>, Vec<&Multiaddr>) = addresses.iter().partition(is_loopback);
    let told = if others.is_empty() { loopback } else { others };
    told.into_iter().map(Multiaddr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_and_quic_are_taken_and_nothing_else() {
        let peer = libp2p::PeerId::random();
        for good in ["/ip4/0.0.0.0/tcp/0", "/ip6/::/udp/4884/quic-v1"] {
            assert_eq!(check_listen(good), Ok(()), "{good}");
        }
        for good in ["/dns/b/tcp/1".to_owned(), "/dnsaddr/b".to_owned(), format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}")] {
            assert_eq!(check_peer(&good), Ok(()), "{good}");
        }
        let p2p = format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}");
        for wrong in ["", "oops", "/ip4/0.0.0.0", "/ip4/0.0.0.0/tcp/1/ws", "/dns/b/tcp/1", "/ip4/1.2.3/tcp/1", &p2p] {
            assert!(check_listen(wrong).unwrap_err().contains("listen at"), "{wrong}");
        }
        for wrong in ["/ip4/192.0.2.1/tcp/0", "/ip4/192.0.2.1/udp/1", "/unix/x", "/ip4/192.0.2.1/udp/1/quic"] {
            assert!(check_peer(wrong).unwrap_err().contains("to dial"), "{wrong}");
        }
    }

    #[test]
    fn others_are_told_of_no_loopback_address_unless_there_is_nothing_else() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Multiaddr>>();
        let (near, far) = (["/ip4/127.0.0.1/tcp/1", "/ip6/::1/udp/1/quic-v1"], "/ip4/192.0.2.1/tcp/1");
        assert_eq!(for_others(&addresses(&near)), near);
        assert_eq!(for_others(&addresses(&[near[0], far, near[1]])), [far]);
    }
}
