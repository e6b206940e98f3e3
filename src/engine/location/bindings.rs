//! What a 2xx to REGISTER binds (RFC 3261 §10.3, RFC 5626 §6; DESIGN.md, What it does on the wire, 3): changes of this
//! shard's part of the directory, and who is told of them. The home shard is the only writer of its bindings.

use std::time::Duration;

use super::super::io::Level;
use super::super::ports::{Env, Ports, Timer};
use super::notice::Notice;
use super::{Action, Location};
use crate::clock::Time;
use crate::flow::directory::{Binding, Change, Replaced};
use crate::flow::keys::{Keys, Tag};
use crate::ids::{BindingId, FlowRef, ShardId};
use crate::limits::REGISTRATION_MAX;
use crate::proxy::Source;
use crate::proxy::register::{self, Contact, Registration};
use crate::sip::{Message, Span, Uri};
use crate::stats::Counter;

/// A REGISTER that the SIP Server has accepted.
pub(in crate::engine) struct Accepted<'a> {
    pub(in crate::engine) request: &'a Message,
    pub(in crate::engine) registration: &'a Registration,
    /// The 2xx.
    pub(in crate::engine) response: &'a Message,
    pub(in crate::engine) source: &'a Source,
    /// When the REGISTER came.
    pub(in crate::engine) arrived: Time,
}

impl Location {
    /// Binds the Contacts of a REGISTER to the flow that it came by. Answers may come in another order than the server
    /// gave them: what a later REGISTER has said meanwhile stands.
    pub(in crate::engine) fn accept(&mut self, accepted: &Accepted<'_>, env: &Env, ports: &mut Ports, now: Time) {
        let Accepted { request, registration, response, source, arrived } = *accepted;
        let call_id_hash = env.keys.hash64(Tag::CallId, &[request.call_id()]);
        if registration.star {
            for binding in self.directory.remove_aor(&registration.aor) {
                self.let_go(&binding, Counter::BindingRemoved, env, ports);
            }
            return;
        }
        let granted = register::granted(request, registration, response, env.settings.sticky, &env.keys);
        for (contact, seconds) in registration.contacts.iter().zip(granted).filter(|(contact, _)| !contact.superseded) {
            if self.is_old_news(accepted, contact, call_id_hash) {
                continue;
            }
            if seconds == 0 {
                self.remove(contact.id, env, ports);
                continue;
            }
            let lifetime = Duration::from_secs(u64::from(seconds)).min(REGISTRATION_MAX);
            let binding = Binding {
                id: contact.id,
                aor: registration.aor.as_slice().into(),
                contact: contact.uri.all.of(request.buf()).into(),
                contact_hash: contact.contact_hash,
                instance: contact.instance.of(request.buf()).into(),
                reg_id: contact.reg_id,
                flow: Some(source.flow),
                peer: source.peer,
                expires: now.after(lifetime),
                asked: arrived,
                refreshed: now,
                call_id_hash,
                cseq: request.cseq().number,
                ob: contact.reg_id.is_some(),
            };
            self.bind(binding, source.flow, env, ports);
        }
    }

    /// Whether a later REGISTER has spoken of a Contact's phone.
    fn is_old_news(&self, accepted: &Accepted<'_>, contact: &Contact, call_id_hash: u64) -> bool {
        let Accepted { request, registration, source, arrived, .. } = *accepted;
        self.directory.by_aor(&registration.aor).any(|held| {
            let is_plain = contact.instance.is_empty();
            let is_same = || held.is_same_phone(contact.contact_hash, source.flow, source.peer.ip());
            (held.id == contact.id || (is_plain && is_same()))
                && match held.call_id_hash == call_id_hash {
                    // A phone that counts from 1 again after its restart has not been overtaken.
                    true => request.cseq().number < held.cseq && arrived < held.refreshed,
                    false => arrived < held.asked,
                }
        })
    }

    /// Puts a binding into the directory, tells everybody who has to know, and wakes who waits for it.
    pub(super) fn bind(&mut self, binding: Binding, flow: FlowRef, env: &Env, ports: &mut Ports) {
        let (id, until, contact_hash) = (binding.id, binding.expires, binding.contact_hash);
        let (aor, peer) = (binding.aor.clone(), binding.peer);
        let contact_home = contact_home(&binding.contact, env);
        let said = said(&binding.contact, contact_hash, &env.keys);
        let has_former = |former: &&Binding| former.contact_hash != contact_hash;
        let former = self.directory.find(id).filter(has_former);
        let former = former.map(|former| (former.contact.clone(), former.contact_hash));
        let Ok(bound) = self.directory.bind(binding) else {
            ports.count(Counter::LimitBindings);
            self.event(Level::Warn, "registration not bound: too many", peer, aor);
            return self.tell(contact_home, Notice::ForgetContact { contact: contact_hash, until });
        };
        match bound.change {
            Change::New => ports.count(Counter::BindingBound),
            Change::Refreshed => ports.count(Counter::BindingRefreshed),
            Change::Moved { from } => {
                ports.count(Counter::BindingMoved);
                self.tell(from.shard(), Notice::Moved { flow: from, binding: id, to: flow });
            }
        }
        self.let_replaced_go(bound.replaced, env, ports);
        match self.timers.get(&id) {
            Some(timer) if ports.wheel.rearm(*timer, until) => {}
            _ => {
                self.timers.insert(id, ports.wheel.arm(until, Timer::Binding(id)));
            }
        }
        self.tell(flow.shard(), Notice::Bound { flow, binding: id, until });
        if let Some((contact, hash)) = former {
            self.drop_contact(&contact, hash, id, env);
        }
        if contact_home != id.home(env.settings.shards) {
            self.tell(contact_home, Notice::PutContact { contact: contact_hash, binding: id, until });
        }
        if let Some(said) = said {
            self.tell(contact_home, Notice::PutContact { contact: said, binding: id, until });
        }
        for what in self.waiters.wake(id, ports) {
            self.actions.push_back(Action::Wake { what, binding: id, flow });
        }
    }

