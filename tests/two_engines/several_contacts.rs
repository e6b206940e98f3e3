//! REGISTERs with several Contacts: a new address with the old one taken back, several lines, `q`, several
//! instances, and one without an instance-id beside one with.

use hawser::engine::Sticky;

use crate::calls::answered;
use crate::talk::{Dialog, Phone, answer, headers, start_line, uri};
use crate::world::{SERVER, Setup, TLS, Wire, World};

const MODES: [Sticky; 3] = [Sticky::Path, Sticky::Contact, Sticky::Aor];
const INSTANCE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";

/// A registrar that works through the Contacts in their order and knows them by their URIs: what it has now, as it was
/// said.
#[derive(Default)]
struct Registrar {
    held: Vec<String>,
}

impl Registrar {
    /// Takes a REGISTER from the wire, and answers it. Gives it back.
    #[track_caller]
    fn accept(&mut self, world: &mut World) -> String {
        let request = world.expect_server("REGISTER ");
        for contact in contacts(&request) {
            self.held.retain(|held| uri(held) != uri(&contact));
            if !contact.contains(";expires=0") {
                self.held.push(contact);
            }
        }
        let all: String = self.held.iter().map(|held| format!("Contact: {held};expires=600\r\n")).collect();
        world.datagram(1, SERVER, &answer(&request, "200 OK", "srv", &all));
        request
    }
}

/// The Contacts of a message, also where several stand in one line.
fn contacts(message: &str) -> Vec<String> {
    let lines = headers(message, "Contact");
    lines.iter().flat_map(|line| line.split(", ")).map(ToOwned::to_owned).collect()
}

fn shown(message: &str) -> Vec<String> {
    contacts(message).iter().map(|contact| uri(contact).to_owned()).collect()
}

/// The phone's REGISTER with these lines in place of its Contact.
fn register_with(phone: &mut Phone, lines: &[String]) -> String {
    let text = phone.register_text(600);
    let (head, rest) = text.split_once("Contact: ").expect("it has one");
    let (_, tail) = rest.split_once("\r\n").expect("lines end");
    format!("{head}{}{tail}", lines.iter().map(|line| format!("Contact: {line}\r\n")).collect::<String>())
}

fn bindings(world: &World, user: &str) -> Vec<String> {
    let aor = format!("sip:{user}@example.com");
    let mut all: Vec<String> =
        world.engines.iter().flat_map(|engine| engine.locate(&aor, world.now)).map(|located| located.contact).collect();
    all.sort();
    all
}

/// The server asks for a Contact as it holds it, and the phone hears its own.
#[track_caller]
fn reach(world: &mut World, phone: &Phone, held: &str, own: &str, wire: Wire, call_id: &str) {
    let asked = Phone { bound_contact: held.to_owned(), ..phone.clone() };
    world.datagram(0, SERVER, &asked.server_request("OPTIONS", call_id, 1));
    let options = world.read(wire);
    assert_eq!(start_line(&options), format!("OPTIONS {own} SIP/2.0"));
    world.write(wire, &answer(&options, "200 OK", "p", ""));
    world.expect_server("SIP/2.0 200");
}

fn everywhere(story: impl Fn(World, Sticky)) {
    for sticky in MODES {
        for shards in [1, 2] {
            story(World::new(&Setup { sticky, shards, ..Setup::default() }), sticky);
        }
    }
}

#[test]
fn a_register_with_the_new_contact_and_the_old_one_taken_back_moves_the_phone_and_its_call() {
    for params in [format!("{INSTANCE};reg-id=1"), INSTANCE.to_owned(), String::new()] {
        for (new_first, one_line) in [(true, false), (false, false), (true, true), (false, true)] {
            everywhere(|mut world, sticky| {
                let mut registrar = Registrar::default();
                let last = u8::try_from(world.engines.len()).expect("few") - 1;
                let first = world.connect(0, TLS);
                let mut phone = Phone::new("alice", first);
                let old = phone.contact.clone();
                let text = register_with(&mut phone, &[format!("<{old}>{params}")]);
                world.write(first, &text);
                let request = registrar.accept(&mut world);
                phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
                phone.bound_contact = uri(&registrar.held[0]).to_owned();
                world.expect(first, "SIP/2.0 200");
                let (mut server, _) = answered(&mut world, &phone, "c1");

                // Over another connection, while the first is still there.
                phone.wire = world.connect(last, TLS);
                let new = "sip:alice@198.51.100.9:6060;transport=tls".to_owned();
                let mut lines = vec![format!("<{new}>{params}"), format!("<{old}>{params};expires=0")];
                if !new_first {
                    lines.reverse();
                }
                if one_line {
                    lines = vec![lines.join(", ")];
                }
                let text = register_with(&mut phone, &lines);
                world.write(phone.wire, &text);
                let request = registrar.accept(&mut world);
                if sticky == Sticky::Contact {
                    assert_eq!(shown(&request), [phone.bound_contact.clone()], "one alias, that is bound: {request}");
                    assert!(!request.contains("expires=0"), "{request}");
                } else {
                    assert_eq!(contacts(&request), contacts(&text), "as the phone said it");
                }
                let response = world.expect(phone.wire, "SIP/2.0 200");
                assert_eq!(shown(&response), std::slice::from_ref(&new), "{sticky:?}: {response}");
                assert_eq!(bindings(&world, "alice"), std::slice::from_ref(&new));

                phone.contact = new.clone();
                phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
                let [held] = registrar.held.as_slice() else { panic!("one: {:?}", registrar.held) };
                reach(&mut world, &phone, uri(held), &new, phone.wire, "o1");
                server.server_hangs_up(&mut world, 1, phone.wire);
                world.assert_silent();
                world.end();
            });
        }
    }
}

