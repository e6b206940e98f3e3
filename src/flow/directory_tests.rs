//! Tests of the directory: its rules one by one, and random work against a list.

use super::*;
use crate::ids::{ConnId, PointId, ShardId};

fn keys() -> Keys {
    Keys::new(&[5; 32])
}

fn flow(n: u32) -> FlowRef {
    FlowRef::Stream { shard: ShardId(0), conn: ConnId { slot: n, generation: 1 }, point: PointId(0) }
}

fn id(n: u64) -> BindingId {
    BindingId { user: n as u16, hash: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
}

fn contact_hash(contact: &str) -> u64 {
    keys().hash64(Tag::Contact, &[contact.as_bytes()])
}

fn binding(name: u64, aor: &str, contact: &str, over: u32) -> Binding {
    Binding {
        id: id(name),
        aor: aor.as_bytes().into(),
        contact: contact.as_bytes().into(),
        contact_hash: contact_hash(contact),
        instance: Box::default(),
        reg_id: None,
        flow: Some(flow(over)),
        peer: ([192, 0, 2, 1], 5060).into(),
        expires: Time(60_000_000),
        asked: Time(0),
        refreshed: Time(0),
        call_id_hash: name,
        cseq: 1,
        ob: false,
    }
}

fn outbound(name: u64, reg_id: u32, over: u32) -> Binding {
    let instance = b"urn:uuid:0".to_vec().into();
    Binding { reg_id: Some(reg_id), instance, ..binding(name, "sip:bob@x", "sip:bob@10.0.0.1", over) }
}

fn names<'a>(bindings: impl Iterator<Item = &'a Binding>) -> Vec<BindingId> {
    bindings.map(|binding| binding.id).collect()
}

#[test]
fn a_name_bound_again_is_refreshed_or_moved() {
    let mut directory = Directory::new(keys(), 10);
    let first = binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1);
    assert_eq!(directory.bind(first.clone()), Ok(Bound { change: Change::New, replaced: None }));
    assert_eq!(directory.bind(first.clone()), Ok(Bound { change: Change::Refreshed, replaced: None }));
    let moved = Binding { flow: Some(flow(2)), ..first };
    let change = Change::Moved { from: flow(1) };
    assert_eq!(directory.bind(moved.clone()), Ok(Bound { change, replaced: None }));
    assert_eq!(directory.find(id(1)), Some(&moved));
    directory.check();
}

#[test]
fn a_contact_that_changes_is_found_by_the_new_one_only() {
    let mut directory = Directory::new(keys(), 10);
    directory.bind(binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1)).expect("room");
    directory.bind(binding(1, "sip:bob@x", "sip:bob@10.0.0.2", 1)).expect("room");
    assert_eq!(directory.by_contact(contact_hash("sip:bob@10.0.0.1")).next(), None);
    assert_eq!(directory.by_contact(contact_hash("sip:bob@10.0.0.2")).next().map(|b| b.id), Some(id(1)));
    directory.check();
}

/// Real names cover the AOR; the lists hold together all the same.
#[test]
fn a_name_bound_for_another_aor_leaves_the_first() {
    let mut directory = Directory::new(keys(), 10);
    directory.bind(binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1)).expect("room");
    directory.bind(binding(1, "sip:eve@x", "sip:bob@10.0.0.1", 1)).expect("room");
    assert_eq!(names(directory.by_aor(b"sip:bob@x")), []);
    assert_eq!(names(directory.by_aor(b"sip:eve@x")), [id(1)]);
    directory.check();
}

#[test]
fn of_two_registers_of_one_phone_that_cross_the_one_accepted_last_stands() {
    let mut directory = Directory::new(keys(), 10);
    let before = binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1);
    directory.bind(before.clone()).expect("room");
    let after = binding(2, "sip:bob@x", "sip:bob@10.0.0.1", 2);
    let replaced = Some(Replaced::SameContact(before));
    assert_eq!(directory.bind(after), Ok(Bound { change: Change::New, replaced }));
    assert_eq!(names(directory.by_aor(b"sip:bob@x")), [id(2)]);
    assert_eq!(directory.find(id(1)), None);
    directory.check();
}

