//! STUN binding requests on the UDP port, which phones use as keep-alives (RFC 5389 §6, §7.3; RFC 5626 §4.4.2).
//!
//! Pure. Left out on purpose: every other method, authentication, FINGERPRINT. A request with a
//! comprehension-required attribute that is not known here gets 420 (RFC 5389 §7.3.1).

use std::net::{IpAddr, SocketAddr};

const MAGIC: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
const HEADER_LEN: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const ERROR_CODE: u16 = 0x0009;
/// USERNAME, MESSAGE-INTEGRITY, REALM, NONCE and the addresses: understood enough to be passed over.
const KNOWN: [u16; 6] = [0x0001, 0x0006, 0x0008, 0x0014, 0x0015, XOR_MAPPED_ADDRESS];

/// What a datagram is to STUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stun {
    /// Not STUN at all: SIP, or noise.
    No,
    /// A binding request; `answer` has been written.
    Answered,
    /// STUN, but nothing that is answered (an indication, a response, a malformed request).
    Dropped,
}

/// Looks at a datagram from `from`; for a binding request the answer is appended to `answer`.
pub fn respond(datagram: &[u8], from: SocketAddr, answer: &mut Vec<u8>) -> Stun {
    let Some((header, attributes)) = datagram.split_at_checked(HEADER_LEN) else { return Stun::No };
    // SIP begins with a letter, so the first two bits of a STUN message cannot be met in it.
    if header[0] & 0xC0 != 0 || header[4..8] != MAGIC {
        return Stun::No;
    }
    let (kind, len) = (number(header, 0), usize::from(number(header, 2)));
    if kind != BINDING_REQUEST || len != attributes.len() || len % 4 != 0 {
        return Stun::Dropped;
    }
    let Some(unknown) = first_unknown(attributes) else { return Stun::Dropped };
    let transaction: &[u8] = &header[8..HEADER_LEN];
    match unknown {
        Some(attribute) => {
            push_header(answer, BINDING_ERROR, 8 + 8, transaction);
            push(answer, &[ERROR_CODE, 4, 0, 0x0414]);
            // UNKNOWN-ATTRIBUTES, padded to four bytes.
            push(answer, &[0x000A, 2, attribute, 0]);
        }
        None => {
            let mask = [&MAGIC, transaction].concat();
            let (family, octets) = match from.ip().to_canonical() {
                IpAddr::V4(ip) => (1, ip.octets().to_vec()),
                IpAddr::V6(ip) => (2, ip.octets().to_vec()),
            };
            // An address of 4 or 16 bytes and four bytes before it.
            let value_len = if family == 1 { 8 } else { 20 };
            push_header(answer, BINDING_SUCCESS, 4 + value_len, transaction);
            push(answer, &[XOR_MAPPED_ADDRESS, value_len, family, from.port() ^ 0x2112]);
            answer.extend(octets.iter().zip(mask).map(|(octet, mask)| octet ^ mask));
        }
    }
    Stun::Answered
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn push(answer: &mut Vec<u8>, numbers: &[u16]) {
    answer.extend(numbers.iter().flat_map(|n| n.to_be_bytes()));
}

fn push_header(answer: &mut Vec<u8>, kind: u16, len: u16, transaction: &[u8]) {
    push(answer, &[kind, len]);
    answer.extend_from_slice(&MAGIC);
    answer.extend_from_slice(transaction);
}

/// The first comprehension-required attribute that is not known; the outer `None` when they cannot be walked.
fn first_unknown(mut attributes: &[u8]) -> Option<Option<u16>> {
    let mut unknown = None;
    while !attributes.is_empty() {
        let (head, rest) = attributes.split_at_checked(4)?;
        let (kind, len) = (number(head, 0), usize::from(number(head, 2)));
        if kind < 0x8000 && !KNOWN.contains(&kind) && unknown.is_none() {
            unknown = Some(kind);
        }
        attributes = rest.get(len.next_multiple_of(4)..)?;
    }
    Some(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, u8::try_from(attributes.len()).unwrap(), 0x21, 0x12, 0xA4, 0x42];
        bytes.extend_from_slice(&[0xB7, 0xE7, 0xA7, 0x01, 0xBC, 0x34, 0xD6, 0x86, 0xFA, 0x87, 0xDF, 0xAE]);
        bytes.extend_from_slice(attributes);
        bytes
    }

    fn answer(datagram: &[u8], from: &str) -> (Stun, Vec<u8>) {
        let mut answer = Vec::new();
        let stun = respond(datagram, from.parse().unwrap(), &mut answer);
        (stun, answer)
    }

    #[test]
    fn a_binding_request_gets_the_xored_ipv4_address_of_rfc_5769_2_2() {
        let (stun, answer) = answer(&request(&[]), "192.0.2.1:32853");
        assert_eq!(stun, Stun::Answered);
        assert_eq!(answer[..4], [0x01, 0x01, 0, 12]);
        assert_eq!(answer[4..20], request(&[])[4..20]);
        assert_eq!(answer[20..], [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
    }

    #[test]
    fn a_binding_request_gets_the_xored_ipv6_address_of_rfc_5769_2_3() {
        let (stun, answer) = answer(&request(&[]), "[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        assert_eq!(stun, Stun::Answered);
        let want = [
            0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
            0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        assert_eq!(answer[20..], want);
        assert_eq!(answer[3], 24);
    }

    #[test]
    fn optional_and_known_attributes_are_passed_over() {
        let attributes = [0x80, 0x22, 0, 3, b'a', b'b', b'c', 0, 0, 6, 0, 4, b'u', b's', b'e', b'r'];
        assert_eq!(answer(&request(&attributes), "192.0.2.1:1").0, Stun::Answered);
    }

    #[test]
    fn an_unknown_required_attribute_gets_420_that_names_it() {
        let (stun, answer) = answer(&request(&[0x00, 0x24, 0, 4, 1, 2, 3, 4]), "192.0.2.1:1");
        assert_eq!(stun, Stun::Answered);
        assert_eq!(answer[..4], [0x01, 0x11, 0, 16]);
        assert_eq!(answer[20..], [0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0, 0x24, 0, 0]);
    }

    #[test]
    fn what_is_no_request_is_dropped_and_sip_is_left_alone() {
        let mut indication = request(&[]);
        indication[1] = 0x11;
        assert_eq!(answer(&indication, "192.0.2.1:1"), (Stun::Dropped, vec![]));
        let mut short = request(&[0, 6, 0, 9]);
        assert_eq!(answer(&short, "192.0.2.1:1"), (Stun::Dropped, vec![]));
        short.pop();
        assert_eq!(answer(&short, "192.0.2.1:1"), (Stun::Dropped, vec![]));
        for other in [&b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"[..], b"", b"\r\n\r\n", &request(&[])[..19]] {
            assert_eq!(answer(other, "192.0.2.1:1"), (Stun::No, vec![]));
        }
    }
}