/// Who takes back a Contact and binds another under another key, means it.
#[test]
fn a_contact_of_another_reg_id_is_taken_back_by_the_same_register() {
    everywhere(|mut world, _| {
        let mut registrar = Registrar::default();
        let wire = world.connect(0, TLS);
        let mut phone = Phone::new("alice", wire);
        let [one, two] = ["sip:alice@192.0.2.7:5060;transport=tls", "sip:alice@192.0.2.8:5060;transport=tls"];
        let lines = [format!("<{one}>{INSTANCE};reg-id=1"), format!("<{two}>{INSTANCE};reg-id=2")];
        let text = register_with(&mut phone, &lines);
        world.write(wire, &text);
        registrar.accept(&mut world);
        world.expect(wire, "SIP/2.0 200");
        assert_eq!(bindings(&world, "alice"), [one, two]);
        let text = register_with(&mut phone, &[lines[0].clone(), format!("{};expires=0", lines[1])]);
        world.write(wire, &text);
        let request = registrar.accept(&mut world);
        assert_eq!(contacts(&request).len(), 2, "{request}");
        let response = world.expect(wire, "SIP/2.0 200");
        assert_eq!(shown(&response), [one]);
        assert_eq!(bindings(&world, "alice"), [one]);
        world.end();
    });
}

#[test]
fn several_contacts_keep_their_order_and_parameters_and_each_is_reached() {
    everywhere(|mut world, sticky| {
        let mut registrar = Registrar::default();
        let wire = world.connect(0, TLS);
        let mut phone = Phone::new("alice", wire);
        let own: Vec<String> = (1..=6).map(|at| format!("sip:line{at}@192.0.2.7:506{at};transport=tls")).collect();
        let other_instance = INSTANCE.replace("A95A0E128", "A95A0E129");
        let lines = [
            // One instance over two flows, another instance in the same line, one without, and two of one
            // instance without reg-id.
            format!("<{}>;q=0.5{INSTANCE};reg-id=1, <{}>;q=1.0{other_instance};reg-id=1", own[0], own[1]),
            format!("<{}>{INSTANCE};reg-id=2;q=0.1", own[2]),
            format!("<{}>;q=0.7", own[3]),
            format!("<{}>{INSTANCE}", own[4]),
            format!("<{}>{INSTANCE};q=0.2", own[5]),
        ];
        for turned in [false, true] {
            let mut lines = lines.to_vec();
            if turned {
                lines.reverse();
            }
            let text = register_with(&mut phone, &lines);
            world.write(wire, &text);
            let before = registrar.held.len();
            let request = registrar.accept(&mut world);
            assert!(before == 0 || registrar.held.len() == before, "no dead aliases: {:?}", registrar.held);
            let params = |message: &str| -> Vec<String> {
                contacts(message).iter().map(|one| one.replacen(uri(one), "", 1)).collect()
            };
            assert_eq!(params(&request), params(&text));
            let own_order: Vec<String> = shown(&text);
            let response = world.expect(wire, "SIP/2.0 200");
            assert_eq!(shown(&response), own_order, "{sticky:?}: {response}");
            phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
            if sticky != Sticky::Path {
                for (held, own) in registrar.held.iter().zip(&own_order) {
                    let call_id = format!("{turned}{}", &own[4..9]);
                    reach(&mut world, &phone, uri(held), own, wire, &call_id);
                }
            }
        }
        let mut all = own.clone();
        all.sort();
        assert_eq!(bindings(&world, "alice"), all);
        world.end();
    });
}