#[test]
fn two_phones_with_one_private_contact_stay_two_while_both_are_there() {
    let mut directory = Directory::new(keys(), 10);
    let one = binding(1, "sip:bob@x", "sip:bob@192.168.1.10", 1);
    let other = Binding { peer: ([192, 0, 2, 2], 5060).into(), ..binding(2, "sip:bob@x", "sip:bob@192.168.1.10", 2) };
    directory.bind(one.clone()).expect("room");
    assert_eq!(directory.bind(other), Ok(Bound { change: Change::New, replaced: None }));
    // Each is the same phone over its own flow, from its own address, or when the other's flow is gone.
    let says = |flow_n: u32, ip: [u8; 4]| one.is_same_phone(one.contact_hash, flow(flow_n), IpAddr::from(ip));
    assert!(says(1, [192, 0, 2, 9]) && says(9, [192, 0, 2, 1]) && !says(9, [192, 0, 2, 9]));
    let lost = Binding { flow: None, ..one.clone() };
    assert!(lost.is_same_phone(one.contact_hash, flow(9), IpAddr::from([192, 0, 2, 9])));
    assert!(!lost.is_same_phone(one.contact_hash ^ 1, flow(9), IpAddr::from([192, 0, 2, 9])));
    let with_instance = Binding { instance: b"urn:uuid:9".to_vec().into(), ..one.clone() };
    assert!(!with_instance.is_same_phone(one.contact_hash, flow(1), IpAddr::from([192, 0, 2, 1])));
    directory.check();
}

#[test]
fn another_contact_another_aor_and_another_instance_stay_apart() {
    let mut directory = Directory::new(keys(), 10);
    let base = binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1);
    let other_instance = Binding { id: id(4), instance: b"urn:uuid:9".to_vec().into(), ..base.clone() };
    let all = [
        base,
        binding(2, "sip:bob@x", "sip:bob@10.0.0.2", 2),
        binding(3, "sip:bob@y", "sip:bob@10.0.0.1", 3),
        other_instance,
    ];
    for binding in all {
        assert_eq!(directory.bind(binding), Ok(Bound { change: Change::New, replaced: None }));
    }
    assert_eq!(names(directory.by_aor(b"sip:bob@x")), [id(4), id(2), id(1)]);
    assert_eq!(names(directory.by_aor(b"sip:bob@y")), [id(3)]);
    directory.check();
}

/// RFC 5626 §4.2.1: one Contact over several flows, told apart by reg-id.
#[test]
fn two_reg_ids_with_one_contact_are_two_bindings() {
    let mut directory = Directory::new(keys(), 10);
    directory.bind(outbound(1, 1, 1)).expect("room");
    assert_eq!(directory.bind(outbound(2, 2, 2)), Ok(Bound { change: Change::New, replaced: None }));
    assert_eq!(names(directory.by_aor(b"sip:bob@x")), [id(2), id(1)]);
    assert_eq!(directory.by_contact(contact_hash("sip:bob@10.0.0.1")).next().map(|b| b.id), Some(id(2)));
    assert_eq!(directory.remove(id(2)).map(|b| b.reg_id), Some(Some(2)));
    assert_eq!(directory.by_contact(contact_hash("sip:bob@10.0.0.1")).next().map(|b| b.id), Some(id(1)));
    directory.check();
}

