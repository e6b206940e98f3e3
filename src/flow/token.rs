//! Flow tokens: the signed text in a URI's user part that names a flow and the binding that it was made for.
//!
//! Owns: the layout, the MAC, the text form. Must not touch: any table; whether a named flow is still there is
//! for who asks. Implements the integrity that RFC 5626 §5.2 asks for, with a layout of our own.
//!
//! Layout, before base64url without padding; integers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | kind (2 bits from the top; 3 for a late Record-Route), facing (2), `ob` or `opened` (1), form of the flow (2), has a binding (1) |
//! | 2 | pool member |
//! | 4 | boot id |
//! | 0, 10, 8 or 20 | flow: none; shard, point, slot, generation; shard, point, IPv4 or IPv6 address, port |
//! | 0 or 10 | binding: hash of the user, hash |
//! | 10 | MAC over all of the above; for a Record-Route over its dialog too ([`Dialog`]) |
//!
//! An alias (`sticky = "contact"`) has only the first byte, the binding and the MAC, so its text is the same
//! over every connection, restart and member with the same key. The longest token has 63 characters.
//!
//! Left out on purpose: secrecy. Slot, generation, shard and a UDP phone's address can be read by who receives
//! the token, as they can from a Via; that none of them can be *changed* is what counts. Scope ids of link-local
//! IPv6 addresses are not carried.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys::Keys;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId};
use crate::planted::{Plant, planted};

/// Characters of the longest token.
pub const TOKEN_LEN_MAX: usize = 63;
/// Characters of the shortest: a Record-Route without flow and binding.
const TOKEN_LEN_MIN: usize = 23;
const RAW_LEN_MAX: usize = 1 + 2 + 4 + 20 + 10 + MAC_LEN;
/// 80 bits: a forger who sends 10,000 guesses a second has one chance in three million after a million years.
const MAC_LEN: usize = 10;

/// Which header the token stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Path (RFC 3327).
    Path,
    /// Record-Route; good only in the dialog that it was made for.
    RecordRoute,
    /// The Contact towards the SIP Server with `sticky = "contact"`; names a binding and nothing else.
    Alias,
}

/// The side that the value with this token faces (RFC 5658: one value for each side, or one for both).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "see Side")]
pub enum Facing {
    Server,
    Endpoint,
    Both,
}

/// What a token says. Authentic once decoded, but what it names may be long gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The member of the pool that made it.
    pub member: u16,
    /// The boot that made it: of another boot, `flow` means nothing, and the binding decides.
    pub boot: u32,
    #[allow(missing_docs, reason = "see Kind")]
    pub kind: Kind,
    #[allow(missing_docs, reason = "see Facing")]
    pub facing: Facing,
    /// A Record-Route of a dialog that a SIP Server has made by a 2xx after it had been given up for its partner: what
    /// the phone sends in it goes to the server that its remote target names, whichever is active.
    pub late: bool,
    /// A Record-Route whose flow is a connection that we have opened, or a datagram's address, to a device: it may be opened
    /// again when it is gone. One that somebody else opened never is, for where to is only what that one says.
    pub opened: bool,
    /// A Path of a phone that registered with `ob`, or with a reg-id (RFC 5626 §5.3.1 asks for 430 then).
    pub ob: bool,
    /// The flow; `None` in a Record-Route that faces servers only.
    pub flow: Option<FlowRef>,
    /// The binding that the flow had, if it had one.
    pub binding: Option<BindingId>,
}

/// What a Record-Route token is bound to: the Call-ID of the request that it was written into, and the tag of the party
/// that sent it. That tag alone is known when a dialog begins, and both parties name it ever after: the one as From, the
/// other as To.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialog<'a> {
    /// The dialog's Call-ID.
    pub call_id: &'a [u8],
    /// The From tag of the request that began it.
    pub tag: &'a [u8],
}

impl Dialog<'_> {
    /// For tokens of the other kinds, which belong to no dialog.
    pub const NONE: Dialog<'static> = Dialog { call_id: b"", tag: b"" };
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Wrong length, alphabet or layout: somebody else's user part.
    NotAToken,
    /// Looks like one and its MAC is wrong: forged, of another key, or carried to another dialog.
    Forged,
}

impl Token {
    /// The alias of a binding.
    #[must_use]
    pub fn alias(binding: BindingId) -> Self {
        Self {
            member: 0,
            boot: 0,
            kind: Kind::Alias,
            facing: Facing::Both,
            late: false,
            opened: false,
            ob: false,
            flow: None,
            binding: Some(binding),
        }
    }

