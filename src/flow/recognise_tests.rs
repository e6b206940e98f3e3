//! Tests of who is who: each step of the rule, and what must not be taken for the same.

use super::*;
use crate::clock::Time;
use crate::ids::{ConnId, PointId, ShardId};

const AOR: &[u8] = b"sip:bob@x";
const HERE: [u8; 4] = [192, 0, 2, 1];
const ELSEWHERE: [u8; 4] = [192, 0, 2, 2];

fn keys() -> Keys {
    Keys::new(&[5; 32])
}

fn flow(n: u32) -> FlowRef {
    FlowRef::Stream { shard: ShardId(0), conn: ConnId { slot: n, generation: 1 }, point: PointId(0) }
}

fn hash_of(contact: &str) -> u64 {
    keys().hash64(Tag::Contact, &[contact.as_bytes()])
}

/// A REGISTER of this AOR.
struct Register<'a> {
    call_id: &'a str,
    over: u32,
    ip: [u8; 4],
}

impl<'a> Register<'a> {
    fn new(call_id: &'a str, over: u32, ip: [u8; 4]) -> Self {
        Self { call_id, over, ip }
    }

    fn names(&self, directory: &Directory, asked: &[Asked<'_>]) -> Names {
        let call_id = self.call_id.as_bytes();
        let asking = Asking { aor: AOR, user: b"bob", call_id, flow: flow(self.over), ip: self.ip.into() };
        asking.names(asked, directory, &keys())
    }

    fn binding(&self, one: &Asked<'_>, id: BindingId) -> Binding {
        Binding {
            id,
            aor: AOR.into(),
            contact: one.contact.into(),
            contact_hash: one.contact_hash,
            instance: one.instance.into(),
            reg_id: one.reg_id,
            flow: Some(flow(self.over)),
            peer: (self.ip, 5060).into(),
            expires: Time(60_000_000),
            asked: Time(0),
            refreshed: Time(0),
            call_id_hash: keys().hash64(Tag::CallId, &[self.call_id.as_bytes()]),
            cseq: 1,
            ob: false,
        }
    }

    /// The registrar accepts it.
    fn bind(&self, directory: &mut Directory, asked: &[Asked<'_>]) -> Vec<BindingId> {
        let names = self.names(directory, asked);
        for (one, named) in asked.iter().zip(&names).filter(|(one, _)| one.binds) {
            assert_eq!(directory.bind(self.binding(one, named.id)).expect("room").replaced, None);
        }
        directory.check();
        names.iter().map(|named| named.id).collect()
    }
}

fn plain(contact: &'static str) -> Asked<'static> {
    let canonical = contact.split(';').next().unwrap_or(contact);
    let (contact, contact_hash) = (contact.as_bytes(), hash_of(canonical));
    Asked { instance: b"", reg_id: None, contact, contact_hash, binds: true }
}

fn of(instance: &'static [u8], reg_id: Option<u32>, contact: &'static str) -> Asked<'static> {
    Asked { instance, reg_id, ..plain(contact) }
}

fn back(one: Asked<'static>) -> Asked<'static> {
    Asked { binds: false, ..one }
}

fn empty() -> Directory {
    Directory::new(keys(), 1_000)
}

#[test]
fn with_its_call_id_a_phone_is_known_whatever_its_contact_and_address() {
    let mut directory = empty();
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &[plain("a")]);
    assert_eq!(Register::new("c1", 2, ELSEWHERE).bind(&mut directory, &[plain("b")]), first);
}

#[test]
fn with_its_contact_a_phone_is_known_over_its_flow_from_its_address_and_when_its_flow_is_gone() {
    for (over, ip, lost, same) in
        [(1, ELSEWHERE, false, true), (2, HERE, false, true), (2, ELSEWHERE, true, true), (2, ELSEWHERE, false, false)]
    {
        let mut directory = empty();
        let first = Register::new("c1", 1, HERE).bind(&mut directory, &[plain("a")]);
        if lost {
            directory.flow_gone(first[0], flow(1)).expect("it had it");
        }
        let again = Register::new("c2", over, ip).bind(&mut directory, &[plain("a")]);
        assert_eq!(again == first, same, "{over} {ip:?} {lost}");
        // And so from then on, by the Call-ID that it had last.
        assert_eq!(Register::new("c2", 9, [192, 0, 2, 9]).bind(&mut directory, &[plain("z")]), again);
    }
}

/// The name that its Call-ID gives is another phone's by now: a phone that is elsewhere does not lose it.
#[test]
fn a_call_id_that_a_binding_had_before_names_it_no_more() {
    let mut directory = empty();
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &[plain("a")]);
    assert_eq!(Register::new("c2", 1, HERE).bind(&mut directory, &[plain("a")]), first);
    assert_ne!(Register::new("c1", 2, ELSEWHERE).bind(&mut directory, &[plain("a")]), first);
}

#[test]
fn another_contact_under_another_call_id_is_another_phone() {
    let mut directory = empty();
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &[plain("a")]);
    assert_ne!(Register::new("c2", 1, HERE).bind(&mut directory, &[plain("b")]), first);
}