#[test]
fn the_bound_holds_at_its_edge() {
    let mut directory = Directory::new(keys(), 2);
    directory.bind(binding(1, "sip:a@x", "sip:a@10.0.0.1", 1)).expect("room");
    directory.bind(binding(2, "sip:b@x", "sip:b@10.0.0.1", 2)).expect("room");
    assert_eq!(directory.bind(binding(3, "sip:c@x", "sip:c@10.0.0.1", 3)), Err(Full));
    assert_eq!(directory.len(), 2);
    // Neither a refresh nor a restart of a phone needs more room.
    assert!(directory.bind(binding(2, "sip:b@x", "sip:b@10.0.0.1", 4)).is_ok());
    assert!(directory.bind(binding(4, "sip:b@x", "sip:b@10.0.0.1", 5)).is_ok());
    directory.check();
    assert_eq!(directory.put_contact(1, id(1), Time(0)), Ok(()));
    assert_eq!(directory.put_contact(2, id(1), Time(0)), Ok(()));
    // What there is no room for is some phone's all the same, until its time.
    assert!(!directory.may_be_a_phones(3, Time(0)));
    assert_eq!(directory.put_contact(3, id(1), Time(60_000_000)), Err(Full));
    assert!(directory.may_be_a_phones(3, Time(59_000_000)) && !directory.may_be_a_phones(3, Time(61_000_000)));
    assert_eq!(directory.put_contact(2, id(2), Time(0)), Ok(()));
}

#[test]
fn one_aor_too_many_makes_the_oldest_give_way() {
    let mut directory = Directory::new(keys(), 10 * BINDINGS_PER_AOR_MAX);
    let nth = |n: usize| binding(n as u64, "sip:bob@x", &format!("sip:bob@10.0.0.1:{n}"), 1);
    for n in 0..BINDINGS_PER_AOR_MAX {
        assert_eq!(directory.bind(nth(n)), Ok(Bound { change: Change::New, replaced: None }), "{n}");
    }
    // A refresh at the bound takes nobody's place, and makes the next one the oldest.
    assert_eq!(directory.bind(nth(0)), Ok(Bound { change: Change::Refreshed, replaced: None }));
    let replaced = Some(Replaced::Oldest(nth(1)));
    assert_eq!(directory.bind(nth(BINDINGS_PER_AOR_MAX)), Ok(Bound { change: Change::New, replaced }));
    directory.check();
}

#[test]
fn only_the_flow_that_it_has_can_be_taken_from_a_binding() {
    let mut directory = Directory::new(keys(), 10);
    directory.bind(binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1)).expect("room");
    directory.bind(binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 2)).expect("room");
    assert_eq!(directory.flow_gone(id(1), flow(1)), None);
    assert_eq!(directory.flow_gone(id(9), flow(2)), None);
    assert_eq!(directory.flow_gone(id(1), flow(2)).map(|b| (b.id, b.flow)), Some((id(1), None)));
    assert_eq!(directory.flow_gone(id(1), flow(2)), None, "it has none");
    directory.check();
    // It is no binding that anybody can be reached by, and is found all the same.
    assert_eq!((directory.len(), directory.is_empty()), (0, false));
    assert_eq!(names(directory.by_aor(b"sip:bob@x")), [id(1)]);
    assert_eq!(names(directory.by_contact(contact_hash("sip:bob@10.0.0.1"))), [id(1)]);
    let back = binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 3);
    assert_eq!(directory.bind(back), Ok(Bound { change: Change::New, replaced: None }));
    assert_eq!(directory.len(), 1);
    directory.check();
}

#[test]
fn a_binding_without_a_flow_gives_way_where_room_is_short_and_the_first_to_expire_does() {
    let mut directory = Directory::new(keys(), 3);
    for (n, end) in [(1, 30), (2, 20), (3, 10)] {
        let expires = Time(end * 1_000_000);
        let one = Binding { expires, ..binding(n, &format!("sip:{n}@x"), &format!("sip:{n}@10.0.0.1"), 1) };
        directory.bind(one).expect("room");
    }
    assert_eq!(directory.bind(binding(4, "sip:d@x", "sip:d@10.0.0.1", 4)), Err(Full), "all of them live");
    for n in [1, 2] {
        directory.flow_gone(id(n), flow(1)).expect("it had it");
    }
    let gone = Binding { flow: None, ..directory.find(id(2)).expect("there").clone() };
    let bound = directory.bind(binding(4, "sip:d@x", "sip:d@10.0.0.1", 4));
    assert_eq!(bound, Ok(Bound { change: Change::New, replaced: Some(Replaced::Lost(gone)) }));
    directory.check();
}