    /// Appends the text. `dialog` counts for a Record-Route only. An alias is made with [`Token::alias`]: of
    /// its fields only the binding is written.
    pub fn encode(&self, keys: &Keys, dialog: Dialog<'_>, out: &mut Vec<u8>) {
        let mut raw = Raw { bytes: [0; RAW_LEN_MAX], len: 0 };
        self.write(&mut raw);
        let mac = mac(keys, self.kind, raw.as_slice(), dialog);
        raw.put(&mac);
        let mut text = [0; TOKEN_LEN_MAX];
        let len = URL_SAFE_NO_PAD.encode_slice(raw.as_slice(), &mut text).expect("the longest token fits");
        out.extend_from_slice(&text[..len]);
    }

    /// Reads a text. `dialog` counts for a Record-Route only.
    ///
    /// # Errors
    /// `NotAToken` when it does not have the form of one, `Forged` when its MAC is wrong.
    pub fn decode(text: &[u8], keys: &Keys, dialog: Dialog<'_>) -> Result<Self, TokenError> {
        Self::decode_of(text, keys, &[dialog]).map(|(token, _)| token)
    }

    /// Reads a text that belongs to one of these dialogs, and says to which.
    ///
    /// # Errors
    /// `NotAToken` when it does not have the form of one, `Forged` when its MAC is wrong for all of them.
    pub fn decode_of(text: &[u8], keys: &Keys, dialogs: &[Dialog<'_>]) -> Result<(Self, usize), TokenError> {
        // Most user parts are none of ours, and short.
        if !(TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&text.len()) {
            return Err(TokenError::NotAToken);
        }
        let mut raw = [0; RAW_LEN_MAX];
        // Refuses padding and stray bits in the last character: a token has exactly one text.
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut raw).map_err(|_| TokenError::NotAToken)?;
        let (body, theirs) = raw[..len].split_last_chunk::<MAC_LEN>().ok_or(TokenError::NotAToken)?;
        let token = Self::read(body).ok_or(TokenError::NotAToken)?;
        let is_of = |dialog: &Dialog<'_>| {
            let ours = mac(keys, token.kind, body, *dialog);
            // All bytes are looked at whatever they are, so that time does not tell how many were right.
            let difference = ours.iter().zip(theirs).fold(0, |sum, (a, b)| sum | (a ^ b));
            black_box(difference) == 0 || planted(Plant::MacNotCompared)
        };
        dialogs.iter().position(is_of).map(|at| (token, at)).ok_or(TokenError::Forged)
    }

    fn write(&self, raw: &mut Raw) {
        if self.kind == Kind::Alias {
            debug_assert!(self.binding.is_some(), "an alias names a binding");
            raw.put(&[ALIAS]);
        } else {
            let form = match self.flow {
                None => Form::None,
                Some(FlowRef::Stream { .. }) => Form::Stream,
                Some(FlowRef::Udp { remote: SocketAddr::V4(_), .. }) => Form::Udp4,
                Some(FlowRef::Udp { remote: SocketAddr::V6(_), .. }) => Form::Udp6,
            };
            debug_assert!(!self.late || self.kind == Kind::RecordRoute, "nothing else belongs to a dialog");
            let (kind, facing) = (if self.late { LATE } else { self.kind as u8 }, self.facing as u8);
            debug_assert!(if self.kind == Kind::RecordRoute { !self.ob } else { !self.opened }, "one bit serves both");
            let bound = u8::from(self.binding.is_some());
            raw.put(&[kind << 6 | facing << 4 | u8::from(self.ob | self.opened) << 3 | (form as u8) << 1 | bound]);
            raw.put(&self.member.to_le_bytes());
            raw.put(&self.boot.to_le_bytes());
            if let Some(flow) = self.flow {
                raw.put(&[flow.shard().0, flow.point().0]);
            }
            match self.flow {
                None => {}
                Some(FlowRef::Stream { conn, .. }) => {
                    raw.put(&conn.slot.to_le_bytes());
                    raw.put(&conn.generation.to_le_bytes());
                }
                Some(FlowRef::Udp { remote, .. }) => {
                    match remote.ip() {
                        IpAddr::V4(ip) => raw.put(&ip.octets()),
                        IpAddr::V6(ip) => raw.put(&ip.octets()),
                    }
                    raw.put(&remote.port().to_le_bytes());
                }
            }
        }
        if let Some(binding) = self.binding {
            raw.put(&binding.user.to_le_bytes());
            raw.put(&binding.hash.to_le_bytes());
        }
    }

    /// `None` when the bytes are not exactly what `write` makes of some token.
    fn read(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let [first] = take::<1>(&mut rest)?;
        let token = if first == ALIAS {
            Self::alias(take_binding(&mut rest)?)
        } else {
            let kind = match first >> 6 {
                0 => Kind::Path,
                1 | LATE => Kind::RecordRoute,
                _ => return None,
            };
            let facing = match first >> 4 & 3 {
                0 => Facing::Server,
                1 => Facing::Endpoint,
                2 => Facing::Both,
                _ => return None,
            };
            let member = u16::from_le_bytes(take(&mut rest)?);
            let boot = u32::from_le_bytes(take(&mut rest)?);
            let form = first >> 1 & 3;
            let flow = if form == Form::None as u8 { None } else { Some(take_flow(form, &mut rest)?) };
            let binding = if first & 1 == 0 { None } else { Some(take_binding(&mut rest)?) };
            let late = first >> 6 == LATE;
            let marked = first & 8 != 0;
            let opened = marked && kind == Kind::RecordRoute;
            Self { member, boot, kind, facing, late, opened, ob: marked && !opened, flow, binding }
        };
        rest.is_empty().then_some(token)
    }
}

