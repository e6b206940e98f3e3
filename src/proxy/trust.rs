//! Who may bind, who may answer, and who may cancel: three of the questions that decide whose calls are whose. (Who somebody is, is for
//! [`super::names`]; where a token leads, for [`super::route`] and [`super::target`].)
//!
//! A binding is made, changed or removed by one thing only: a 2xx that [`may_answer`] lets through to a REGISTER that
//! [`may_bind`] has let in. Both ends of that are SIP Servers, so that no two endpoints can make one between them.

use std::net::SocketAddr;

use super::Target;
use crate::config::engine::Settings;
use crate::ids::{BindingId, FlowRef, Side};
use crate::planted::{Plant, planted};

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The flow that it arrived on.
    pub flow: FlowRef,
    /// The peer's address and port as seen.
    pub peer: SocketAddr,
    /// The side that its sender was found to be on.
    pub side: Side,
    /// Its sender is another site's proxy.
    pub is_peer: bool,
    /// It came by way of a load balancer, whose PROXY header has `peer`: see [`super::Origin::FORWARDED`].
    pub is_forwarded: bool,
    /// The binding of the flow that it arrived on, if it has one.
    pub binding: Option<BindingId>,
}

impl Source {
    /// Whether a server sent it, here or at another site.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.side == Side::Server || self.is_peer
    }

    /// Whether it may be anybody, for a datagram's source can be forged: what is sent there is bounded by what has come.
    /// A device's address is known, for it stands in the settings.
    #[must_use]
    pub fn is_stranger(&self, settings: &Settings) -> bool {
        !self.flow.is_stream()
            && !self.is_trusted()
            && self.binding.is_none()
            && (self.is_forwarded || settings.device_at(self.peer.ip()).is_none())
    }
}

/// Whether the Contacts of a REGISTER are read, to be bound by its 2xx: it is an endpoint's, and it goes to a SIP
/// Server.
#[must_use]
pub fn may_bind(source: &Source, target: &Target) -> bool {
    source.side == Side::Endpoint && matches!(target, Target::Server { .. })
}

/// Where a request was sent, as far as that decides whose response to it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentTo {
    /// The flow that it went by; `None` when the connection is gone.
    pub flow: Option<FlowRef>,
    /// The flow that its binding has moved to meanwhile, as far as is known.
    pub moved_to: Option<FlowRef>,
    /// Whose that is.
    pub whose: Whose,
}

/// Whose flow a request was sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A SIP Server's at this address. It answers from any address of its side.
    Server(SocketAddr),
    /// Another site's proxy's at this address. It does too.
    Peer(SocketAddr),
    /// A device's that did not register, at this address. It may send its datagrams from another port than it receives
    /// them at.
    Device(SocketAddr),
    /// An endpoint's. The binding that the request is for may have moved to another flow.
    Endpoint(Option<BindingId>),
}

/// Whether a response with the right branch counts: it comes from where its request was sent. The branch alone says
/// little, for a proxying server shows a callee the branch of the caller's request.
///
/// Who was asked over a connection that is gone opens one of its own for the answer (RFC 3261 §18.2.2), which no request
/// has told from an endpoint's: the address is asked then. Never an endpoint's, to which it proves nothing.
#[must_use]
pub fn may_answer(sent: SentTo, source: &Source) -> bool {
    if planted(Plant::AnswerFromAnybody) {
        return true;
    }
    if [sent.flow, sent.moved_to].into_iter().flatten().any(|flow| flow.is_same(source.flow)) {
        return true;
    }
    let is_from = |address: SocketAddr| address.ip() == source.peer.ip() && !source.is_forwarded;
    let over_its_own = |address| sent.flow.is_none() && source.flow.is_stream() && is_from(address);
    match sent.whose {
        Whose::Server(address) => source.side == Side::Server || over_its_own(address),
        Whose::Peer(address) => source.is_peer || over_its_own(address),
        Whose::Device(address) => match sent.flow {
            Some(FlowRef::Udp { .. }) => !source.flow.is_stream() && is_from(address),
            _ => over_its_own(address),
        },
        Whose::Endpoint(binding) => binding.is_some() && binding == source.binding,
    }
}

