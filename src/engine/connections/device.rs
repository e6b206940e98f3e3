//! Devices that did not register: what a URI names, whose connection leads there, and what a certificate must carry
//! (DESIGN.md, What it does on the wire, 5; RFC 3263 §4, RFC 5922).
//!
//! Only a request of the server side comes here. What an endpoint has sent opens no connection and asks no resolver.

use std::net::SocketAddr;

use super::connection::Element;
use crate::config::Verify;
use crate::config::engine::{Expected, Settings, TlsPeer};
use crate::flow::keys::{Keys, Tag};
use crate::ids::{ShardId, Side, Transport};

/// What a device's certificate must carry: what its network's rule says, else the host that the server named.
pub fn tls_of(host: &Expected, address: SocketAddr, settings: &Settings) -> TlsPeer {
    let rule = settings.device_at(address.ip());
    let named = rule.and_then(|rule| rule.tls_name.as_ref());
    let expected = named.map_or_else(|| host.clone(), |name| Expected::of(None, name));
    TlsPeer {
        side: Side::Endpoint,
        setup: rule.and_then(|rule| rule.setup).map(|setup| setup.id),
        expected,
        verify: rule.map_or(Verify::Name, |rule| rule.verify),
    }
}

/// A device, as its connections are told apart: those who want the same name and the same trust share one.
pub fn element(tls: Option<&TlsPeer>, keys: &Keys) -> Element {
    let hash = tls.map_or(0, |tls| {
        let chain = [u8::from(tls.verify == Verify::Chain)];
        // 0 is the set-up of the side.
        let setup = tls.setup.map_or(0, |setup| u32::from(setup.0) + 1).to_be_bytes();
        let (kind, name): (&[u8], _) = match &tls.expected {
            Expected::Name(name) => (b"n", name.clone()),
            Expected::Address(ip) => (b"a", ip.to_string()),
        };
        keys.hash64(Tag::Device, &[kind, name.as_bytes(), &chain, &setup])
    });
    Element::Device(hash)
}

/// The shard that holds the connection to a device (DESIGN.md: by the hash of its target before DNS).
pub fn shard_of(host: &Expected, port: u16, transport: Transport, keys: &Keys, shards: u8) -> ShardId {
    let address;
    let host = match host {
        Expected::Name(name) => name.as_bytes(),
        Expected::Address(ip) => {
            address = ip.to_string();
            address.as_bytes()
        }
    };
    let hash = keys.hash64(Tag::Device, &[host, &port.to_be_bytes(), transport.param_name().as_bytes()]);
    // A remainder of a u8 fits a u8.
    ShardId(u8::try_from(hash % u64::from(shards.max(1))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_a_device_is_shared_by_those_who_want_the_same_name_and_the_same_trust() {
        let keys = Keys::new(&Settings::plain(Vec::new(), Vec::new()).token_key);
        let host = |name: &str| Expected::Name(name.to_owned());
        let peer = |setup: Option<u16>, expected, verify| TlsPeer {
            side: Side::Endpoint,
            setup: setup.map(crate::ids::SetupId),
            expected,
            verify,
        };
        let all = [
            peer(None, host("a.test"), Verify::Name),
            peer(Some(0), host("a.test"), Verify::Name),
            peer(Some(1), host("a.test"), Verify::Name),
            peer(Some(1), host("a.test"), Verify::Chain),
            peer(Some(1), host("b.test"), Verify::Chain),
            peer(Some(1), Expected::Address("192.0.2.1".parse().expect("an address")), Verify::Chain),
        ];
        let elements: Vec<_> = all.iter().map(|peer| element(Some(peer), &keys)).collect();
        for (at, one) in elements.iter().enumerate() {
            assert_eq!(*one, element(Some(&all[at].clone()), &keys));
            assert!(!elements[..at].contains(one), "{:?}", all[at]);
        }
    }
}
