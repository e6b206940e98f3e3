//! The registrar: bindings by address-of-record (RFC 3261 §10.3, RFC 3327 §5.3, RFC 5626 §6).
//!
//! Owns: contacts, their Path and expiry, and the answer to a REGISTER. Must not touch: sockets, calls.
//! Left out on purpose: authentication, a store that lasts, q-values.

mod pair;

pub use pair::Shared;

use crate::net::Link;
use crate::text::{self, Message, Name, Uri};
use std::collections::HashMap;
use std::fmt::Write;

const BINDINGS_PER_AOR_MAX: usize = 16;
/// Changes that nobody asks for are forgotten.
const CHANGED_LEN_MAX: usize = 10_000;

/// What the registrar does about Path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPolicy {
    /// Kept when it comes.
    Keep,
    /// Not known here: ignored.
    Ignore,
    /// Kept, but 420 when the phone does not say `Supported: path` (RFC 3327 §5.3).
    Strict,
}

#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub path: PathPolicy,
    pub expires_min_s: u32,
    pub expires_s: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { path: PathPolicy::Keep, expires_min_s: 1, expires_s: 3_600 }
    }
}

/// The first hop towards a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Route values, in order.
    Path(Vec<Box<str>>),
    /// The proxy that brought the REGISTER, without Path: everything goes to its address.
    Proxy(Box<str>),
    /// No proxy at all: the way that the REGISTER came.
    Direct(Link),
}

/// One contact of an address-of-record.
#[derive(Clone, Debug)]
pub struct Binding {
    pub contact: Box<str>,
    pub hop: Hop,
    pub instance: Option<Box<str>>,
    reg_id: Option<Box<str>>,
    call_id: Box<str>,
    cseq: u32,
    pub expires_us: u64,
}

impl Binding {
    /// Stands for somebody who is reached at this URI, through the proxy, without a registration.
    pub fn beyond(uri: &str) -> Self {
        Self {
            contact: uri.into(),
            hop: Hop::Proxy(uri.into()),
            instance: None,
            reg_id: None,
            call_id: "".into(),
            cseq: 0,
            expires_us: u64::MAX,
        }
    }
}

/// The answer to a REGISTER.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: u16,
    pub reason: &'static str,
    pub lines: String,
}

impl Answer {
    fn refuse(code: u16, reason: &'static str, lines: impl Into<String>) -> Self {
        Self { code, reason, lines: lines.into() }
    }
}

/// All bindings.
pub struct Registrar {
    pub policy: Policy,
    bindings: HashMap<String, Vec<Binding>>,
    /// What has changed since somebody asked for it.
    changed: Vec<Shared>,
}

impl Registrar {
    pub fn new(policy: Policy) -> Self {
        Self { policy, bindings: HashMap::new(), changed: Vec::new() }
    }

    /// The live bindings of an address-of-record, the latest first; `None` when it is not known at all.
    pub fn lookup(&self, aor: &str, now_us: u64) -> Option<impl Iterator<Item = &Binding>> {
        let bindings = self.bindings.get(aor)?;
        Some(bindings.iter().rev().filter(move |binding| binding.expires_us > now_us))
    }

    /// Forgets one contact, such as one whose flow has failed (RFC 5626 §5.3.1).
    pub fn forget(&mut self, aor: &str, contact: &str) {
        if let Some(bindings) = self.bindings.get_mut(aor) {
            bindings.retain(|binding| &*binding.contact != contact);
        }
    }

    /// All live bindings with their address-of-record.
    pub fn all(&self, now_us: u64) -> impl Iterator<Item = (&str, &Binding)> {
        self.bindings
            .iter()
            .flat_map(|(aor, bindings)| bindings.iter().map(move |binding| (aor.as_str(), binding)))
            .filter(move |(_, binding)| binding.expires_us > now_us)
    }