/// Whether a CANCEL with the key of a request counts: it comes from who has sent that. The key knows a UDP source by its
/// address alone, for a NAT may change its port, and behind one NAT a callee may have been shown the caller's branch:
/// another port has to be the same phone's. A stream is in the key.
#[must_use]
pub fn may_cancel(asked: &Source, source: &Source) -> bool {
    source.is_trusted()
        || source.flow.is_stream()
        || asked.flow.is_same(source.flow)
        || (source.binding.is_some() && source.binding == asked.binding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Device, Network, Verify};
    use crate::ids::{ConnId, PointId, ShardId};

    fn udp(remote: &str) -> FlowRef {
        FlowRef::Udp { shard: ShardId(0), point: PointId(0), remote: remote.parse().expect("an address") }
    }

    fn stream(slot: u32) -> FlowRef {
        FlowRef::Stream { shard: ShardId(0), conn: ConnId { slot, generation: 1 }, point: PointId(1) }
    }

    fn source(flow: FlowRef) -> Source {
        let peer = match flow {
            FlowRef::Udp { remote, .. } => remote,
            FlowRef::Stream { .. } => "192.0.2.1:40000".parse().expect("an address"),
        };
        Source { flow, peer, side: Side::Endpoint, is_peer: false, is_forwarded: false, binding: None }
    }

    #[test]
    fn a_request_to_a_server_or_a_peer_is_answered_by_nobody_else() {
        let endpoint = source(stream(1));
        let server = Source { side: Side::Server, ..endpoint };
        let peer = Source { is_peer: true, ..endpoint };
        let who = |whose| {
            let sent = SentTo { flow: Some(udp("192.0.2.9:5060")), moved_to: None, whose };
            [endpoint, server, peer].map(|source| may_answer(sent, &source))
        };
        // Their host is the same, and that is not enough.
        let address = "192.0.2.1:5060".parse().expect("an address");
        assert_eq!(who(Whose::Server(address)), [false, true, false]);
        assert_eq!(who(Whose::Peer(address)), [false, false, true]);
        // The DNS has taken its address away meanwhile.
        let sent = SentTo { flow: Some(stream(1)), moved_to: None, whose: Whose::Server(address) };
        assert!(may_answer(sent, &endpoint));
        // Our connection is gone, and it has opened one of its own.
        let sent = SentTo { flow: None, moved_to: None, whose: Whose::Server(address) };
        assert!(may_answer(sent, &endpoint));
        assert!(!may_answer(sent, &source(udp("192.0.2.1:40000"))));
        let elsewhere = "192.0.2.2:40000".parse().expect("an address");
        assert!(!may_answer(sent, &Source { peer: elsewhere, ..endpoint }));
    }

    #[test]
    fn a_phone_answers_over_its_flow_or_the_one_that_its_binding_has_moved_to() {
        let binding = Some(BindingId { user: 1, hash: 2 });
        let sent = SentTo { flow: Some(stream(1)), moved_to: None, whose: Whose::Endpoint(binding) };
        assert!(may_answer(sent, &source(stream(1))));
        assert!(!may_answer(sent, &source(stream(2))));
        assert!(may_answer(sent, &Source { binding, ..source(stream(2)) }));
        assert!(may_answer(SentTo { moved_to: Some(stream(2)), ..sent }, &source(stream(2))));
        let another = Some(BindingId { user: 1, hash: 3 });
        assert!(!may_answer(sent, &Source { binding: another, ..source(stream(2)) }));
        // Who has no binding is not taken for somebody else who has none.
        let sent = SentTo { flow: Some(udp("192.0.2.1:5060")), moved_to: None, whose: Whose::Endpoint(None) };
        assert!(may_answer(sent, &source(udp("192.0.2.1:5060"))));
        assert!(!may_answer(sent, &source(udp("192.0.2.1:5061"))));
        assert!(!may_answer(SentTo { flow: None, ..sent }, &source(stream(1))));
    }

    #[test]
    fn a_request_is_cancelled_from_where_it_came_or_by_the_same_phone() {
        let asked = source(udp("192.0.2.1:5060"));
        assert!(may_cancel(&asked, &source(udp("192.0.2.1:5060"))));
        let other_port = source(udp("192.0.2.1:40000"));
        assert!(!may_cancel(&asked, &other_port));
        let binding = Some(BindingId { user: 1, hash: 2 });
        let asked = Source { binding, ..asked };
        assert!(may_cancel(&asked, &Source { binding, ..other_port }) && !may_cancel(&asked, &other_port));
        assert!(may_cancel(&asked, &Source { side: Side::Server, ..other_port }));
    }

    #[test]
    fn a_device_answers_over_our_connection_or_from_its_address_when_that_is_gone() {
        let address = "192.0.2.1:5060".parse().expect("an address");
        let over = SentTo { flow: Some(stream(1)), moved_to: None, whose: Whose::Device(address) };
        assert!(may_answer(over, &source(stream(1))) && !may_answer(over, &source(stream(2))));
        let gone = SentTo { flow: None, ..over };
        assert!(may_answer(gone, &source(stream(2))));
        assert!(!may_answer(gone, &source(udp("192.0.2.2:5060"))));
        let datagram = SentTo { flow: Some(udp("192.0.2.1:5060")), ..over };
        assert!(may_answer(datagram, &source(udp("192.0.2.1:49152"))));
        assert!(!may_answer(datagram, &source(udp("192.0.2.2:5060"))));
    }

    #[test]
    fn a_device_over_udp_is_no_stranger_unless_a_balancer_has_forwarded_who_says_that_it_is_one() {
        let network = Network { address: [192, 0, 2, 1].into(), prefix_len: 32 };
        let device = Device { network, tls_name: None, verify: Verify::Name, setup: None };
        let settings = Settings { devices: vec![device], ..Settings::plain(Vec::new(), Vec::new()) };
        let device = source(udp("192.0.2.1:5060"));
        assert!(!device.is_stranger(&settings) && source(udp("192.0.2.2:5060")).is_stranger(&settings));
        assert!(Source { is_forwarded: true, ..device }.is_stranger(&settings));
        let sent = SentTo { flow: None, moved_to: None, whose: Whose::Device(device.peer) };
        let stream = source(stream(2));
        assert!(may_answer(sent, &stream) && !may_answer(sent, &Source { is_forwarded: true, ..stream }));
    }
}
