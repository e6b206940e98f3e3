//! The fields that the proxy writes or takes away by itself, which `judge` leaves out when it compares: Record-Route
//! (RFC 3261 §16.6 step 4, RFC 5658), Route, Path (RFC 3327 §5.2), X-Genesys-Route, Retry-After, and the names that a phone
//! is known by when its Contact is rewritten.

use hawser::engine::Sticky;

use crate::judge::is_server;
use crate::message::{Msg, parameter, uri_of};
use crate::net::PartyId;
use crate::plan::{PHONES, Setup};

/// Methods that are given a Record-Route; FETCH is one that nobody knows.
const RECORDED: [&str; 5] = ["INVITE", "SUBSCRIBE", "NOTIFY", "REFER", "FETCH"];

/// A point of the proxy as a Via or a URI names it: address and port, and the transport in small letters.
type Place = (String, String);

fn place_of_via(via: &str) -> Place {
    let mut words = via.split([' ', ';']);
    let transport = words.next().and_then(|protocol| protocol.rsplit('/').next()).unwrap_or("");
    (words.next().unwrap_or("").to_owned(), transport.to_ascii_lowercase())
}

fn place_of_value(value: &str) -> Place {
    let address = uri_of(value).split(['@', ';']).nth(1).unwrap_or("");
    let transport = match parameter(uri_of(value), "transport") {
        "" => "udp",
        transport => transport,
    };
    (address.to_owned(), transport.to_owned())
}

/// The point by which a request of this sender comes to the proxy.
fn came_by(sent: &Msg, is_servers: bool, setup: &Setup) -> Place {
    let (_, transport) = place_of_via(sent.get("Via"));
    let host = if setup.split && is_servers { 2 } else { 1 };
    let port = if transport == "tls" { 5061 } else { 5060 };
    (format!("{}{host}:{port}", setup.own_host()), transport)
}

/// The values of the proxy's own in front of those that were there.
fn own_values<'a>(sent: &Msg, got: &'a Msg, name: &'a str) -> Vec<&'a str> {
    let mut values: Vec<&str> = got.all(name).collect();
    let before: Vec<&str> = sent.all(name).collect();
    assert!(values.ends_with(&before), "{name} of others is kept: {got:?}");
    values.truncate(values.len() - before.len());
    values
}

/// What has come to a party has the proxy's own marks where they belong, and nowhere else. `is_servers`: a server has sent
/// it, which was known as one. `is_direct`: it goes from endpoint to endpoint, whose route set stands.
pub fn check_request(party: PartyId, sent: &Msg, got: &Msg, is_servers: bool, is_direct: bool, setup: &Setup) {
    assert_eq!(got.get("X-Genesys-Route"), "", "it is for the proxy alone: {got:?}");
    let (before, left): (Vec<&str>, Vec<&str>) = (sent.all("Route").collect(), got.all("Route").collect());
    assert!(before.ends_with(&left), "Routes are taken from the front: {got:?}");
    assert!(left.first().is_none_or(|route| !route.contains(setup.own_host())), "its own Route is off: {got:?}");
    let leaves = place_of_via(got.get("Via"));
    let places = |name| -> Vec<Place> { own_values(sent, got, name).into_iter().map(place_of_value).collect() };
    let mut expected = Vec::new();
    if RECORDED.contains(&got.method()) && !is_direct {
        expected = vec![leaves.clone(), came_by(sent, is_servers, setup)];
        expected.dedup();
    }
    assert_eq!(places("Record-Route"), expected, "Record-Route of {got:?}");
    let is_marked = got.method() == "REGISTER" && is_server(party) && setup.sticky == Sticky::Path;
    assert_eq!(places("Path"), if is_marked { vec![leaves] } else { Vec::new() }, "Path of {got:?}");
}

/// A phone is asked by the Contact that it has given, whatever the servers know it by.
pub fn check_uri(sent: &Msg, got: &Msg, contact: Option<&String>, setup: &Setup) {
    let is_alias = setup.rewrites_contact() && sent.uri().contains(setup.own_host());
    match contact.filter(|_| is_alias) {
        Some(contact) => assert_eq!(got.uri(), contact, "the alias of {got:?}"),
        None => assert_eq!(got.uri(), sent.uri(), "the Request-URI of {got:?}"),
    }
}

/// The same for a response that has come to an endpoint.
pub fn check_response(party: PartyId, got: &Msg, setup: &Setup) {
    if got.code() == 503 {
        assert_ne!(got.get("Retry-After"), "", "all would come back at once: {got:?}");
    }
    if got.method() == "REGISTER" && got.code() == 200 {
        let phone = setup.phones[party - PHONES];
        let says_path = phone.instance == 2;
        assert!(says_path || got.get("Path").is_empty(), "it has not asked for a Path: {got:?}");
        // While the servers' names stand for nobody, their answers bind nothing, and give nothing back.
        let is_own = setup.named || !got.get("Contact").contains(setup.own_host());
        assert!(is_own, "a phone hears of its own Contact: {got:?}");
    }
}
