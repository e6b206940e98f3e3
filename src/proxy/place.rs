//! What a URI names, as far as it can be said without the DNS (RFC 3263 §4).

use std::net::SocketAddr;

use crate::dns::{NextHop, Question};
use crate::ids::Transport;
use crate::sip::{Host, Scheme, Uri};
use crate::tls::identity::Expected;

/// What a URI names (RFC 3263 §4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address.
    At(NextHop),
    /// A name, to be asked for.
    Named(Question),
}

/// What a URI names, and the host that a certificate there must carry.
#[must_use]
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

#[cfg(test)]
mod tests {
    use super::*;

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
