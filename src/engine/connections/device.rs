//! Devices that did not register: what a URI names, whose connection leads there, and what a certificate must carry
//! (DESIGN.md, What it does on the wire, 5; RFC 3263 §4, RFC 5922).
//!
//! Only a request of the server side comes here. What an endpoint has sent opens no connection and asks no resolver.

use std::net::SocketAddr;

use super::connection::Element;
use crate::config::Verify;
use crate::config::engine::{Expected, Settings, TlsPeer};
use crate::dns::{NextHop, Question};
use crate::flow::keys::{Keys, Tag};
use crate::ids::{ShardId, Side, Transport};
use crate::sip::{Host, Scheme, Uri};

/// What a URI names (RFC 3263 §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address.
    At(NextHop),
    /// A name, to be asked for.
    Named(Question),
}

/// What a URI names, and the host that a certificate there must carry.
pub fn place_of(uri: &Uri, buf: &[u8]) -> (Place, Expected) {
    let secure = uri.scheme == Scheme::Sips;
    // sips with transport=tcp is TLS (RFC 3261 §26.2.2).
    let explicit = uri.transport(buf).flatten().map(|by| if secure { Transport::Tls } else { by });
    let default = if secure { Transport::Tls } else { Transport::Udp };
    // Without a dot at its end.
    let text = |host: Host| {
        let mut name = Vec::new();
        host.write(buf, &mut name);
        String::from_utf8_lossy(&name).into_owned()
    };
    // `maddr` says where to ask, and nothing of who is to answer (RFC 5922 §7.3 compares the URI's host).
    let expected = uri.host.ip().map_or_else(|| Expected::Name(text(uri.host)), Expected::Address);
    let host = uri.host_to_ask(buf).unwrap_or(uri.host);
    let place = match host.ip() {
        Some(ip) => {
            let transport = explicit.unwrap_or(default);
            let port = uri.port.unwrap_or_else(|| transport.default_port());
            Place::At(NextHop { transport, address: SocketAddr::new(ip, port) })
        }
        None => Place::Named(Question { host: text(host).into(), port: uri.port, transport: explicit, secure }),
    };
    (place, expected)
}

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

    fn placed(text: &str) -> (Place, Expected) {
        let uri = Uri::parse(text.as_bytes(), crate::sip::Span::new(0, text.len())).expect("a URI");
        place_of(&uri, text.as_bytes())
    }

    #[test]
    fn a_uri_names_an_address_or_what_is_to_be_asked_for() {
        let at = |transport, address: &str| Place::At(NextHop { transport, address: address.parse().expect("one") });
        assert_eq!(placed("sip:192.0.2.1").0, at(Transport::Udp, "192.0.2.1:5060"));
        assert_eq!(placed("sip:192.0.2.1:5061;transport=tls").0, at(Transport::Tls, "192.0.2.1:5061"));
        assert_eq!(placed("sips:192.0.2.1;transport=tcp").0, at(Transport::Tls, "192.0.2.1:5061"));
        let (place, expected) = placed("sip:mg.test;maddr=192.0.2.1");
        assert_eq!(place, at(Transport::Udp, "192.0.2.1:5060"));
        assert_eq!(expected, Expected::Name("mg.test".to_owned()), "maddr does not say who answers");
        let Place::Named(question) = placed("sips:mg.test").0 else { panic!("a name") };
        assert_eq!((&*question.host, question.port, question.secure), ("mg.test", None, true));
    }
}