#[test]
fn an_instance_is_its_own_name_everywhere_and_a_contact_without_one_does_not_become_it() {
    let mut directory = empty();
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &[of(b"i", Some(1), "a")]);
    assert_eq!(Register::new("c2", 2, ELSEWHERE).bind(&mut directory, &[of(b"i", Some(1), "b")]), first);
    assert_eq!(Register::new("c3", 3, HERE).names(&empty(), &[of(b"i", Some(1), "q")])[0].id, first[0]);
    for other in [of(b"i", Some(2), "b"), of(b"i", None, "b"), of(b"j", Some(1), "b"), plain("b")] {
        assert_ne!(Register::new("c2", 2, ELSEWHERE).names(&directory, &[other])[0].id, first[0], "{other:?}");
    }
}

#[test]
fn what_a_register_binds_wins_over_what_it_takes_back_whichever_stands_first() {
    for one in [of(b"i", Some(1), "old"), of(b"i", None, "old"), plain("old")] {
        let mut directory = empty();
        let first = Register::new("c1", 1, HERE).bind(&mut directory, &[one]);
        let new = Asked { contact: b"new", contact_hash: hash_of("new"), ..one };
        for asked in [[new, back(one)], [back(one), new]] {
            let names = Register::new("c1", 2, ELSEWHERE).names(&directory, &asked);
            for (asked, named) in asked.iter().zip(names) {
                assert_eq!(named, Named { id: first[0], superseded: !asked.binds }, "{one:?}");
            }
        }
    }
}

#[test]
fn of_two_contacts_the_one_that_is_taken_back_is_replaced_and_the_other_stays() {
    let mut directory = empty();
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &[plain("a"), plain("b")]);
    assert_ne!(first[0], first[1]);
    for (gone, id) in [("a", first[0]), ("b", first[1])] {
        let names = Register::new("c1", 2, HERE).names(&directory, &[plain("new"), back(plain(gone))]);
        assert_eq!(names[0], Named { id, superseded: false }, "{gone}");
        assert!(names[1].superseded);
    }
    // Both Contacts have changed with their address: in their order.
    assert_eq!(Register::new("c1", 2, HERE).bind(&mut directory, &[plain("c"), plain("d")]), first);
    // One has, and stands somewhere else.
    assert_eq!(Register::new("c1", 2, HERE).bind(&mut directory, &[plain("d"), plain("e")]), [first[1], first[0]]);
}

#[test]
fn of_contacts_that_differ_in_their_transport_alone_each_is_itself() {
    for instance in [&b""[..], b"i"] {
        let mut directory = empty();
        let both = [of(instance, None, "a;transport=tcp"), of(instance, None, "a;transport=tls")];
        let first = Register::new("c1", 1, HERE).bind(&mut directory, &both);
        let turned = Register::new("c1", 1, HERE).bind(&mut directory, &[both[1], both[0]]);
        assert_eq!(turned, [first[1], first[0]]);
        for (stays, goes) in [(0, 1), (1, 0)] {
            let asked = [both[stays], back(both[goes])];
            let names = Register::new("c1", 1, HERE).names(&directory, &asked);
            assert_eq!([names[0].id, names[1].id], [first[stays], first[goes]]);
        }
    }
}

#[test]
fn several_contacts_of_one_instance_without_reg_id_are_several_bindings() {
    let mut directory = empty();
    let both = [of(b"i", None, "a"), of(b"i", None, "b")];
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &both);
    assert_ne!(first[0], first[1]);
    let turned = Register::new("c2", 2, ELSEWHERE).bind(&mut directory, &[both[1], both[0]]);
    assert_eq!(turned, [first[1], first[0]]);
    let names = Register::new("c2", 2, HERE).names(&directory, &[both[0], back(both[1])]);
    assert_eq!(names[0], Named { id: first[0], superseded: false });
    assert_eq!(names[1], Named { id: first[1], superseded: false });
}