#[test]
fn of_an_aor_with_too_many_one_without_a_flow_gives_way_first() {
    let mut directory = Directory::new(keys(), 10 * BINDINGS_PER_AOR_MAX);
    let nth = |n: usize| binding(n as u64, "sip:bob@x", &format!("sip:bob@10.0.0.1:{n}"), 1);
    for n in 0..BINDINGS_PER_AOR_MAX {
        directory.bind(nth(n)).expect("room");
    }
    directory.flow_gone(id(5), flow(1)).expect("it had it");
    let replaced = Some(Replaced::Oldest(Binding { flow: None, ..nth(5) }));
    assert_eq!(directory.bind(nth(500)), Ok(Bound { change: Change::New, replaced }));
    let replaced = Some(Replaced::Oldest(nth(0)));
    assert_eq!(directory.bind(nth(501)), Ok(Bound { change: Change::New, replaced }));
    directory.check();
}

#[test]
fn a_binding_ends_at_its_time_and_not_before() {
    let mut directory = Directory::new(keys(), 10);
    let bound = binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1);
    let end = bound.expires;
    directory.bind(bound.clone()).expect("room");
    assert_eq!(directory.expire(id(1), Time(end.0 - 1)), None);
    assert_eq!(directory.expire(id(1), end), Some(bound));
    assert_eq!(directory.expire(id(1), end), None);
}

#[test]
fn a_star_clears_one_aor() {
    let mut directory = Directory::new(keys(), 10);
    directory.bind(binding(1, "sip:bob@x", "sip:bob@10.0.0.1", 1)).expect("room");
    directory.bind(binding(2, "sip:bob@x", "sip:bob@10.0.0.2", 2)).expect("room");
    directory.bind(binding(3, "sip:eve@x", "sip:eve@10.0.0.3", 3)).expect("room");
    assert_eq!(names(directory.remove_aor(b"sip:bob@x").iter()), [id(2), id(1)]);
    assert_eq!(directory.remove_aor(b"sip:bob@x"), []);
    assert_eq!(names(directory.iter()), [id(3)]);
    directory.check();
}

#[test]
fn a_contact_of_another_shard_is_dropped_by_the_binding_that_has_it() {
    let mut directory = Directory::new(keys(), 10);
    directory.put_contact(7, id(1), Time(0)).expect("room");
    directory.put_contact(7, id(2), Time(0)).expect("room");
    assert_eq!(directory.contact(7), [id(1), id(2)]);
    assert!(directory.drop_contact(7, id(1)));
    assert!(!directory.drop_contact(7, id(1)), "it is gone already");
    assert_eq!(directory.contact(7), [id(2)]);
    assert!(directory.drop_contact(7, id(2)));
    assert_eq!((directory.contact(7).len(), directory.remote_contacts_len()), (0, 0));
}

#[test]
fn a_contact_of_too_many_names_nobody_until_all_have_dropped_it() {
    let mut directory = Directory::new(keys(), 10);
    let count = BINDINGS_PER_AOR_MAX as u64;
    for n in 0..count {
        directory.put_contact(7, id(n), Time(0)).expect("room");
    }
    assert_eq!(directory.contact(7).len(), BINDINGS_PER_AOR_MAX);
    assert_eq!(directory.put_contact(7, id(count), Time(60_000_000)), Err(Full));
    assert_eq!(directory.contact(7), []);
    for n in 1..count {
        directory.drop_contact(7, id(n));
    }
    assert_eq!(directory.contact(7), [], "the one that was not kept may still have it");
    directory.drop_contact(7, id(0));
    assert_eq!(directory.remote_contacts_len(), 0);
    assert!(directory.may_be_a_phones(7, Time(59_000_000)), "so may it until its time");
}

#[test]
fn an_entry_stays_small() {
    // Without the texts of AOR, Contact and instance-id; 4.7 KB is what the connection of a phone costs.
    assert!(size_of::<Entry>() <= 224, "{}", size_of::<Entry>());
}

/// As `bind` merges them.
fn same_phone(known: &Binding, new: &Binding) -> bool {
    let over = |flow| known.is_same_phone(new.contact_hash, flow, new.peer.ip());
    known.id != new.id && new.instance.is_empty() && new.flow.is_some_and(over)
}

