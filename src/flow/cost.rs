//! What tokens, hashes and the directory cost, to be counted and not timed. By hand:
//!
//! ```text
//! cargo test --release --lib --no-run        # prints the path of the test binary
//! valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*cost::encode_path*' \
//!     TEST-BINARY --exact flow::cost::rounds
//! ```
//!
//! Each counted function does [`ROUNDS`] rounds, seeded, with results that are checked.

use super::directory::{Binding, Change, Directory};
use super::keys::{Identity, Keys, Tag};
use super::token::{Dialog, Facing, Kind, Token};
use crate::clock::Time;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId};

const ROUNDS: u32 = 1_000;
const HERE: Dialog<'static> = Dialog { call_id: b"3848276298220188511@atlanta.example.com", tag: b"1928301774" };
const AOR: &[u8] = b"sip:1000@proxy.example.com";

fn token(kind: Kind, rng: &mut fastrand::Rng) -> Token {
    let conn = ConnId { slot: rng.u32(..), generation: rng.u32(..) };
    Token {
        member: rng.u16(..),
        boot: rng.u32(..),
        kind,
        facing: Facing::Endpoint,
        late: false,
        opened: false,
        ob: kind == Kind::Path && rng.bool(),
        flow: Some(FlowRef::Stream { shard: ShardId(rng.u8(..64)), conn, point: PointId(1) }),
        binding: Some(BindingId { user: rng.u16(..), hash: rng.u64(..) }),
    }
}

#[inline(never)]
fn encode_path(tokens: &[Token], keys: &Keys, texts: &mut [Vec<u8>]) {
    for (token, text) in tokens.iter().zip(texts) {
        token.encode(keys, Dialog::NONE, text);
    }
}

#[inline(never)]
fn encode_record_route(tokens: &[Token], keys: &Keys, texts: &mut [Vec<u8>]) {
    for (token, text) in tokens.iter().zip(texts) {
        token.encode(keys, HERE, text);
    }
}

#[inline(never)]
fn decode_path(texts: &[Vec<u8>], keys: &Keys, tokens: &[Token]) {
    for (text, token) in texts.iter().zip(tokens) {
        assert_eq!(Token::decode(text, keys, Dialog::NONE), Ok(*token));
    }
}

#[inline(never)]
fn decode_record_route(texts: &[Vec<u8>], keys: &Keys, tokens: &[Token]) {
    for (text, token) in texts.iter().zip(tokens) {
        assert_eq!(Token::decode(text, keys, HERE), Ok(*token));
    }
}

#[inline(never)]
fn refuse_a_user(keys: &Keys) {
    for _ in 0..ROUNDS {
        assert!(Token::decode(std::hint::black_box(b"1000"), keys, HERE).is_err());
    }
}

#[inline(never)]
fn hash_an_aor(keys: &Keys) -> u64 {
    (0..ROUNDS).fold(0, |sum, _| sum ^ keys.hash64(Tag::Aor, &[std::hint::black_box(AOR)]).rotate_left(1))
}

#[inline(never)]
fn name_a_binding(keys: &Keys) -> u64 {
    let identity = Identity::Instance { instance: b"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>", reg_id: 1 };
    (0..ROUNDS)
        .fold(0, |sum, _| sum ^ keys.binding(b"1000", std::hint::black_box(AOR), identity, 0).hash.rotate_left(1))
}

#[inline(never)]
fn refresh(directory: &mut Directory, bindings: Vec<Binding>) {
    for binding in bindings {
        assert_eq!(directory.bind(binding).map(|bound| bound.change), Ok(Change::Refreshed));
    }
}

#[inline(never)]
fn look_up_by_name(directory: &Directory, bindings: &[Binding]) {
    for binding in bindings {
        assert!(directory.find(binding.id).is_some());
    }
}

#[inline(never)]
fn look_up_by_aor(directory: &Directory, bindings: &[Binding]) {
    for binding in bindings {
        assert!(directory.by_aor(&binding.aor).next().is_some());
    }
}

#[test]
fn rounds() {
    let mut rng = fastrand::Rng::with_seed(8);
    let keys = Keys::new(&[8; 32]);
    let empty = || (0..ROUNDS).map(|_| Vec::with_capacity(64)).collect::<Vec<Vec<u8>>>();

    let tokens: Vec<Token> = (0..ROUNDS).map(|_| token(Kind::Path, &mut rng)).collect();
    let mut texts = empty();
    encode_path(&tokens, &keys, &mut texts);
    decode_path(&texts, &keys, &tokens);
    let tokens: Vec<Token> = (0..ROUNDS).map(|_| token(Kind::RecordRoute, &mut rng)).collect();
    let mut texts = empty();
    encode_record_route(&tokens, &keys, &mut texts);
    decode_record_route(&texts, &keys, &tokens);
    refuse_a_user(&keys);
    assert_eq!(hash_an_aor(&keys), 0, "an even number of the same");
    assert_eq!(name_a_binding(&keys), 0, "an even number of the same");

    let bindings: Vec<Binding> = (0..ROUNDS)
        .map(|n| {
            let aor = format!("sip:{n}@proxy.example.com").into_bytes();
            let contact = format!("sip:{n}@192.0.2.1:5060;transport=tls").into_bytes();
            Binding {
                id: keys.binding(n.to_string().as_bytes(), &aor, Identity::CallId(HERE.call_id), 0),
                contact_hash: keys.hash64(Tag::Contact, &[&contact]),
                aor: aor.into(),
                contact: contact.into(),
                instance: Box::default(),
                reg_id: None,
                flow: Some(FlowRef::Stream {
                    shard: ShardId(0),
                    conn: ConnId { slot: n, generation: 1 },
                    point: PointId(1),
                }),
                peer: ([192, 0, 2, 1], 5060).into(),
                expires: Time(3_600_000_000),
                asked: Time(0),
                refreshed: Time(0),
                call_id_hash: rng.u64(..),
                cseq: 1,
                ob: false,
            }
        })
        .collect();
    let mut directory = Directory::new(keys, 10_000);
    for binding in &bindings {
        assert_eq!(directory.bind(binding.clone()).map(|bound| bound.change), Ok(Change::New));
    }
    refresh(&mut directory, bindings.clone());
    look_up_by_name(&directory, &bindings);
    look_up_by_aor(&directory, &bindings);
    directory.check();
}