/// In the place of the kind: a Record-Route that is late.
const LATE: u8 = 3;

/// The first byte of an alias: its kind, and that it has a binding.
const ALIAS: u8 = (Kind::Alias as u8) << 6 | 1;

#[repr(u8)]
enum Form {
    None,
    Stream,
    Udp4,
    Udp6,
}

fn mac(keys: &Keys, kind: Kind, body: &[u8], dialog: Dialog<'_>) -> [u8; MAC_LEN] {
    let Dialog { call_id, tag } = if kind == Kind::RecordRoute { dialog } else { Dialog::NONE };
    let full = keys.mac(&[body, call_id, tag]).to_le_bytes();
    *full.first_chunk().expect("80 of 128 bits")
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*chunk)
}

fn take_flow(form: u8, rest: &mut &[u8]) -> Option<FlowRef> {
    let [shard, point] = take(rest)?;
    let (shard, point) = (ShardId(shard), PointId(point));
    let ip: IpAddr = if form == Form::Stream as u8 {
        let slot = u32::from_le_bytes(take(rest)?);
        let generation = u32::from_le_bytes(take(rest)?);
        return Some(FlowRef::Stream { shard, conn: ConnId { slot, generation }, point });
    } else if form == Form::Udp4 as u8 {
        Ipv4Addr::from(take::<4>(rest)?).into()
    } else {
        Ipv6Addr::from(take::<16>(rest)?).into()
    };
    let port = u16::from_le_bytes(take(rest)?);
    Some(FlowRef::Udp { shard, point, remote: SocketAddr::new(ip, port) })
}

fn take_binding(rest: &mut &[u8]) -> Option<BindingId> {
    Some(BindingId { user: u16::from_le_bytes(take(rest)?), hash: u64::from_le_bytes(take(rest)?) })
}

/// Bytes on the stack.
struct Raw {
    bytes: [u8; RAW_LEN_MAX],
    len: usize,
}

impl Raw {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL_ID: &[u8] = b"a84b4c76e66710@pc33.atlanta.example.com";
    const HERE: Dialog<'static> = Dialog { call_id: CALL_ID, tag: b"1928301774" };

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    fn keys() -> Keys {
        Keys::new(&[42; 32])
    }

    fn text(token: &Token, dialog: Dialog<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        token.encode(&keys(), dialog, &mut out);
        out
    }

