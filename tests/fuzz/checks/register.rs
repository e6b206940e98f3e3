//! A REGISTER and its 2xx. Input: how it came, and as parts the REGISTER, the 2xx, and one REGISTER that came before it.

use std::collections::BTreeSet;

use hawser::clock::Time;
use hawser::config::engine::Sticky;
use hawser::flow::directory::{Binding, Directory};
use hawser::flow::keys::Tag;
use hawser::flow::recognise::{Asked, Asking};
use hawser::flow::token::{Facing, Kind, Token};
use hawser::ids::Transport;
use hawser::limits::CONTACTS_MAX;
use hawser::proxy::register::{self, Registration, Way};
use hawser::proxy::{Names, Source};
use hawser::sip::{Edits, Message, Method, Name, NameAddr, Uri};

use super::parts::{Front, texts};
use super::place;

const BINDINGS_MAX: usize = 64;

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let flags = front.byte();
    let mut parts = texts(front.0);
    let mut part = || parts.next().unwrap_or_default().to_vec();
    let (request, response, before) = (part(), part(), part());
    let source = place::stranger(flags & 1 != 0);
    let mut directory = Directory::new(place::keys(), BINDINGS_MAX);
    if let Some((request, registration)) = read(before, &source, &directory) {
        bind(&mut directory, &request, &registration, &source);
    }
    let Some((request, registration)) = read(request, &source, &directory) else { return };
    is_sound(&request, &registration);
    let sticky = [Sticky::Path, Sticky::Contact, Sticky::Aor][usize::from(flags >> 1 & 3) % 3];
    let sent = sent_on(&request, &registration, sticky, flags & 8 != 0, &source);
    let response = if response.is_empty() { sent.as_deref().map(echo) } else { Some(response) };
    let Some(Ok(response)) = response.map(|bytes| Message::scan(bytes, true)) else { return };
    if response.is_request() {
        return;
    }
    let granted = register::granted(&request, &registration, &response, sticky, &place::keys());
    assert_eq!(granted.len(), registration.contacts.len());
    for (contact, granted) in registration.contacts.iter().zip(granted) {
        let asked = contact.expires.or(registration.expires);
        assert!(asked != Some(0) || granted == 0, "what is taken back is granted");
    }
    given_back(&request, &registration, &response, sticky);
}

fn read(text: Vec<u8>, source: &Source, directory: &Directory) -> Option<(Box<Message>, Registration)> {
    let request = Message::scan(text, false).ok()?;
    if request.method() != Some(Method::Register) || request.fault().is_some() {
        return None;
    }
    let names = Names::new(&place::settings(Transport::Udp));
    let recognise = |aor: &[u8], user: &[u8], asked: &[Asked<'_>]| {
        let asking = Asking { aor, user, call_id: request.call_id(), flow: source.flow, ip: source.peer.ip() };
        asking.names(asked, directory, &place::keys())
    };
    let registration = register::read(&request, source, &names, &place::keys(), recognise).ok()?;
    Some((request, registration))
}

fn bind(directory: &mut Directory, request: &Message, registration: &Registration, source: &Source) {
    let keys = place::keys();
    for contact in registration.contacts.iter().filter(|contact| !contact.superseded) {
        let binding = Binding {
            id: contact.id,
            aor: registration.aor.clone().into(),
            contact: request.text(contact.uri.all).into(),
            contact_hash: contact.contact_hash,
            instance: request.text(contact.instance).into(),
            reg_id: contact.reg_id,
            flow: Some(source.flow),
            peer: source.peer,
            expires: Time(1_000),
            asked: Time(1),
            refreshed: Time(1),
            call_id_hash: keys.hash64(Tag::CallId, &[request.call_id()]),
            cseq: request.cseq().number,
            ob: false,
        };
        assert!(directory.bind(binding).is_ok(), "there is room for a few");
    }
}

/// What it asks for is bounded, and no two Contacts that bind are one binding.
fn is_sound(request: &Message, registration: &Registration) {
    assert!(registration.contacts.len() <= CONTACTS_MAX);
    let is_taken_back = |expires: Option<u32>| expires.or(registration.expires) == Some(0);
    let binding = registration.contacts.iter().filter(|contact| !is_taken_back(contact.expires));
    let mut ids = BTreeSet::new();
    for contact in binding {
        assert!(!contact.superseded, "what binds is not taken back");
        assert!(ids.insert(contact.id), "two Contacts share a binding");
        assert!(contact.uri.scheme.is_sip());
        assert_eq!(Uri::parse(request.buf(), contact.value.uri).ok(), Some(contact.uri));
    }
    if let Some(lasting) = registration.lasting_contact() {
        assert!(ids.is_empty() || ids.contains(&lasting.id), "the Path names what is taken back");
    }
    assert!(register::aor_user(request).is_some());
}