    /// A binding has been taken back.
    pub(super) fn remove(&mut self, id: BindingId, env: &Env, ports: &mut Ports) {
        if let Some(binding) = self.directory.remove(id) {
            self.let_go(&binding, Counter::BindingRemoved, env, ports);
        }
    }

    fn let_replaced_go(&mut self, replaced: Option<Replaced>, env: &Env, ports: &mut Ports) {
        match replaced {
            Some(Replaced::SameContact(former)) => self.let_go(&former, Counter::BindingRemoved, env, ports),
            Some(Replaced::Oldest(former)) => {
                ports.count(Counter::LimitBindingsPerAor);
                self.let_go(&former, Counter::BindingRemoved, env, ports);
            }
            Some(Replaced::Lost(former)) => {
                ports.count(Counter::LimitBindings);
                self.let_go(&former, Counter::BindingRemoved, env, ports);
                // The registrar may still ask for it: its Contact is nobody else's until it would have expired.
                let forget = Notice::ForgetContact { contact: former.contact_hash, until: former.expires };
                self.tell(contact_home(&former.contact, env), forget);
            }
            None => {}
        }
    }

    /// A binding has been taken out of the directory: everybody who knew of it is told. One whose flow is gone was
    /// counted when that was lost.
    fn let_go(&mut self, binding: &Binding, why: Counter, env: &Env, ports: &mut Ports) {
        if let Some(timer) = self.timers.remove(&binding.id) {
            ports.wheel.cancel(timer);
        }
        if let Some(flow) = binding.flow {
            ports.count(why);
            self.tell(flow.shard(), Notice::Unbound { flow, binding: binding.id });
        }
        self.drop_contact(&binding.contact, binding.contact_hash, binding.id, env);
    }

    /// A binding no longer has this Contact: its home forgets it, when that is another shard.
    fn drop_contact(&mut self, contact: &[u8], contact_hash: u64, binding: BindingId, env: &Env) {
        let contact_home = contact_home(contact, env);
        if contact_home != binding.home(env.settings.shards) {
            self.tell(contact_home, Notice::DropContact { contact: contact_hash, binding });
        }
        if let Some(said) = said(contact, contact_hash, &env.keys) {
            self.tell(contact_home, Notice::DropContact { contact: said, binding });
        }
    }

    /// A binding may have expired.
    pub(in crate::engine) fn on_binding_timer(&mut self, id: BindingId, env: &Env, ports: &mut Ports, now: Time) {
        self.timers.remove(&id);
        match self.directory.expire(id, now) {
            Some(binding) => self.let_go(&binding, Counter::BindingExpired, env, ports),
            None => {
                if let Some(expires) = self.directory.find(id).map(|binding| binding.expires) {
                    self.timers.insert(id, ports.wheel.arm(expires, Timer::Binding(id)));
                }
            }
        }
    }

    /// The owner of a flow says that it is gone. The binding waits for its phone, or for its end.
    pub(super) fn on_flow_gone(&mut self, flow: FlowRef, binding: BindingId, ports: &mut Ports) {
        let had = self.directory.find(binding).and_then(|found| found.flow).filter(|had| had.is_same(flow));
        if let Some(had) = had
            && let Some(lost) = self.directory.flow_gone(binding, had)
        {
            let (peer, aor) = (lost.peer, lost.aor.clone());
            ports.count(Counter::BindingFlowLost);
            self.event(Level::Info, "phone lost: its connection has closed", peer, aor);
        }
    }
}

/// The shard that holds a Contact's part of the directory.
fn contact_home(contact: &[u8], env: &Env) -> ShardId {
    let uri = Uri::parse(contact, Span::new(0, contact.len()));
    let user = uri.map_or(0, |uri| env.user16_of(&uri, contact));
    BindingId { user, hash: 0 }.home(env.settings.shards)
}

/// The name under which everybody's word for a Contact is known, for one that is no more than that.
fn said(contact: &[u8], contact_hash: u64, keys: &Keys) -> Option<u64> {
    let uri = Uri::parse(contact, Span::new(0, contact.len())).ok()?;
    let mut canonical = Vec::new();
    uri.write_aor(contact, &mut canonical);
    (keys.contact(&canonical, None) != contact_hash).then(|| keys.contact_said(&canonical))
}