    /// Every combination of kind, facing, ob, flow and binding.
    fn shapes() -> Vec<Token> {
        let (shard, point) = (ShardId(63), PointId(255));
        let conn = ConnId { slot: u32::MAX, generation: 0x8000_0001 };
        let udp = |remote: &str| FlowRef::Udp { shard, point, remote: remote.parse().expect("an address") };
        let flows = [
            None,
            Some(FlowRef::Stream { shard, conn, point }),
            Some(udp("192.0.2.17:5060")),
            Some(udp("[2001:db8::17]:65535")),
        ];
        let bindings = [None, Some(BindingId { user: 0xfffe, hash: 0x0123_4567_89ab_cdef })];
        let mut all = vec![Token::alias(BindingId { user: 1, hash: u64::MAX })];
        for (kind, late) in [(Kind::Path, false), (Kind::RecordRoute, false), (Kind::RecordRoute, true)] {
            for facing in [Facing::Server, Facing::Endpoint, Facing::Both] {
                for marked in [false, true] {
                    let (opened, ob) = if kind == Kind::RecordRoute { (marked, false) } else { (false, marked) };
                    for flow in flows {
                        for binding in bindings {
                            let (member, boot) = (0xabcd, 0xdead_beef);
                            all.push(Token { member, boot, kind, facing, late, opened, ob, flow, binding });
                        }
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_shape_comes_back_and_fits() {
        for token in shapes() {
            let text = text(&token, HERE);
            assert!((TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&text.len()), "{token:?}: {}", text.len());
            assert!(text.iter().all(|c| ALPHABET.contains(c)), "{token:?}");
            assert_eq!(Token::decode(&text, &keys(), HERE), Ok(token));
        }
    }

    #[test]
    fn the_bounds_of_its_length_are_met() {
        let lengths = || shapes().into_iter().map(|token| text(&token, HERE).len());
        assert_eq!((lengths().min(), lengths().max()), (Some(TOKEN_LEN_MIN), Some(TOKEN_LEN_MAX)));
        assert_eq!(TOKEN_LEN_MAX, 63, "DESIGN.md allows 64");
    }

    #[test]
    fn every_changed_character_is_noticed() {
        for token in shapes() {
            let good = text(&token, HERE);
            for at in 0..good.len() {
                for &changed in ALPHABET.iter().chain(b"=+/ .\0\x80\xff") {
                    if changed == good[at] {
                        continue;
                    }
                    let mut bad = good.clone();
                    bad[at] = changed;
                    let result = Token::decode(&bad, &keys(), HERE);
                    assert!(result.is_err(), "{token:?}: character {at} as {changed:#x}");
                    if !ALPHABET.contains(&changed) {
                        assert_eq!(result, Err(TokenError::NotAToken), "{changed:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_body_and_mac_is_noticed() {
        for token in shapes() {
            let good = URL_SAFE_NO_PAD.decode(text(&token, HERE)).expect("our own text");
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let bad = URL_SAFE_NO_PAD.encode(bad);
                assert!(Token::decode(bad.as_bytes(), &keys(), HERE).is_err(), "{token:?}: bit {bit}");
            }
        }
    }

    #[test]
    fn a_token_cut_or_lengthened_is_none() {
        for token in shapes() {
            let good = text(&token, HERE);
            for len in 0..good.len() {
                assert!(Token::decode(&good[..len], &keys(), HERE).is_err(), "{token:?}: {len}");
            }
            for more in [&b"A"[..], b"AA", b"AAAA", b"=", b"=="] {
                let long = [&good, more].concat();
                assert_eq!(Token::decode(&long, &keys(), HERE), Err(TokenError::NotAToken), "{token:?}");
            }
        }
    }

    #[test]
    fn a_record_route_is_good_in_its_dialog_only() {
        for token in shapes() {
            let others = [Dialog { call_id: b"another@dialog", ..HERE }, Dialog { tag: b"another", ..HERE }];
            for elsewhere in others {
                let read = Token::decode(&text(&token, HERE), &keys(), elsewhere);
                if token.kind == Kind::RecordRoute {
                    assert_eq!(read, Err(TokenError::Forged));
                    let one_of = Token::decode_of(&text(&token, HERE), &keys(), &[elsewhere, HERE]);
                    assert_eq!(one_of, Ok((token, 1)));
                } else {
                    assert_eq!(read, Ok(token));
                }
            }
        }
    }

    /// The kind is under the MAC: a phone that learns its Path cannot send it as a Record-Route.
    #[test]
    fn one_kind_does_not_pass_for_another() {
        for token in shapes().into_iter().filter(|t| t.kind == Kind::Path) {
            let mut raw = URL_SAFE_NO_PAD.decode(text(&token, HERE)).expect("our own text");
            raw[0] |= (Kind::RecordRoute as u8) << 6;
            for dialog in [HERE, Dialog::NONE] {
                let result = Token::decode(URL_SAFE_NO_PAD.encode(&raw).as_bytes(), &keys(), dialog);
                assert_eq!(result, Err(TokenError::Forged));
            }
        }
    }

    #[test]
    fn another_key_refuses_it() {
        let other = Keys::new(&[43; 32]);
        for token in shapes() {
            assert_eq!(Token::decode(&text(&token, HERE), &other, HERE), Err(TokenError::Forged));
        }
    }

    #[test]
    fn an_alias_is_the_same_text_whatever_made_it() {
        let token = Token::alias(BindingId { user: 9, hash: 10 });
        let dressed = Token { member: 5, boot: 6, ob: true, facing: Facing::Server, ..token };
        assert_eq!(text(&token, Dialog::NONE), text(&dressed, HERE));
        assert_eq!(text(&token, Dialog::NONE).len(), 28);
    }

    #[test]
    fn user_parts_of_phones_are_not_tokens() {
        for user in ["", "1000", "alice", "+4989123456", "A", "AAAA", "unavailable-1", "bob%40x", "=", "line1;x=y"] {
            assert_eq!(Token::decode(user.as_bytes(), &keys(), Dialog::NONE), Err(TokenError::NotAToken), "{user}");
        }
        assert_eq!(Token::decode(&[b'A'; 64 * 1024], &keys(), Dialog::NONE), Err(TokenError::NotAToken));
    }

    #[test]
    fn random_texts_are_refused() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let text: Vec<u8> = (0..rng.usize(0..70)).map(|_| ALPHABET[rng.usize(0..64)]).collect();
            assert!(Token::decode(&text, &keys(), HERE).is_err(), "{}", String::from_utf8_lossy(&text));
        }
    }
}