/// Random work, compared with a list of bindings, the most recently bound first.
#[test]
fn behaves_as_a_list_does() {
    for seed in 0..32 {
        // One bit of hash: most AORs collide.
        for mask in [u64::MAX, 1] {
            model_run(seed, mask);
        }
    }
}

fn model_run(seed: u64, aor_hash_mask: u64) {
    const MAX: usize = 12;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut directory = Directory { aor_hash_mask, ..Directory::new(keys(), MAX) };
    let mut model: Vec<Binding> = Vec::new();
    for step in 0..600 {
        let place = format!("seed {seed} mask {aor_hash_mask:x} step {step}");
        let name = rng.u64(0..16);
        // As with real names, a name belongs to one AOR.
        let aor = format!("sip:{}@x", name % 5);
        let contact = format!("sip:c@10.0.0.{}", rng.u8(0..4));
        let now = Time(step * 1_000);
        let at = model.iter().position(|b| b.id == id(name));
        match rng.u8(0..11) {
            0..=5 => {
                let new = Binding {
                    peer: ([192, 0, 2, rng.u8(0..3)], 5060).into(),
                    instance: if rng.bool() { Box::default() } else { b"i".to_vec().into() },
                    reg_id: rng.bool().then_some(1),
                    expires: now.after(std::time::Duration::from_millis(rng.u64(1..200))),
                    ..binding(name, &aor, &contact, rng.u32(0..4))
                };
                let gone = model.iter().position(|b| b.aor == new.aor && same_phone(b, &new));
                let mut replaced = gone.map(|gone| Replaced::SameContact(model[gone].clone()));
                if at.is_none() && gone.is_none() && model.len() == MAX {
                    let lost = model.iter().filter(|b| b.flow.is_none()).min_by_key(|b| (b.expires, b.id));
                    replaced = lost.cloned().map(Replaced::Lost);
                }
                let expected = if at.is_none() && replaced.is_none() && model.len() == MAX {
                    Err(Full)
                } else {
                    let change = match at.map(|at| model[at].flow) {
                        None | Some(None) => Change::New,
                        Some(from) if from == new.flow => Change::Refreshed,
                        Some(Some(from)) => Change::Moved { from },
                    };
                    if let Some(Replaced::SameContact(gone) | Replaced::Lost(gone)) = &replaced {
                        model.retain(|b| b.id != gone.id);
                    }
                    model.retain(|b| b.id != new.id);
                    model.insert(0, new.clone());
                    Ok(Bound { change, replaced })
                };
                assert_eq!(directory.bind(new), expected, "{place}");
            }
            6 => assert_eq!(directory.remove(id(name)), at.map(|at| model.remove(at)), "{place}"),
            7 => {
                let over = flow(rng.u32(0..4));
                let had = at.filter(|&at| model[at].flow == Some(over));
                if let Some(at) = had {
                    model[at].flow = None;
                }
                assert_eq!(directory.flow_gone(id(name), over), had.map(|at| &model[at]), "{place}");
            }
            8 | 9 => {
                let expected = at.filter(|&at| model[at].expires <= now).map(|at| model.remove(at));
                assert_eq!(directory.expire(id(name), now), expected, "{place}");
            }
            _ => {
                let expected: Vec<Binding> = model.extract_if(.., |b| *b.aor == *aor.as_bytes()).collect();
                assert_eq!(directory.remove_aor(aor.as_bytes()), expected, "{place}");
            }
        }
        directory.check();
        assert_eq!(directory.len(), model.iter().filter(|b| b.flow.is_some()).count(), "{place}");
        assert_eq!(directory.find(id(name)), model.iter().find(|b| b.id == id(name)), "{place}");
        let of_aor: Vec<&Binding> = model.iter().filter(|b| *b.aor == *aor.as_bytes()).collect();
        assert_eq!(directory.by_aor(aor.as_bytes()).collect::<Vec<_>>(), of_aor, "{place}");
        let of_contact = model.iter().find(|b| *b.contact == *contact.as_bytes());
        assert_eq!(directory.by_contact(contact_hash(&contact)).next(), of_contact, "{place}");
    }
}