    /// Carries out a REGISTER that came over `link`.
    pub fn register(&mut self, message: &Message<'_>, link: Link, now_us: u64) -> Answer {
        let Some(aor) = message.first(Name::To).and_then(|to| Uri::parse(text::uri_of(to))).map(|uri| uri.aor()) else {
            return Answer::refuse(400, "Bad To", "");
        };
        let supports_path = message.lists(Name::Supported, "path");
        let path: Vec<Box<str>> = match self.policy.path {
            PathPolicy::Ignore => Vec::new(),
            _ => message.values(Name::Path).map(Box::from).collect(),
        };
        if self.policy.path == PathPolicy::Strict && !path.is_empty() && !supports_path {
            return Answer::refuse(420, "Bad Extension", "Unsupported: path\r\n");
        }
        let (Some(call_id), Some((cseq, _))) = (message.first(Name::CallId), message.cseq()) else {
            return Answer::refuse(400, "Bad Call-ID or CSeq", "");
        };
        let header_expires = message.first(Name::Expires).and_then(|value| value.parse::<u32>().ok());
        let vias = message.values(Name::Via).count();
        let hop = match (path.is_empty(), message.top_via()) {
            (false, _) => Hop::Path(path.clone()),
            (true, Some(via)) if vias > 1 => {
                Hop::Proxy(format!("sip:{};transport={}", via.sent_by, via.transport.to_ascii_lowercase()).into())
            }
            _ => Hop::Direct(link),
        };
        let contacts: Vec<&str> = message.values(Name::Contact).collect();
        if contacts == ["*"] {
            if header_expires != Some(0) {
                return Answer::refuse(400, "Contact * needs Expires 0", "");
            }
            let gone = self.bindings.remove(&aor).unwrap_or_default();
            gone.iter().for_each(|binding| self.changed.extend(Shared::gone(&aor, binding, cseq)));
            return Answer { code: 200, reason: "OK", lines: String::new() };
        }
        let asked = Asked { aor: &aor, call_id, cseq, header_expires, hop, now_us };
        self.bindings.entry(aor.clone()).or_default().retain(|binding| binding.expires_us > now_us);
        let mut is_outbound = false;
        for contact in contacts {
            match self.bind(&asked, contact) {
                Ok(is_flow) => is_outbound |= is_flow && path.first().is_some_and(|path| path.contains(";ob")),
                Err(refusal) => return refusal,
            }
        }
        self.changed.drain(..self.changed.len().saturating_sub(CHANGED_LEN_MAX));
        let mut lines = self.contact_lines(&aor, now_us);
        if supports_path {
            for value in &path {
                write!(lines, "Path: {value}\r\n").expect("a String takes everything");
            }
        }
        if is_outbound && message.lists(Name::Supported, "outbound") {
            lines.push_str("Require: outbound\r\n");
        }
        Answer { code: 200, reason: "OK", lines }
    }

    /// Binds, refreshes or removes one Contact. Says whether it names a flow of its own (RFC 5626 §4.2).
    fn bind(&mut self, asked: &Asked<'_>, contact: &str) -> Result<bool, Answer> {
        let Asked { aor, call_id, cseq, now_us, .. } = *asked;
        let uri = text::uri_of(contact);
        let expires = text::param(contact, "expires").and_then(|value| value.parse().ok());
        let expires_s = expires.or(asked.header_expires).unwrap_or(self.policy.expires_s);
        if expires_s > 0 && expires_s < self.policy.expires_min_s {
            let line = format!("Min-Expires: {}\r\n", self.policy.expires_min_s);
            return Err(Answer::refuse(423, "Interval Too Brief", line));
        }
        let instance: Option<Box<str>> = text::param(contact, "+sip.instance").map(Box::from);
        let reg_id: Option<Box<str>> = text::param(contact, "reg-id").map(Box::from);
        let is_flow = instance.is_some() && reg_id.is_some();
        let bindings = self.bindings.entry(aor.to_owned()).or_default();
        let known = bindings.iter().position(|binding| {
            if is_flow && binding.instance.is_some() {
                binding.instance == instance && binding.reg_id == reg_id
            } else {
                &*binding.contact == uri
            }
        });
        if let Some(at) = known {
            let binding = &bindings[at];
            if &*binding.call_id == call_id && cseq <= binding.cseq {
                return Err(Answer::refuse(500, "CSeq Out Of Order", ""));
            }
            let old = bindings.remove(at);
            if expires_s == 0 {
                self.changed.extend(Shared::gone(aor, &old, cseq));
            }
        }
        if expires_s == 0 {
            return Ok(is_flow);
        }
        if bindings.len() == BINDINGS_PER_AOR_MAX {
            bindings.remove(0);
        }
        let expires_us = now_us + u64::from(expires_s.min(self.policy.expires_s)) * 1_000_000;
        bindings.push(Binding {
            contact: uri.into(),
            hop: asked.hop.clone(),
            instance,
            reg_id,
            call_id: call_id.into(),
            cseq,
            expires_us,
        });
        self.changed.extend(bindings.last().and_then(|binding| Shared::of(aor, binding, now_us)));
        Ok(is_flow)
    }

    /// The Contacts of a 200: all that are bound now, with the time that is left to each.
    fn contact_lines(&self, aor: &str, now_us: u64) -> String {
        let mut lines = String::new();
        for binding in self.bindings.get(aor).into_iter().flatten() {
            let left_s = binding.expires_us.saturating_sub(now_us).div_ceil(1_000_000);
            write!(lines, "Contact: <{}>;expires={left_s}", binding.contact).expect("a String takes everything");
            if let (Some(instance), Some(reg_id)) = (&binding.instance, &binding.reg_id) {
                write!(lines, ";+sip.instance=\"{instance}\";reg-id={reg_id}").expect("a String takes everything");
            }
            lines.push_str("\r\n");
        }
        lines
    }
}

