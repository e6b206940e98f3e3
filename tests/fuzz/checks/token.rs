//! Flow tokens. Input: a change, then a token's fields or somebody's text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hawser::flow::keys::{Keys, Tag};
use hawser::flow::token::{Dialog, Facing, Kind, TOKEN_LEN_MAX, Token, TokenError};
use hawser::ids::{BindingId, ConnId, FlowRef, PointId, ShardId};

use super::parts::Front;
use super::place;

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let (at, change): (usize, u8) = (front.byte().into(), front.byte());
    nobody_elses_is_authentic(front.0);
    let token = token(&mut front);
    let call_id = front.piece();
    let tag = front.0;
    let keys = place::keys();
    let dialog = Dialog { call_id, tag };
    let mut text = Vec::new();
    token.encode(&keys, dialog, &mut text);
    assert!(text.len() <= TOKEN_LEN_MAX);
    assert!(text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
    assert_eq!(Token::decode(&text, &keys, dialog), Ok(token), "it does not come back");
    let is_bound = token.kind == Kind::RecordRoute;
    let other_id = [call_id, b"x"].concat();
    let other_tag = [tag, b"x"].concat();
    for other in
        [Dialog { call_id: &other_id, tag }, Dialog { call_id, tag: &other_tag }, Dialog { call_id: tag, tag: call_id }]
    {
        let wanted = if is_bound && other != dialog { Err(TokenError::Forged) } else { Ok(token) };
        assert_eq!(Token::decode(&text, &keys, other), wanted, "it is carried to another dialog");
        let both = Token::decode_of(&text, &keys, &[other, dialog]).expect("one of them is its own");
        assert_eq!(both, (token, usize::from(wanted.is_err())));
    }
    let other_keys = Keys::new(&[8; 32]);
    assert_eq!(Token::decode(&text, &other_keys, dialog), Err(TokenError::Forged));
    changed(&text, at, change, &keys, dialog);
}

/// A key that nobody has seen has made none of these bytes.
fn nobody_elses_is_authentic(text: &[u8]) {
    let own = place::keys().hash128(Tag::Token, &[text]).to_le_bytes();
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(&own);
    assert!(Token::decode(text, &Keys::new(&secret), Dialog::NONE).is_err(), "a forged token is authentic");
    // Of the key that makes ours it has to be one that the key would make.
    if let Ok(token) = Token::decode(text, &place::keys(), Dialog::NONE) {
        let mut again = Vec::new();
        token.encode(&place::keys(), Dialog::NONE, &mut again);
        assert_eq!(again, text, "a token has two texts");
    }
}

/// No byte can be changed, left out or added.
fn changed(text: &[u8], at: usize, change: u8, keys: &Keys, dialog: Dialog<'_>) {
    let at = at % text.len();
    let mut other = text.to_vec();
    other[at] ^= change.max(1);
    assert!(Token::decode(&other, keys, dialog).is_err(), "byte {at} counts for nothing");
    let mut short = text.to_vec();
    short.remove(at);
    let mut long = text.to_vec();
    long.insert(at, change);
    for other in [short, long] {
        // Of two equal neighbours it is the same which one is left out.
        assert!(other == text || Token::decode(&other, keys, dialog).is_err());
    }
}

fn token(front: &mut Front<'_>) -> Token {
    let (shape, marks) = (front.byte(), front.byte());
    let binding = BindingId { user: u16::from_be_bytes(front.array()), hash: u64::from_be_bytes(front.array()) };
    let kind = [Kind::Path, Kind::RecordRoute, Kind::Alias][usize::from(shape & 3) % 3];
    if kind == Kind::Alias {
        return Token::alias(binding);
    }
    let is_route = kind == Kind::RecordRoute;
    let (shard, point) = (ShardId(front.byte()), PointId(front.byte()));
    let flow = match shape >> 2 & 3 {
        0 => None,
        1 => {
            let conn =
                ConnId { slot: u32::from_be_bytes(front.array()), generation: u32::from_be_bytes(front.array()) };
            Some(FlowRef::Stream { shard, conn, point })
        }
        form => {
            let port = u16::from_be_bytes(front.array());
            let remote = match form {
                2 => SocketAddr::new(Ipv4Addr::from(front.array::<4>()).into(), port),
                _ => SocketAddr::new(Ipv6Addr::from(front.array::<16>()).into(), port),
            };
            Some(FlowRef::Udp { shard, point, remote })
        }
    };
    Token {
        member: u16::from_be_bytes(front.array()),
        boot: u32::from_be_bytes(front.array()),
        kind,
        facing: [Facing::Server, Facing::Endpoint, Facing::Both][usize::from(shape >> 4 & 3) % 3],
        late: is_route && marks & 1 != 0,
        opened: is_route && marks & 2 != 0,
        ob: !is_route && marks & 2 != 0,
        flow,
        binding: (marks & 4 != 0).then_some(binding),
    }
}
