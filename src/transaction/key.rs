//! What makes two requests the same transaction (RFC 3261 §17.2.3).

use smallvec::SmallVec;

use super::branch::has_magic_cookie;
use crate::sip::{Message, Method};

/// Branch and sent-by of nearly all senders: longer ones take memory for a moment.
const COMPARED_LEN: usize = 128;

/// Gives `hash` the parts that make a server transaction's key. `method` is the transaction's: INVITE for an
/// ACK, or that of the request that a CANCEL looks for. Methods that we do not know count as one: their sender
/// must not use a branch twice (§8.1.1.7). `sender` tells senders apart, so that nobody reaches another's
/// transaction by guessing its branch.
///
/// A Via's parameters and host compare without regard to case (§7.3.1).
pub fn hashed(request: &Message, method: Method, sender: &[u8], hash: impl FnOnce(&[&[u8]]) -> u128) -> u128 {
    let via = request.top_via();
    let has_cookie = has_magic_cookie(request.text(via.branch));
    let first = request.text(if has_cookie { via.branch } else { via.all });
    let mut lower = SmallVec::<[u8; COMPARED_LEN]>::from_slice(first);
    lower.extend_from_slice(request.text(via.host_span));
    lower.make_ascii_lowercase();
    let (first, host) = lower.split_at(first.len());
    let method = [method as u8];
    if has_cookie {
        let port = via.port.map_or([0; 3], |port| {
            let [high, low] = port.to_be_bytes();
            [1, high, low]
        });
        hash(&[&method, sender, first, host, &port])
    } else {
        // RFC 2543: no branch to rely on. The To tag is left out, for the ACK has one and the INVITE has not.
        let uri = request.request_uri().map_or(&b""[..], |uri| request.text(uri.all));
        let cseq = request.cseq().number.to_be_bytes();
        hash(&[&method, sender, uri, request.from_tag(), request.call_id(), &cseq, first])
    }
}

/// The method whose transaction a request belongs to.
#[must_use]
pub fn method_of(request: &Message) -> Method {
    match request.method() {
        Some(Method::Ack) => Method::Invite,
        method => method.unwrap_or(Method::Other),
    }
}

/// What a CANCEL may be for besides an INVITE (RFC 3261 §9.2): anything but an ACK or a CANCEL.
pub const CANCELLED_BESIDES_INVITE: [Method; 12] = [
    Method::Bye,
    Method::Register,
    Method::Options,
    Method::Prack,
    Method::Subscribe,
    Method::Notify,
    Method::Publish,
    Method::Info,
    Method::Refer,
    Method::Message,
    Method::Update,
    Method::Other,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a request with this method and these lines, run together.
    fn parts(method: &str, via: &str, number: u32) -> Vec<u8> {
        let text = format!(
            "{method} sip:b SIP/2.0\r\nVia: SIP/2.0/UDP {via}\r\nFrom: <sip:a>;tag=1\r\nTo: <sip:b>\r\n\
             Call-ID: 1\r\nCSeq: {number} {method}\r\n\r\n"
        );
        let request = Message::scan(text.into_bytes(), false).expect("a request");
        assert_eq!(request.fault(), None, "{method} {via}");
        let mut all = Vec::new();
        hashed(&request, method_of(&request), b"s", |parts| {
            all = parts.join(&0);
            0
        });
        all
    }

    #[test]
    fn branch_and_sent_by_compare_without_regard_to_case() {
        let invite = parts("INVITE", "Host.example:5060;branch=z9hG4bKAbC", 1);
        for via in ["host.EXAMPLE:5060;branch=Z9HG4BKABC", "HOST.example:5060;BRANCH=z9hg4bkabc;rport"] {
            assert_eq!(parts("INVITE", via, 1), invite, "{via}");
            assert_eq!(parts("ACK", via, 1), invite, "{via}");
        }
        for via in [
            "host.example;branch=z9hG4bKabc",
            "host.example:5060;branch=z9hG4bKabd",
            "h.example:5060;branch=z9hG4bKabc",
        ] {
            assert_ne!(parts("INVITE", via, 1), invite, "{via}");
        }
        assert_ne!(parts("BYE", "host.example:5060;branch=z9hG4bKabc", 1), invite);
        let long = "x".repeat(COMPARED_LEN * 2);
        let via = |branch: &str| format!("h;branch=z9hG4bK{branch}");
        assert_eq!(parts("INFO", &via(&long), 1), parts("INFO", &via(&long.to_uppercase()), 1));
    }

    #[test]
    fn requests_without_the_magic_cookie_are_told_apart_by_their_cseq() {
        for via in ["192.0.2.1", "192.0.2.1;branch=1", "192.0.2.1;branch=z9hG4bK"] {
            let info = parts("INFO", via, 1);
            assert_eq!(parts("INFO", via, 1), info, "{via}");
            assert_ne!(parts("INFO", via, 2), info, "{via}");
            assert_eq!(parts("ACK", via, 1), parts("INVITE", via, 1), "{via}");
        }
    }

    #[test]
    fn a_cancel_may_be_for_every_method_but_ack_and_cancel() {
        let mut all: Vec<u8> = CANCELLED_BESIDES_INVITE.iter().map(|method| *method as u8).collect();
        all.extend([Method::Invite as u8, Method::Ack as u8, Method::Cancel as u8]);
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..=Method::Other as u8), "{all:?}");
    }
}