/// What a REGISTER says of all of its Contacts.
struct Asked<'a> {
    aor: &'a str,
    call_id: &'a str,
    cseq: u32,
    header_expires: Option<u32>,
    hop: Hop,
    now_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link::Udp { socket: 0, peer: "127.0.0.1:5060".parse().expect("an address") }
    }

    fn register(registrar: &mut Registrar, cseq: u32, fields: &str) -> Answer {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKp\r\n\
             Via: SIP/2.0/TLS 192.0.2.1;branch=z9hG4bKq\r\nTo: <sip:Ann@EXAMPLE.com;x>\r\nFrom: <sip:Ann@example.com>;tag=1\r\n\
             Call-ID: c\r\nCSeq: {cseq} REGISTER\r\n{fields}\r\n"
        );
        registrar.register(&Message::parse(text.as_bytes()).expect("a message"), link(), 1_000_000)
    }

    fn contacts(registrar: &Registrar) -> Vec<&str> {
        registrar.lookup("Ann@example.com", 1_000_000).into_iter().flatten().map(|binding| &*binding.contact).collect()
    }

    #[test]
    fn path_is_kept_and_echoed_to_those_who_know_it() {
        let mut registrar = Registrar::new(Policy::default());
        let with_path = "Contact: <sip:a@192.0.2.1>;expires=60\r\nPath: <sip:t@p;lr>\r\n";
        let answer = register(&mut registrar, 1, &format!("Supported: path\r\n{with_path}"));
        assert_eq!(answer.lines, "Contact: <sip:a@192.0.2.1>;expires=60\r\nPath: <sip:t@p;lr>\r\n");
        let hops: Vec<Hop> =
            registrar.lookup("Ann@example.com", 0).into_iter().flatten().map(|binding| binding.hop.clone()).collect();
        assert_eq!(hops, [Hop::Path(vec!["<sip:t@p;lr>".into()])]);
        registrar.policy.path = PathPolicy::Strict;
        let answer = register(&mut registrar, 2, with_path);
        assert_eq!((answer.code, answer.lines.as_str()), (420, "Unsupported: path\r\n"));
        registrar.policy.path = PathPolicy::Ignore;
        assert_eq!(register(&mut registrar, 3, with_path).lines, "Contact: <sip:a@192.0.2.1>;expires=60\r\n");
        let hops: Vec<Hop> =
            registrar.lookup("Ann@example.com", 0).into_iter().flatten().map(|binding| binding.hop.clone()).collect();
        assert_eq!(hops, [Hop::Proxy("sip:10.0.0.1:5060;transport=udp".into())]);
    }

    #[test]
    fn a_flow_is_replaced_by_its_later_self() {
        let mut registrar = Registrar::new(Policy::default());
        let flow =
            |host: &str, id: u32| format!("Contact: <sip:a@{host}>;+sip.instance=\"<urn:uuid:1>\";reg-id={id}\r\n");
        register(&mut registrar, 1, &flow("one", 1));
        register(&mut registrar, 2, &flow("two", 2));
        register(&mut registrar, 3, &flow("three", 1));
        assert_eq!(contacts(&registrar), ["sip:a@three", "sip:a@two"]);
    }

    #[test]
    fn old_numbers_brief_intervals_and_stars_are_treated_by_the_book() {
        let mut registrar = Registrar::new(Policy { expires_min_s: 30, ..Policy::default() });
        assert_eq!(register(&mut registrar, 5, "Contact: <sip:a@h>\r\n").code, 200);
        assert_eq!(register(&mut registrar, 5, "Contact: <sip:a@h>\r\n").code, 500);
        let brief = register(&mut registrar, 6, "Contact: <sip:a@h>;expires=10\r\n");
        assert_eq!((brief.code, brief.lines.as_str()), (423, "Min-Expires: 30\r\n"));
        assert_eq!(register(&mut registrar, 7, "").lines, "Contact: <sip:a@h>;expires=3600\r\n");
        assert_eq!(register(&mut registrar, 8, "Contact: *\r\n").code, 400);
        assert_eq!(register(&mut registrar, 9, "Contact: *\r\nExpires: 0\r\n").code, 200);
        assert_eq!(contacts(&registrar), [""; 0]);
        register(&mut registrar, 10, "Contact: <sip:a@h>, <sip:b@h>;expires=60\r\n");
        assert_eq!(contacts(&registrar), ["sip:b@h", "sip:a@h"]);
        register(&mut registrar, 11, "Contact: <sip:a@h>;expires=0\r\n");
        assert_eq!(contacts(&registrar), ["sip:b@h"]);
    }
}
