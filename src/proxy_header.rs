//! The PROXY header, in which a load balancer says whose a connection or a datagram is, versions 1 and 2
//! (haproxy's proxy-protocol.txt).
//!
//! Owns: how a header is read, from any part of it that has come, so that a stream is read up to its end and not a byte
//! further. Must not touch: who may send one, which [`crate::config::NetworkRule`] says.
//!
//! Left out on purpose: what it says of the destination, which is ours, and the fields behind the addresses of version 2
//! (TLVs), which are skipped. A header for a UNIX socket or of no family at all says that the source is not known, as
//! `LOCAL` and `UNKNOWN` do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::limits::PROXY_HEADER_LEN_MAX;
use crate::stats::Counter;

/// What an operator is told of one that comes from where none is due.
pub const UNEXPECTED: &str = "a PROXY header came from an address that no [[network]] with proxy-protocol holds";

/// The begin of version 1.
const V1: &[u8] = b"PROXY ";
/// What its first words are, behind that.
const V1_WORDS: [&[u8]; 3] = [b"TCP4 ", b"TCP6 ", b"UNKNOWN"];
/// The shortest line of version 1: `PROXY UNKNOWN` and its CRLF.
const V1_LEN_MIN: usize = 15;
/// Its longest, with the CRLF: the text says so.
const V1_LEN_MAX: usize = 107;
/// The begin of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// That with version, command, family, transport and the length of what follows.
const V2_FIXED_LEN: usize = 16;

/// What has come of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// So many more bytes belong to it at least; never 0.
    Needs(usize),
    /// All of it.
    Whole {
        /// Bytes from its first to its last.
        len: usize,
        /// Who is behind the balancer; `None` when it does not say, for it speaks for itself.
        source: Option<SocketAddr>,
    },
}

/// Why something is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something else stands in its place.
    Missing,
    /// It begins as one, and goes on as none.
    Malformed,
    /// It is longer than any may be.
    TooLong,
}

impl Counter {
    /// What was due, and is no header.
    #[must_use]
    pub fn proxy_header_fault(fault: Fault) -> Self {
        match fault {
            Fault::Missing => Self::ProxyHeaderMissing,
            Fault::Malformed => Self::ProxyHeaderMalformed,
            Fault::TooLong => Self::ProxyHeaderTooLong,
        }
    }
}

/// Reads a header from its first byte on. More bytes never make another thing of what is whole or at fault.
///
/// # Errors
/// See [`Fault`].
pub fn read(bytes: &[u8]) -> Result<Header, Fault> {
    // Before the first byte it may be either, and version 1 has the shorter ones.
    if begins(bytes, V1) {
        read_v1(bytes)
    } else if begins(bytes, V2) {
        read_v2(bytes)
    } else {
        Err(Fault::Missing)
    }
}

/// Reads the header that a datagram begins with, which is of version 2; gives what is behind it, too.
///
/// # Errors
/// See [`Fault`]; one that is cut short is malformed.
pub fn read_datagram(bytes: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), Fault> {
    if !bytes.starts_with(V2) {
        return Err(Fault::Missing);
    }
    match read_v2(bytes)? {
        Header::Needs(_) => Err(Fault::Malformed),
        Header::Whole { len, source } => Ok((source, &bytes[len..])),
    }
}

/// Whether these bytes begin with a header, where none is looked for: a method may be called PROXY.
#[must_use]
pub fn is_one(bytes: &[u8]) -> bool {
    let is_v1 = |rest: &[u8]| V1_WORDS.iter().any(|word| rest.starts_with(word));
    bytes.starts_with(V2) || bytes.strip_prefix(V1).is_some_and(is_v1)
}

/// Whether what has come may be, or is, the begin of a version.
fn begins(bytes: &[u8], version: &[u8]) -> bool {
    let len = bytes.len().min(version.len());
    bytes[..len] == version[..len]
}