/// What goes to the server is read without a fault, and has our way back on top.
fn sent_on(
    request: &Message,
    registration: &Registration,
    sticky: Sticky,
    add_supported: bool,
    source: &Source,
) -> Option<Box<Message>> {
    let settings = place::settings(Transport::Udp);
    let token = Token {
        member: settings.member,
        boot: settings.boot,
        kind: Kind::Path,
        facing: Facing::Server,
        late: false,
        opened: false,
        ob: false,
        flow: Some(source.flow),
        binding: registration.lasting_contact().map(|contact| contact.id),
    };
    let server_point = &place::point(Transport::Udp, 5060);
    let mut edits = Edits::new();
    let way = Way { sticky, add_supported, token, server_point };
    register::edit_request(request, registration, way, &place::keys(), &mut edits);
    let mut out = Vec::new();
    edits.apply(request.buf(), &mut out);
    // Aliases may be longer than what they stand for.
    if out.len() - request.body().len() > 30_000 || request.fields().len() > 250 {
        return None;
    }
    let sent = Message::scan(out, false).unwrap_or_else(|(error, _)| panic!("it cannot be read: {error:?}"));
    assert_eq!((sent.fault(), sent.body()), (None, request.body()));
    let has_path = sticky == Sticky::Path || request.first(Name::Path).is_some();
    let paths: Vec<_> = sent.values(Name::Path).collect();
    assert_eq!(paths.len(), request.count_values(Name::Path) + usize::from(has_path));
    if let Some(top) = paths.first() {
        let path = NameAddr::parse(sent.buf(), *top).expect("we have written it");
        let uri = Uri::parse(sent.buf(), path.uri).expect("we have written it");
        let ours = Token::decode(sent.text(uri.user), &place::keys(), hawser::flow::token::Dialog::NONE);
        assert_eq!(ours, Ok(token), "another Path is on top of ours");
    }
    let superseded = registration.contacts.iter().filter(|contact| contact.superseded).count();
    let gone = if sticky == Sticky::Contact { superseded } else { 0 };
    assert_eq!(sent.count_values(Name::Contact) + gone, request.count_values(Name::Contact));
    if sticky == Sticky::Path && add_supported {
        assert!(sent.has_option(Name::Supported, b"path"));
    }
    Some(sent)
}

/// The 2xx of a registrar that lists what it got, with the Path.
fn echo(sent: &Message) -> Vec<u8> {
    let mut extra = Vec::new();
    for name in [Name::Path, Name::Contact] {
        for value in sent.values(name) {
            extra.extend_from_slice(if name == Name::Path { b"Path: " } else { b"Contact: " });
            extra.extend(sent.text(value).iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
            extra.extend_from_slice(b"\r\n");
        }
    }
    let reply = hawser::sip::response::Reply { code: 200, reason: "OK", to_tag: b"s", extra: &extra };
    let mut out = Vec::new();
    hawser::sip::response::write(sent, place::address(place::SERVER), &reply, &mut out);
    out
}

/// No alias of ours that we know is left in what the phone gets.
fn given_back(request: &Message, registration: &Registration, response: &Message, sticky: Sticky) {
    let mut edits = Edits::new();
    register::edit_response(response, sticky, true, &place::keys(), &mut edits, |id, out| {
        let contact = registration.contacts.iter().find(|contact| contact.id == id);
        contact.inspect(|contact| out.extend_from_slice(request.text(contact.uri.all))).is_some()
    });
    let mut out = Vec::new();
    edits.apply(response.buf(), &mut out);
    let Ok(given) = Message::scan(out, true) else { panic!("it cannot be read any more") };
    assert_eq!((given.fault(), given.body()), (None, response.body()));
    assert_eq!(given.first(Name::Path), None);
    assert_eq!(given.count_values(Name::Contact), response.count_values(Name::Contact));
    if sticky == Sticky::Contact {
        for value in given.values(Name::Contact) {
            let Ok(addr) = NameAddr::parse(given.buf(), value) else { continue };
            let Ok(uri) = Uri::parse(given.buf(), addr.uri) else { continue };
            let token = Token::decode(given.text(uri.user), &place::keys(), hawser::flow::token::Dialog::NONE);
            let ours = |id| registration.contacts.iter().any(|contact| contact.id == id);
            let is_left = token.is_ok_and(|token| token.kind == Kind::Alias && token.binding.is_some_and(ours));
            assert!(!is_left, "the phone is shown an alias");
        }
    }
}
