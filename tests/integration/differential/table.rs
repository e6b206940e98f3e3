//! What may differ between a message that Hawser has sent on and the same by Kamailio, each with its reason. A row that
//! no message needs fails the test.

use super::arrived::{Arrived, Field};

/// The same message by either proxy, with the proxy's own address as PROXY.
pub struct Pair {
    pub hawser: Arrived,
    pub kamailio: Arrived,
}

/// A difference.
pub struct Row {
    pub what: &'static str,
    pub why: &'static str,
    /// Takes the difference out of both; says whether there was any.
    pub settle: fn(&mut Pair) -> bool,
}

/// All that may differ, in the order in which it is settled.
pub const ROWS: &[Row] = &[
    Row {
        what: "own Record-Routes of a method that no RFC defines",
        why: "Hawser stays in the path of what it doesn't know, which may form a dialog; edge.cfg lists four methods, \
              and Kamailio takes them for the same in lower case, against RFC 3261 §7.1",
        settle: record_routes_of_unknown_methods,
    },
    Row {
        what: "own Record-Routes",
        why: "RFC 3261 §16.6 step 4: their user part is a token of Hawser's, their parameters are Kamailio's, and either \
              may put them anywhere among the fields",
        settle: own_record_routes,
    },
    Row {
        what: "where a Max-Forwards that was missing is put",
        why: "RFC 3261 §16.6 step 3 says 70 and no place: Hawser puts it at the end of the head, Kamailio at its beginning",
        settle: added_max_forwards,
    },
    Row {
        what: "own Via",
        why: "RFC 3261 §16.6 step 8: each names itself, with a branch of its own making",
        settle: own_via,
    },
    Row {
        what: "Max-Breadth",
        why: "RFC 5393 §5.3.3.1 asks for it where it is missing; Kamailio doesn't know it",
        settle: max_breadth,
    },
    Row {
        what: "Path",
        why: "RFC 3327 §5.2: the URI names the flow, by a token here and by `received` there",
        settle: path,
    },
    Row {
        what: "how an rport is filled in",
        why: "RFC 3581 §4: Hawser writes the value behind the parameter as it stands, Kamailio writes the parameter anew",
        settle: rport,
    },
    Row {
        what: "white space in Max-Forwards",
        why: "Kamailio writes the lower number over the higher one and fills up with blanks",
        settle: max_forwards,
    },
    Row {
        what: "a Max-Forwards above 70",
        why: "edge.cfg lets nobody ask for more than the 70 of mf_process_maxfwd_header",
        settle: high_max_forwards,
    },
    Row {
        what: "the place of received",
        why: "RFC 3261 §18.2.1 and RFC 3581 §4 say that it is added to the sender's Via; Kamailio puts it in front of the \
              other parameters, Hawser behind them",
        settle: received,
    },
    Row {
        what: "alias in Contact",
        why: "edge.cfg finds back to a phone behind NAT by nathelper's alias; Hawser by the token of its Record-Route, \
              so it leaves the Contact alone. A Contact without brackets gets them with the alias",
        settle: alias,
    },
];

/// An answer that Kamailio makes itself, where Hawser passes on what was sent.
pub struct OwnAnswer {
    pub what: &'static str,
    pub why: &'static str,
    pub sent: &'static str,
    pub made: &'static str,
}

/// All answers of its own.
pub const OWN_ANSWERS: &[OwnAnswer] = &[OwnAnswer {
    what: "500 for a 503",
    why: "RFC 3261 §16.7 step 6 allows a proxy that knows no other server to pass the 503 on, as Hawser does with its \
          Retry-After; Kamailio makes a 500 of it",
    sent: "503 ",
    made: "500 Service Unavailable",
}];

/// Methods of RFC 3261 and the RFCs that extend it, of which edge.cfg record-routes four.
const KNOWN: [&str; 14] = [
    "ACK",
    "BYE",
    "CANCEL",
    "INFO",
    "INVITE",
    "MESSAGE",
    "NOTIFY",
    "OPTIONS",
    "PRACK",
    "PUBLISH",
    "REFER",
    "REGISTER",
    "SUBSCRIBE",
    "UPDATE",
];

fn record_routes_of_unknown_methods(pair: &mut Pair) -> bool {
    let method = pair.hawser.value("CSeq").and_then(|cseq| cseq.split_whitespace().nth(1));
    let is_unknown = method.is_some_and(|method| !KNOWN.contains(&method));
    is_unknown && take_own(&mut pair.hawser, "Record-Route") + take_own(&mut pair.kamailio, "Record-Route") > 0
}

fn own_record_routes(pair: &mut Pair) -> bool {
    let counts = [&pair.hawser, &pair.kamailio].map(|message| own_count(message, "Record-Route"));
    if counts[0] != counts[1] || counts[0] == 0 {
        return false;
    }
    take_own(&mut pair.hawser, "Record-Route");
    take_own(&mut pair.kamailio, "Record-Route");
    true
}

/// Only where both stand in the same place, and of a request alone: who gets the response does not see it.
fn own_via(pair: &mut Pair) -> bool {
    let (hawser, kamailio) = (top_via(&pair.hawser), top_via(&pair.kamailio));
    let (Some((at, hawser)), Some((same, kamailio))) = (hawser, kamailio) else { return false };
    let is_ours = |via: &str, params: &[&str]| {
        let mut parts = via.trim().split(';');
        let sent_by = parts.next().unwrap_or_default();
        ["SIP/2.0/UDP PROXY", "SIP/2.0/TCP PROXY"].contains(&sent_by)
            && parts.next().is_some_and(|branch| branch.starts_with("branch=z9hG4bK"))
            && parts.all(|part| params.iter().any(|known| part.starts_with(known)))
    };
    if at != same || !is_ours(hawser, &["rport"]) || !is_ours(kamailio, &["i="]) {
        return false;
    }
    pair.hawser.fields.remove(at);
    pair.kamailio.fields.remove(at);
    true
}