/// The same once more, with nothing said about expiry in the 2xx, and in another order.
#[test]
fn each_contact_gets_its_own_expiry_whatever_the_order_of_the_2xx() {
    everywhere(|mut world, _| {
        let wire = world.connect(0, TLS);
        let mut phone = Phone::new("alice", wire);
        let own = ["sip:a@192.0.2.7;transport=tls", "sip:b@192.0.2.7;transport=tls"];
        let text = register_with(&mut phone, &own.map(|own| format!("<{own}>;expires=600")));
        world.write(wire, &text);
        let request = world.expect_server("REGISTER ");
        let held = shown(&request);
        let extra = format!("Contact: <{}>;expires=300, <{}>;expires=60\r\n", held[1], held[0]);
        world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", &extra));
        world.expect(wire, "SIP/2.0 200");
        assert_eq!(bindings(&world, "alice"), own);
        world.pass_s(61);
        assert_eq!(bindings(&world, "alice"), own[1..]);
        world.end();
    });
}

/// Two Contacts under one reg-id in one REGISTER: the registrar keeps one, and says which.
#[test]
fn of_two_contacts_under_one_reg_id_the_one_that_the_2xx_lists_is_bound() {
    everywhere(|mut world, _| {
        for kept in [0, 1] {
            let wire = world.connect(0, TLS);
            let mut phone = Phone::new("alice", wire);
            phone.call_id = format!("c{kept}");
            let own = ["sip:a@192.0.2.7;transport=tls", "sip:b@192.0.2.7;transport=tls"];
            let text = register_with(&mut phone, &own.map(|own| format!("<{own}>{INSTANCE};reg-id=1")));
            world.write(wire, &text);
            let request = world.expect_server("REGISTER ");
            let held = shown(&request);
            let extra = format!("Contact: <{}>;expires=300\r\n", held[kept]);
            world.datagram(0, SERVER, &answer(&request, "200 OK", "srv", &extra));
            let response = world.expect(wire, "SIP/2.0 200");
            assert_eq!(shown(&response), [own[kept]]);
            assert_eq!(bindings(&world, "alice"), [own[kept]]);
        }
        world.end();
    });
}

/// A Contact of one REGISTER is no other Contact's: a line that is taken back alone leaves the others.
#[test]
fn one_of_several_contacts_without_instance_changes_and_the_others_keep_their_calls() {
    everywhere(|mut world, sticky| {
        let mut registrar = Registrar::default();
        let wire = world.connect(0, TLS);
        let mut phone = Phone { params: "", ..Phone::new("alice", wire) };
        let own = ["sip:a@192.0.2.7;transport=tls", "sip:b@192.0.2.7;transport=tls", "sip:c@192.0.2.7;transport=tls"];
        let text = register_with(&mut phone, &own.map(|own| format!("<{own}>"))[..2]);
        world.write(wire, &text);
        registrar.accept(&mut world);
        world.expect(wire, "SIP/2.0 200");
        let before = registrar.held.clone();
        // The second has another address now.
        let text = register_with(
            &mut phone,
            &[format!("<{}>", own[2]), format!("<{}>", own[0]), format!("<{}>;expires=0", own[1])],
        );
        world.write(wire, &text);
        registrar.accept(&mut world);
        let response = world.expect(wire, "SIP/2.0 200");
        let mut told = shown(&response);
        told.sort();
        assert_eq!(told, [own[0], own[2]]);
        assert_eq!(bindings(&world, "alice"), [own[0], own[2]]);
        if sticky == Sticky::Contact {
            let aliases = |held: &[String]| {
                let mut all: Vec<String> = held.iter().map(|one| uri(one).to_owned()).collect();
                all.sort();
                all
            };
            assert_eq!(aliases(&registrar.held), aliases(&before), "each alias stays");
        }
        world.end();
    });
}

/// The Path names the Contact that stays, though one that is taken back stands before it.
#[test]
fn in_a_call_the_path_of_a_reconnect_names_the_binding_that_it_moves() {
    let mut world = World::new(&Setup::default());
    let mut registrar = Registrar::default();
    let first = world.connect(0, TLS);
    let mut phone = Phone::new("alice", first);
    let old = phone.contact.clone();
    let text = register_with(&mut phone, &[format!("<{old}>{INSTANCE};reg-id=1")]);
    world.write(first, &text);
    registrar.accept(&mut world);
    world.expect(first, "SIP/2.0 200");
    phone.wire = world.connect(1, TLS);
    let lines = [format!("<{old}>{INSTANCE};reg-id=1;expires=0"), format!("<sip:alice@9.9.9.9>{INSTANCE};reg-id=1")];
    let text = register_with(&mut phone, &lines);
    world.write(phone.wire, &text);
    let request = registrar.accept(&mut world);
    world.expect(phone.wire, "SIP/2.0 200");
    phone.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
    phone.bound_contact = uri(&registrar.held[0]).to_owned();
    // It rings there, and its dialog survives the loss of the new connection.
    let (server, _) = answered(&mut world, &phone, "c1");
    world.hang_up(phone.wire);
    phone.wire = world.connect(0, TLS);
    "sip:alice@9.9.9.9".clone_into(&mut phone.contact);
    phone.register(&mut world, 600);
    let mut server: Dialog = server;
    server.server_hangs_up(&mut world, 1, phone.wire);
    world.end();
}
