//! The address of a client behind proxies.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use smol_str::{SmolStr, ToSmolStr};

use crate::http::Request;

/// The address of the client of a request that came from `peer`. A proxy appends its
/// peer's address to `X-Forwarded-For`; what precedes it may be forged. So the client is the last
/// address in that list that is not a trusted proxy's.
pub(super) fn client(request: &Request<'_>, peer: &SmolStr, trusted: &[IpNet]) -> SmolStr {
    if trusted.is_empty() {
        return peer.clone();
    }
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let Some(mut client) = address(peer).filter(is_trusted) else { return peer.clone() };
    let forwarded: Vec<_> = request.headers.list("X-Forwarded-For").collect();
    for sender in forwarded.into_iter().rev() {
        // What a trusted proxy did not understand it has not written.
        let Some(sender) = address(sender) else { break };
        client = sender;
        if !is_trusted(&client) {
            break;
        }
    }
    client.to_smolstr()
}

/// With a port, as some proxies write it, or without.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse::<IpAddr>().ok().or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_have_a_port() {
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().ok());
        for (text, expected) in [
            ("192.0.2.1", v4),
            ("192.0.2.1:80", v4),
            ("::ffff:192.0.2.1", v4),
            ("2001:db8::1", v6),
            ("[2001:db8::1]:80", v6),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(address(text), expected, "{text:?}");
        }
    }
}