fn read_v1(bytes: &[u8]) -> Result<Header, Fault> {
    let most = &bytes[..bytes.len().min(V1_LEN_MAX)];
    let Some(end) = most.iter().position(|byte| *byte == b'\n') else {
        let room = V1_LEN_MAX - most.len();
        return if room == 0 { Err(Fault::TooLong) } else { Ok(Header::Needs(v1_needs(most).min(room))) };
    };
    let line = most[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(V1)).ok_or(Fault::Malformed)?;
    let source = v1_source(line).ok_or(Fault::Malformed)?;
    Ok(Header::Whole { len: end + 1, source })
}

/// How many bytes a line at least lacks that has not come to its end.
fn v1_needs(line: &[u8]) -> usize {
    let lacks = V1_LEN_MIN.saturating_sub(line.len()).max(1);
    if line.ends_with(b"\r") {
        return 1;
    }
    let Some((words, address_len_min)) = [(&b"PROXY TCP4 "[..], 7), (b"PROXY TCP6 ", 2)]
        .into_iter()
        .find_map(|(begin, len_min)| Some((line.strip_prefix(begin)?, len_min)))
    else {
        return lacks;
    };
    // Two addresses and two ports.
    let mut least = [address_len_min, address_len_min, 1, 1].into_iter().skip(words.split(|b| *b == b' ').count() - 1);
    let last_len = words.rsplit(|byte| *byte == b' ').next().map_or(0, <[u8]>::len);
    let Some(of_last) = least.next() else { return lacks };
    usize::saturating_sub(of_last, last_len) + least.map(|len| len + 1).sum::<usize>() + b"\r\n".len()
}

/// What a line says behind its first word. `None` outside: it is malformed.
fn v1_source(line: &[u8]) -> Option<Option<SocketAddr>> {
    if let Some(rest) = line.strip_prefix(b"UNKNOWN") {
        return (rest.is_empty() || rest.starts_with(b" ")).then_some(None);
    }
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let family = words.next()?;
    let [source, destination] = [words.next()?, words.next()?];
    let [port, _] = [v1_port(words.next()?)?, v1_port(words.next()?)?];
    let ip = match (family, words.next()) {
        ("TCP4", None) => both::<Ipv4Addr>(source, destination)?.into(),
        ("TCP6", None) => both::<Ipv6Addr>(source, destination)?.into(),
        _ => return None,
    };
    Some(Some(address(ip, port)))
}

/// The first of two addresses, when both are some.
fn both<T: FromStr>(source: &str, destination: &str) -> Option<T> {
    destination.parse::<T>().ok()?;
    source.parse().ok()
}

/// Digits without leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

fn read_v2(bytes: &[u8]) -> Result<Header, Fault> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED_LEN) else {
        return Ok(Header::Needs(V2_FIXED_LEN - bytes.len()));
    };
    let len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if V2_FIXED_LEN + len > PROXY_HEADER_LEN_MAX {
        return Err(Fault::TooLong);
    }
    let (version, command) = (fixed[12] >> 4, fixed[12] & 15);
    let (family, transport) = (fixed[13] >> 4, fixed[13] & 15);
    let address_len = match (version, command, family, transport) {
        // Of what is LOCAL the family is not looked at.
        (2, 0, _, _) => None,
        (2, 1, 1, 1 | 2) => Some(4),
        (2, 1, 2, 1 | 2) => Some(16),
        (2, 1, 0..=3, 0..=2) => None,
        _ => return Err(Fault::Malformed),
    };
    if address_len.is_some_and(|address_len| len < 2 * (address_len + 2)) {
        return Err(Fault::Malformed);
    }
    let Some(block) = rest.get(..len) else { return Ok(Header::Needs(len - rest.len())) };
    let source = address_len.and_then(|address_len| v2_source(block, address_len));
    Ok(Header::Whole { len: V2_FIXED_LEN + len, source })
}

/// The source address, the destination's, the source's port.
fn v2_source(block: &[u8], address_len: usize) -> Option<SocketAddr> {
    let port = block.get(2 * address_len..)?.first_chunk()?;
    let ip = match address_len {
        4 => IpAddr::from(*block.first_chunk::<4>()?),
        _ => IpAddr::from(*block.first_chunk::<16>()?),
    };
    Some(address(ip, u16::from_be_bytes(*port)))
}

/// A balancer with both families may write an address of IPv4 as one of IPv6: it is the same phone's.
fn address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

#[cfg(test)]
mod tests;
