//! Bindings as the two servers of a pair tell them to each other.
//!
//! Owns: the form in which a binding travels, and which word counts when both have one. Must not touch: connections.
//! Left out on purpose: a phone that registers without any proxy, whose way back is a connection of one server.

use super::{Binding, Hop, Registrar};
use serde::{Deserialize, Serialize};

/// One binding; gone when nothing is left of its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    pub aor: String,
    pub contact: Box<str>,
    /// Route values; empty: the phone is reached by `proxy`.
    path: Vec<Box<str>>,
    proxy: Option<Box<str>>,
    instance: Option<Box<str>>,
    reg_id: Option<Box<str>>,
    call_id: Box<str>,
    cseq: u32,
    pub expires_in_ms: u64,
}

impl Shared {
    pub(super) fn of(aor: &str, binding: &Binding, now_us: u64) -> Option<Self> {
        let (path, proxy) = match &binding.hop {
            Hop::Path(path) => (path.clone(), None),
            Hop::Proxy(uri) => (Vec::new(), Some(uri.clone())),
            Hop::Direct(_) => return None,
        };
        Some(Self {
            aor: aor.to_owned(),
            contact: binding.contact.clone(),
            path,
            proxy,
            instance: binding.instance.clone(),
            reg_id: binding.reg_id.clone(),
            call_id: binding.call_id.clone(),
            cseq: binding.cseq,
            expires_in_ms: binding.expires_us.saturating_sub(now_us) / 1_000,
        })
    }

    /// What is told of a binding that the REGISTER number `cseq` has taken back.
    pub(super) fn gone(aor: &str, binding: &Binding, cseq: u32) -> Option<Self> {
        let cseq = cseq.max(binding.cseq.saturating_add(1));
        Some(Self { cseq, expires_in_ms: 0, ..Self::of(aor, binding, 0)? })
    }

    /// What two words about one binding have in common.
    pub fn key(&self) -> (String, String) {
        let name = match (&self.instance, &self.reg_id) {
            (Some(instance), Some(reg_id)) => format!("{instance} {reg_id}"),
            _ => self.contact.to_string(),
        };
        (self.aor.clone(), name)
    }

    fn names(&self, binding: &Binding) -> bool {
        if self.instance.is_some() && self.reg_id.is_some() {
            self.instance == binding.instance && self.reg_id == binding.reg_id
        } else {
            self.contact == binding.contact
        }
    }
}

impl Registrar {
    /// What has changed since the last call.
    pub fn news(&mut self) -> Vec<Shared> {
        std::mem::take(&mut self.changed)
    }

    /// Every live binding that can be told.
    pub fn all_shared(&self, now_us: u64) -> Vec<Shared> {
        self.all(now_us).filter_map(|(aor, binding)| Shared::of(aor, binding, now_us)).collect()
    }

    /// Takes what the partner tells. An older word does not count: a server that was frozen may tell, when it wakes,
    /// what has long changed.
    pub fn adopt(&mut self, told: Shared, now_us: u64) {
        let bindings = self.bindings.entry(told.aor.clone()).or_default();
        if let Some(at) = bindings.iter().position(|binding| told.names(binding)) {
            if bindings[at].call_id == told.call_id && bindings[at].cseq >= told.cseq {
                return;
            }
            bindings.remove(at);
        }
        if told.expires_in_ms == 0 || bindings.len() == super::BINDINGS_PER_AOR_MAX {
            return;
        }
        let hop = match told.proxy {
            Some(uri) if told.path.is_empty() => Hop::Proxy(uri),
            _ => Hop::Path(told.path),
        };
        bindings.push(Binding {
            contact: told.contact,
            hop,
            instance: told.instance,
            reg_id: told.reg_id,
            call_id: told.call_id,
            cseq: told.cseq,
            expires_us: now_us.saturating_add(told.expires_in_ms.saturating_mul(1_000)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Link;
    use crate::registrar::Policy;
    use crate::text::Message;

    fn register(registrar: &mut Registrar, cseq: u32, expires_s: u32, path: &str) {
        let text = format!(
            "REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=1\r\n\
             To: <sip:a@x>\r\nCall-ID: c\r\nCSeq: {cseq} REGISTER\r\nSupported: path\r\nPath: <sip:{path};lr>\r\n\
             Contact: <sip:a@h>;expires={expires_s};+sip.instance=\"<urn:uuid:1>\";reg-id=1\r\n\r\n"
        );
        let link = Link::Udp { socket: 0, peer: "10.0.0.1:5060".parse().expect("an address") };
        let answer = registrar.register(&Message::parse(text.as_bytes()).expect("a message"), link, 0);
        assert_eq!(answer.code, 200);
    }

    fn hops(registrar: &Registrar) -> Vec<Hop> {
        registrar.all(0).map(|(_, binding)| binding.hop.clone()).collect()
    }

    #[test]
    fn what_one_registrar_learns_the_other_knows_and_an_older_word_does_not_count() {
        let (mut one, mut other) = (Registrar::new(Policy::default()), Registrar::new(Policy::default()));
        register(&mut one, 1, 60, "first");
        let first = one.news();
        register(&mut one, 2, 60, "second");
        let second = one.news();
        for told in second.iter().chain(&first) {
            let text = serde_json::to_string(told).expect("JSON");
            other.adopt(serde_json::from_str(&text).expect("what was written"), 0);
        }
        assert_eq!(hops(&other), [Hop::Path(vec!["<sip:second;lr>".into()])]);
        assert_eq!(other.news(), [], "what the partner told is not told back");
        register(&mut one, 3, 0, "second");
        one.news().into_iter().for_each(|told| other.adopt(told, 0));
        assert_eq!((hops(&one), hops(&other)), (Vec::new(), Vec::new()));
    }
}