#[test]
fn a_contact_is_taken_back_by_its_uri_by_its_own_phone_first() {
    let mut directory = empty();
    let one = Register::new("c1", 1, HERE).bind(&mut directory, &[plain("a")]);
    let other = Register::new("c2", 2, ELSEWHERE).bind(&mut directory, &[plain("a")]);
    let named = |register: &Register<'_>, asked| register.names(&directory, &[asked])[0].id;
    assert_eq!(named(&Register::new("c1", 1, HERE), back(plain("a"))), one[0]);
    assert_eq!(named(&Register::new("c9", 2, ELSEWHERE), back(plain("a"))), other[0]);
    // Whoever may register for the AOR may take back what stands there (RFC 3261 §10.3 step 7).
    let by_another = named(&Register::new("c9", 3, [192, 0, 2, 3]), back(plain("a")));
    assert!([one[0], other[0]].contains(&by_another));
    // But not a phone with an instance-id, another one's.
    let instance = Register::new("c3", 3, HERE).bind(&mut directory, &[of(b"i", None, "q")]);
    let named = |register: &Register<'_>, asked| register.names(&directory, &[asked])[0].id;
    assert_eq!(named(&Register::new("c9", 3, HERE), back(plain("q"))), instance[0]);
    assert_ne!(named(&Register::new("c9", 3, HERE), back(of(b"j", None, "q"))), instance[0]);
    // A Contact that nobody has is nobody's.
    let unknown = named(&Register::new("c1", 1, HERE), back(plain("never")));
    assert!(![one[0], other[0]].contains(&unknown));
}

#[test]
fn a_reg_id_is_taken_back_by_its_name_and_one_contact_does_not_take_it_back_without() {
    let mut directory = empty();
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &[of(b"i", Some(1), "a")]);
    let named = |asked| Register::new("c1", 1, HERE).names(&directory, &[asked])[0].id;
    assert_eq!(named(back(of(b"i", Some(1), "b"))), first[0]);
    assert_ne!(named(back(plain("a"))), first[0]);
    // Without a reg-id, an instance's other Contact is another one.
    let mut directory = empty();
    let first = Register::new("c1", 1, HERE).bind(&mut directory, &[of(b"i", None, "a")]);
    let named = |asked| Register::new("c1", 1, HERE).names(&directory, &[asked])[0].id;
    assert_ne!(named(back(of(b"i", None, "b"))), first[0]);
    assert_eq!(named(back(plain("a"))), first[0]);
}

/// After a restart nothing is known: what the registrar has of an only Contact is named as before.
#[test]
fn an_empty_directory_names_a_phone_as_it_did_at_first() {
    let mut directory = empty();
    for one in [plain("a"), of(b"i", None, "a"), of(b"i", Some(3), "a")] {
        let first = Register::new("c1", 1, HERE).bind(&mut directory, &[one]);
        assert_eq!(Register::new("c1", 7, ELSEWHERE).names(&empty(), &[one])[0].id, first[0]);
        assert_eq!(Register::new("c1", 7, ELSEWHERE).names(&empty(), &[back(one)])[0].id, first[0]);
        let moved = Asked { contact: b"b", contact_hash: hash_of("b"), ..one };
        assert_eq!(Register::new("c1", 7, ELSEWHERE).names(&empty(), &[back(one), moved])[1].id, first[0]);
        directory = empty();
    }
}

#[test]
fn no_two_contacts_that_bind_get_one_name_whatever_stands_in_a_register() {
    for seed in 0..64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut directory = empty();
        for step in 0..60 {
            let count = rng.usize(1..6);
            let asked: Vec<Asked<'_>> = std::iter::repeat_with(|| {
                let instance: &[u8] = [&b""[..], b"i", b"j"][rng.usize(0..3)];
                let reg_id = (!instance.is_empty() && rng.bool()).then_some(1);
                let contact_hash = rng.u64(0..4);
                Asked { instance, reg_id, contact: b"", contact_hash, binds: rng.u8(0..3) > 0 }
            })
            .take(count)
            .collect();
            let call_id = ["c1", "c2", "c3"][rng.usize(0..3)];
            let register = Register::new(call_id, rng.u32(0..3), [192, 0, 2, rng.u8(0..3)]);
            let names = register.names(&directory, &asked);
            let place = format!("seed {seed} step {step}");
            for (at, named) in names.iter().enumerate() {
                let same = |other: usize| asked[other].binds && names[other].id == named.id;
                let binders = (0..count).filter(|other| same(*other)).count();
                assert!(if asked[at].binds { binders == 1 && !named.superseded } else { binders <= 1 }, "{place}");
                assert!(asked[at].binds || binders == 0 || named.superseded, "{place}: bound and taken back");
            }
            for (named, _) in names.iter().zip(&asked).filter(|(named, one)| !one.binds && !named.superseded) {
                directory.remove(named.id);
            }
            for (one, named) in asked.iter().zip(&names).filter(|(one, _)| one.binds) {
                directory.bind(register.binding(one, named.id)).expect("room");
            }
            directory.check();
        }
    }
}