fn max_breadth(pair: &mut Pair) -> bool {
    let added = Field { name: "Max-Breadth".to_owned(), value: " 60".to_owned() };
    let is_added = pair.hawser.fields.contains(&added) && !pair.kamailio.fields.contains(&added);
    pair.hawser.fields.retain(|field| !is_added || *field != added);
    is_added
}

fn path(pair: &mut Pair) -> bool {
    let counts = [&pair.hawser, &pair.kamailio].map(|message| own_count(message, "Path"));
    if counts != [1, 1] {
        return false;
    }
    take_own(&mut pair.hawser, "Path");
    take_own(&mut pair.kamailio, "Path");
    true
}

/// Only where the parameter stands with white space or capitals.
fn rport(pair: &mut Pair) -> bool {
    let (Some((at, hawser)), Some((_, kamailio))) = (top_via(&pair.hawser), top_via(&pair.kamailio)) else {
        return false;
    };
    if hawser == kamailio || !hawser.contains("; rPort=") || !kamailio.contains(";rport=") {
        return false;
    }
    let value = &mut pair.hawser.fields[at].value;
    *value = value.replace("; rPort=", ";rport=");
    true
}

/// A value of 70 that has been decremented was 71, which nobody sends.
fn added_max_forwards(pair: &mut Pair) -> bool {
    let added = Field { name: "Max-Forwards".to_owned(), value: " 70".to_owned() };
    let is_added = [&pair.hawser, &pair.kamailio].iter().all(|message| message.fields.contains(&added));
    for message in [&mut pair.hawser, &mut pair.kamailio] {
        message.fields.retain(|field| !is_added || *field != added);
    }
    is_added
}

fn high_max_forwards(pair: &mut Pair) -> bool {
    let left = pair.hawser.value("Max-Forwards").and_then(|left| left.parse::<u32>().ok());
    let is_high = left.is_some_and(|left| left > 70) && pair.kamailio.value("Max-Forwards") == Some("70");
    for message in [&mut pair.hawser, &mut pair.kamailio] {
        message.fields.retain(|field| !is_high || !field.is("Max-Forwards"));
    }
    is_high
}

fn max_forwards(pair: &mut Pair) -> bool {
    let mut values = [&mut pair.hawser, &mut pair.kamailio].map(|message| {
        let field = message.fields.iter_mut().find(|field| field.is("Max-Forwards"));
        field.map(|field| &mut field.value)
    });
    let [Some(hawser), Some(kamailio)] = &mut values else { return false };
    let differ = hawser != kamailio && hawser.trim() == kamailio.trim();
    if differ {
        **kamailio = hawser.clone();
    }
    differ
}

fn received(pair: &mut Pair) -> bool {
    const ADDED: &str = ";received=127.0.0.1";
    let (Some((at, hawser)), Some((_, kamailio))) = (top_via(&pair.hawser), top_via(&pair.kamailio)) else {
        return false;
    };
    if hawser == kamailio || [hawser, kamailio].iter().any(|via| via.matches(ADDED).count() != 1) {
        return false;
    }
    for message in [&mut pair.hawser, &mut pair.kamailio] {
        message.fields[at].value = message.fields[at].value.replace(ADDED, "");
    }
    true
}

fn alias(pair: &mut Pair) -> bool {
    let mut is_there = false;
    for field in pair.kamailio.fields.iter_mut().filter(|field| field.is("Contact")) {
        while let Some((before, rest)) = field.value.split_once(";alias=127.0.0.1~") {
            let end = rest.find([';', '>', ',', '?']).unwrap_or(rest.len());
            field.value = format!("{before}{}", &rest[end..]);
            is_there = true;
        }
        let bare = field.value.trim().strip_prefix('<').and_then(|value| value.strip_suffix('>'));
        let same = pair.hawser.fields.iter().find(|other| other.name == field.name).map(|other| other.value.trim());
        if let Some(bare) = bare.filter(|&bare| is_there && same == Some(bare)) {
            field.value = format!(" {bare}");
        }
    }
    is_there
}

fn top_via(message: &Arrived) -> Option<(usize, &str)> {
    let at = message.fields.iter().position(|field| field.is("Via"))?;
    Some((at, &message.fields[at].value))
}

/// Whether a value of a Route-like field is the proxy's own.
fn is_own(value: &str) -> bool {
    let host = value.trim().trim_start_matches("<sip:").split(['>', ';']).next().unwrap_or_default();
    host.rsplit('@').next() == Some("PROXY")
}

fn own_count(message: &Arrived, name: &str) -> usize {
    let fields = message.fields.iter().filter(|field| field.is(name));
    fields.flat_map(|field| field.value.split(", ")).filter(|value| is_own(value)).count()
}

/// Takes the proxy's own values of a field out, and the field when nothing else is in it; says how many there were.
fn take_own(message: &mut Arrived, name: &str) -> usize {
    let count = own_count(message, name);
    for field in message.fields.iter_mut().filter(|field| field.is(name)) {
        if field.value.split(", ").any(is_own) {
            let others: Vec<&str> = field.value.split(", ").filter(|value| !is_own(value)).collect();
            field.value = others.join(", ");
        }
    }
    message.fields.retain(|field| !(field.is(name) && field.value.is_empty()));
    count
}
