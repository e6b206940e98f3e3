//! This shard's part of the directory: what a 2xx to REGISTER binds, where a binding is, and who waits for a
//! phone to come back. The home shard is the only writer of its bindings.

use std::time::Duration;

use super::location::Notice;
use super::mail::{AckMail, Answer, By, Letter, Whereabouts};
use super::{Engine, Level, Located, Mail, Source, Timer};
use crate::clock::Time;
use crate::flow::directory::{Binding, Change, Replaced};
use crate::flow::keys::Tag;
use crate::ids::{BindingId, ConnId, FlowRef, ShardId};
use crate::limits::{REGISTRATION_MAX, WAITERS_PER_BINDING_MAX};
use crate::proxy::register::{self, Registration};
use crate::sip::{Message, Name, NameAddr, Span, Uri};
use crate::stats::Counter;
use crate::transaction::branch::TxnId;
use crate::wheel::TimerId;

/// Somebody who waits for a phone to come back.
#[derive(Debug)]
pub(super) struct Waiter {
    binding: BindingId,
    timer: Option<TimerId>,
    what: Waits,
}

/// Who asks where a binding is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) shard: ShardId,
    pub(super) txn: TxnId,
}

/// What waits.
#[derive(Debug)]
pub(super) enum Waits {
    /// A request, in its exchange.
    Txn(Asker),
    /// An ACK to a 2xx.
    Ack { message: Box<Message>, source: Source },
    /// A response, or another message that is ready to go.
    Bytes(Vec<u8>),
}

/// What the connection table says of a Request-URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is this binding's.
    Binding(BindingId),
    /// Phones have registered it, and none of them may be meant. It is no device's, for it is a phone's.
    Unclear,
    /// Nobody has registered it.
    Nobody,
}

impl Waiter {
    /// Bytes that it holds of a message; a request's are its exchange's.
    pub(super) fn held_len(&self) -> u64 {
        match &self.what {
            Waits::Txn(_) => 0,
            Waits::Ack { message, .. } => message.held_len() as u64,
            Waits::Bytes(bytes) => bytes.capacity() as u64,
        }
    }
}

impl Engine {
    // --- binding ---------------------------------------------------------------------------------------

    /// The SIP Server has accepted a REGISTER: its Contacts are bound to the flow that it came by. Answers may
    /// come in another order than the server gave them: what a later REGISTER has said meanwhile stands.
    pub(super) fn bind_contacts(
        &mut self,
        request: &Message,
        registration: &Registration,
        response: &Message,
        source: &Source,
        arrived: Time,
        now: Time,
    ) {
        let call_id_hash = self.env.keys.hash64(Tag::CallId, &[request.call_id()]);
        let cseq = request.cseq().number;
        if registration.star {
            for binding in self.directory.remove_aor(&registration.aor) {
                self.let_go(&binding, Counter::BindingRemoved);
            }
            return;
        }
        let granted = register::granted(request, registration, response, self.env.settings.sticky, &self.env.keys);
        for (contact, seconds) in registration.contacts.iter().zip(granted).filter(|(contact, _)| !contact.superseded) {
            let is_old_news = self.directory.by_aor(&registration.aor).any(|held| {
                let is_plain = contact.instance.is_empty();
                let is_same = || held.is_same_phone(contact.contact_hash, source.flow, source.peer.ip());
                (held.id == contact.id || (is_plain && is_same()))
                    && match held.call_id_hash == call_id_hash {
                        // A phone that counts from 1 again after its restart has not been overtaken.
                        true => cseq < held.cseq && arrived < held.refreshed,
                        false => arrived < held.asked,
                    }
            });
            if is_old_news {
                continue;
            }
            if seconds == 0 {
                if let Some(binding) = self.directory.remove(contact.id) {
                    self.let_go(&binding, Counter::BindingRemoved);
                }
                continue;
            }
            let lifetime = Duration::from_secs(u64::from(seconds)).min(REGISTRATION_MAX);
            self.bind(
                Binding {
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
                    cseq,
                    ob: contact.reg_id.is_some(),
                },
                source.flow,
                self.user16_of(&contact.uri, request.buf()),
            );
        }
    }

    fn bind(&mut self, binding: Binding, flow: FlowRef, contact_user: u16) {
        let (id, expires, contact_hash) = (binding.id, binding.expires, binding.contact_hash);
        let contact_home = BindingId { user: contact_user, hash: 0 }.home(self.env.settings.shards);
        let aor = binding.aor.clone();
        let peer = binding.peer;
        let said = self.said(&binding.contact, contact_hash);
        let former_contact = self
            .directory
            .find(id)
            .filter(|former| former.contact_hash != contact_hash)
            .map(|former| (former.contact.clone(), former.contact_hash));
        let bound = match self.directory.bind(binding) {
            Ok(bound) => bound,
            Err(_) => {
                self.count(Counter::LimitBindings);
                self.event("registration not bound: too many", Some(peer), &aor);
                return self
                    .mail(contact_home, Mail::Notice(Notice::ForgetContact { contact: contact_hash, until: expires }));
            }
        };
        match bound.change {
            Change::New => self.count(Counter::BindingBound),
            Change::Refreshed => self.count(Counter::BindingRefreshed),
            Change::Moved { from } => {
                self.count(Counter::BindingMoved);
                self.mail(from.shard(), Mail::Notice(Notice::Moved { flow: from, binding: id, to: flow }));
            }
        }
        match bound.replaced {
            Some(Replaced::SameContact(former)) => self.let_go(&former, Counter::BindingRemoved),
            Some(Replaced::Oldest(former)) => {
                self.count(Counter::LimitBindingsPerAor);
                self.let_go(&former, Counter::BindingRemoved);
            }
            Some(Replaced::Lost(former)) => {
                self.count(Counter::LimitBindings);
                self.let_go(&former, Counter::BindingRemoved);
                self.forget_contact(&former);
            }
            None => {}
        }
        match self.binding_timers.get(&id) {
            Some(timer) if self.ports.wheel.rearm(*timer, expires) => {}
            _ => {
                let timer = self.ports.wheel.arm(expires, Timer::Binding(id));
                self.binding_timers.insert(id, timer);
            }
        }
        self.mail(flow.shard(), Mail::Notice(Notice::Bound { flow, binding: id, until: expires }));
        if let Some((contact, hash)) = former_contact {
            self.drop_contact(&contact, hash, id);
        }
        if contact_home != id.home(self.env.settings.shards) {
            self.mail(
                contact_home,
                Mail::Notice(Notice::PutContact { contact: contact_hash, binding: id, until: expires }),
            );
        }
        if let Some(said) = said {
            self.mail(contact_home, Mail::Notice(Notice::PutContact { contact: said, binding: id, until: expires }));
        }
        self.wake(id, flow);
    }

    /// A binding has been taken out of the directory: everybody who knew of it is told. One whose flow is gone was
    /// counted when that was lost.
    fn let_go(&mut self, binding: &Binding, why: Counter) {
        if let Some(timer) = self.binding_timers.remove(&binding.id) {
            self.ports.wheel.cancel(timer);
        }
        if let Some(flow) = binding.flow {
            self.count(why);
            self.mail(flow.shard(), Mail::Notice(Notice::Unbound { flow, binding: binding.id }));
        }
        self.drop_contact(&binding.contact, binding.contact_hash, binding.id);
    }

    /// A binding no longer has this Contact: its home forgets it, when that is another shard.
    fn drop_contact(&mut self, contact: &[u8], contact_hash: u64, binding: BindingId) {
        let contact_home = self.contact_home(contact);
        if contact_home != binding.home(self.env.settings.shards) {
            self.mail(contact_home, Mail::Notice(Notice::DropContact { contact: contact_hash, binding }));
        }
        if let Some(said) = self.said(contact, contact_hash) {
            self.mail(contact_home, Mail::Notice(Notice::DropContact { contact: said, binding }));
        }
    }

    /// The name under which everybody's word for a Contact is known, for one that is no more than that.
    fn said(&self, contact: &[u8], contact_hash: u64) -> Option<u64> {
        let uri = Uri::parse(contact, Span::new(0, contact.len())).ok()?;
        let mut canonical = Vec::new();
        uri.write_aor(contact, &mut canonical);
        (self.env.keys.contact(&canonical, None) != contact_hash).then(|| self.env.keys.contact_said(&canonical))
    }

    /// There is no room for a binding that the registrar may still ask for: its Contact is nobody else's until it
    /// would have expired.
    fn forget_contact(&mut self, binding: &Binding) {
        let contact_home = self.contact_home(&binding.contact);
        self.mail(
            contact_home,
            Mail::Notice(Notice::ForgetContact { contact: binding.contact_hash, until: binding.expires }),
        );
    }

    fn contact_home(&self, contact: &[u8]) -> ShardId {
        BindingId { user: self.contact_user16_of(contact), hash: 0 }.home(self.env.settings.shards)
    }

    pub(super) fn on_binding_timer(&mut self, id: BindingId, now: Time) {
        self.binding_timers.remove(&id);
        match self.directory.expire(id, now) {
            Some(binding) => self.let_go(&binding, Counter::BindingExpired),
            None => {
                if let Some(expires) = self.directory.find(id).map(|binding| binding.expires) {
                    let timer = self.ports.wheel.arm(expires, Timer::Binding(id));
                    self.binding_timers.insert(id, timer);
                }
            }
        }
    }

    /// The owner of a flow says that it is gone. The binding waits for its phone, or for its end.
    pub(super) fn on_flow_gone(&mut self, flow: FlowRef, binding: BindingId) {
        let had = self.directory.find(binding).and_then(|found| found.flow).filter(|had| had.is_same(flow));
        if let Some(had) = had
            && let Some(lost) = self.directory.flow_gone(binding, had)
        {
            let (peer, aor) = (lost.peer, lost.aor.clone());
            self.count(Counter::BindingFlowLost);
            self.tell(Level::Info, "phone lost: its connection has closed", Some(peer), &aor);
        }
    }

    // --- where a binding is ----------------------------------------------------------------------------

    /// The flow of a binding; one that is known to be gone counts as none, and is taken from it.
    fn flow_of(&mut self, binding: BindingId, not: Option<FlowRef>) -> Option<FlowRef> {
        let flow = self.directory.find(binding)?.flow?;
        if not.is_some_and(|not| not.is_same(flow)) {
            self.on_flow_gone(flow, binding);
            return None;
        }
        // Its loss may be known here before the directory has heard of it.
        if let FlowRef::Stream { shard, conn, .. } = flow
            && shard == self.me()
            && !self.takes_requests(conn)
        {
            self.on_flow_gone(flow, binding);
            return None;
        }
        Some(flow)
    }

    pub(super) fn on_resolve(&mut self, asker: Asker, asked: Whereabouts, now: Time) {
        let Whereabouts { binding, not, wait } = asked;
        match self.flow_of(binding, not) {
            Some(flow) => {
                self.count(if not.is_some() { Counter::ResolvedMoved } else { Counter::ResolvedFound });
                self.say_where(asker, Some(flow));
            }
            None if !self.wait_for(binding, wait, Waits::Txn(asker), now) => {
                self.count(Counter::ResolvedMissing);
                self.say_where(asker, None);
            }
            None => {}
        }
    }

    fn say_where(&mut self, asker: Asker, flow: Option<FlowRef>) {
        self.mail(asker.shard, Mail::Answer { txn: asker.txn, answer: Answer::Binding(flow) });
    }

    pub(super) fn on_deliver(&mut self, binding: BindingId, not: Option<FlowRef>, letter: Letter, now: Time) {
        let Letter { bytes, binding: for_whom, txn, by } = letter;
        let by = match not {
            Some(gone) => by.without(gone),
            None => by,
        };
        let letter = |by| Letter { bytes, binding: for_whom, txn, by };
        let unsent = match (self.flow_of(binding, not), by) {
            (Some(flow), by) => self.send(flow, letter(by)),
            (None, By::BindingOr(named)) => self.send(*named, letter(By::Flow)),
            (None, by @ (By::Binding | By::Flow)) => Err(letter(by)),
        };
        if let Err(letter) = unsent
            && !self.wait_for(binding, self.env.settings.live.flow_grace, Waits::Bytes(letter.bytes), now)
        {
            self.count(Counter::ResponseConnectionGone);
        }
    }

    pub(super) fn on_ack_mail(&mut self, ack: AckMail, now: Time) {
        let AckMail { message, source, binding, not } = ack;
        let gone = not.filter(|flow| flow.is_stream());
        let address = not.filter(|flow| !flow.is_stream());
        match self.flow_of(binding, gone).or(address) {
            Some(flow) => self.forward_ack_on(message, &source, flow, Some(binding)),
            None => {
                if !self.wait_for(binding, self.env.settings.live.flow_grace, Waits::Ack { message, source }, now) {
                    self.count(Counter::AckFlowGone);
                }
            }
        }
    }

    // --- waiting for a phone to come back ----------------------------------------------------------------

    /// `false` when nobody may wait, or too many do. Those of one binding are few: each that has waited in vain is looked
    /// for among them, and one phone could else make as many wait as there are transactions.
    fn wait_for(&mut self, binding: BindingId, wait: Duration, what: Waits, now: Time) -> bool {
        if wait.is_zero() {
            return false;
        }
        if self.waiting.get(&binding).is_some_and(|waiters| waiters.len() >= WAITERS_PER_BINDING_MAX) {
            self.count(Counter::LimitWaitersPerBinding);
            return false;
        }
        if self.waiters_are_full() && !matches!(what, Waits::Txn(_)) {
            self.count(Counter::LimitTransactionLen);
            return false;
        }
        // The timer needs the slot's name.
        let Some(id) = self.waiters.insert(Waiter { binding, timer: None, what }) else {
            self.count(Counter::LimitTransactions);
            return false;
        };
        let timer = self.ports.wheel.arm(now.after(wait), Timer::Waiter(id));
        if let Some(waiter) = self.waiters.get_mut(id) {
            waiter.timer = Some(timer);
            self.kept.waiter_came(waiter);
        }
        self.waiting.entry(binding).or_default().push(id);
        self.count(Counter::GraceBegun);
        true
    }

    /// A binding has a flow again.
    fn wake(&mut self, binding: BindingId, flow: FlowRef) {
        for id in self.waiting.remove(&binding).unwrap_or_default() {
            let Some(waiter) = self.waiters.remove(id) else { continue };
            self.kept.waiter_went(&waiter);
            if let Some(timer) = waiter.timer {
                self.ports.wheel.cancel(timer);
            }
            self.count(Counter::GraceRescued);
            match waiter.what {
                Waits::Txn(asker) => self.say_where(asker, Some(flow)),
                Waits::Ack { message, source } => {
                    self.forward_ack_on(message, &source, flow, Some(binding));
                }
                Waits::Bytes(bytes) => {
                    if let Err(bytes) = self.send_on(flow, Some(binding), bytes, None) {
                        self.ports.pool.give(bytes);
                    }
                }
            }
        }
    }

    pub(super) fn on_waiter_timer(&mut self, id: ConnId) {
        let Some(waiter) = self.waiters.remove(id) else { return };
        self.kept.waiter_went(&waiter);
        if let Some(list) = self.waiting.get_mut(&waiter.binding) {
            list.retain(|other| *other != id);
            if list.is_empty() {
                self.waiting.remove(&waiter.binding);
            }
        }
        self.count(Counter::GraceFailed);
        match waiter.what {
            Waits::Txn(asker) => self.say_where(asker, None),
            Waits::Ack { message, .. } => {
                self.count(Counter::AckFlowGone);
                self.recycle_message(message);
            }
            Waits::Bytes(bytes) => {
                self.count(Counter::ResponseConnectionGone);
                self.ports.pool.give(bytes);
            }
        }
    }

    // --- the connection table ----------------------------------------------------------------------------

    /// The binding that a Request-URI of the server side means: by AOR, or by registered Contact.
    ///
    /// A Contact that shows no more than what its phone says of itself is found for requests to that phone's AOR alone
    /// ([`Keys::contact`](crate::flow::keys::Keys::contact)): else it would take the calls of a device, a server or another
    /// user whose URI it is. Two phones may have the same: then To has to tell whose it
    /// is, and when it does not, nobody's phone rings. One that says another user's name must not get that
    /// user's calls: where the Contact's user is not the AOR's, To must not be the user whose name it carries.
    pub(super) fn look_up(&self, request: &Message, now: Time) -> Found {
        let Some(uri) = request.request_uri() else { return Found::Nobody };
        let mut canonical = Vec::new();
        uri.write_aor(request.buf(), &mut canonical);
        // One whose flow is gone may come back, and is told apart from nobody.
        if let Some(binding) = self.directory.by_aor(&canonical).min_by_key(|binding| binding.flow.is_none()) {
            return Found::Binding(binding.id);
        }
        let contact_hash = self.env.keys.contact(&canonical, None);
        let mut contact_user = Vec::new();
        uri.user_unescaped(request.buf(), &mut contact_user);
        let (mut to_aor, mut to_user) = (Vec::new(), Vec::new());
        if let Some(to) = register::to_uri(request) {
            to.write_aor(request.buf(), &mut to_aor);
            to.user_unescaped(request.buf(), &mut to_user);
        }
        let to_user16 = self.env.keys.user16(&to_user);
        let says_another = to_user == contact_user;

        let local = || self.directory.by_contact(contact_hash);
        // Those whose AOR's home is another shard: their users are not the Contact's user.
        let remote = self.directory.contact(contact_hash);
        let of_to = local().filter(|binding| *binding.aor == *to_aor);
        if let Some(binding) = of_to.min_by_key(|binding| binding.flow.is_none()) {
            return Found::Binding(binding.id);
        }
        let said = self.env.keys.contact(&canonical, Some(&to_aor));
        let said_here = self.directory.by_contact(said).min_by_key(|binding| binding.flow.is_none());
        if let Some(id) = said_here.map(|binding| binding.id).or(self.directory.contact(said).first().copied()) {
            return Found::Binding(id);
        }
        let first = local().min_by_key(|binding| binding.flow.is_none());
        if first.is_none() && remote.is_empty() {
            // There are too many to be kept or told apart, or a phone says so and To does not: no device, unless it is one
            // that we know.
            // The user's own name, and the user is registered by another Contact: a registrar may list its former one still.
            let is_former = says_another && self.directory.by_aor(&to_aor).next().is_some();
            let is_said = self.directory.holds_contact(self.env.keys.contact_said(&canonical));
            let is_phones = [contact_hash, said].iter().any(|hash| self.directory.may_be_a_phones(*hash, now))
                || ((is_said || is_former) && !self.is_known(uri, request.buf()));
            return if is_phones { Found::Unclear } else { Found::Nobody };
        }
        let one_aor = first.filter(|first| remote.is_empty() && local().all(|other| other.aor == first.aor));
        if let Some(binding) = one_aor {
            let own_name = binding.id.user == self.env.keys.user16(&contact_user);
            return if own_name || !says_another { Found::Binding(binding.id) } else { Found::Unclear };
        }
        if says_another {
            return Found::Unclear;
        }
        let found = match remote {
            [only] if first.is_none() => Some(*only),
            several => {
                let mut of_to = several.iter().filter(|id| id.user == to_user16);
                of_to.next().copied().filter(|_| of_to.next().is_none())
            }
        };
        found.map_or(Found::Unclear, Found::Binding)
    }

    /// What of a URI's user chooses the home shard.
    pub(super) fn user16_of(&self, uri: &Uri, buf: &[u8]) -> u16 {
        let mut user = Vec::new();
        uri.user_unescaped(buf, &mut user);
        self.env.keys.user16(&user)
    }

    pub(super) fn contact_user16_of(&self, contact: &[u8]) -> u16 {
        match Uri::parse(contact, Span::new(0, contact.len())) {
            Ok(uri) => self.user16_of(&uri, contact),
            Err(_) => 0,
        }
    }

    /// A mail about the directory's index of Contacts.
    pub(super) fn on_put_contact(&mut self, contact: u64, binding: BindingId, until: Time) {
        if self.directory.put_contact(contact, binding, until).is_err() {
            self.count(Counter::LimitBindings);
        }
    }

    // --- what an operator asks ---------------------------------------------------------------------------

    /// What this shard knows of an AOR's bindings (only its home shard knows any). `aor` may lack its scheme.
    #[must_use]
    pub fn locate(&self, aor: &str, now: Time) -> Vec<Located> {
        let text = if aor.contains(':') && aor.starts_with("sip") { aor.to_owned() } else { format!("sip:{aor}") };
        let buf = text.as_bytes();
        let Ok(uri) = Uri::parse(buf, Span::new(0, buf.len())) else { return Vec::new() };
        let mut canonical = Vec::new();
        uri.write_aor(buf, &mut canonical);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.directory
            .by_aor(&canonical)
            .filter_map(|binding| binding.flow.map(|flow| (binding, flow)))
            .map(|(binding, flow)| Located {
                aor: text(&binding.aor),
                contact: text(&binding.contact),
                instance: text(&binding.instance),
                flow,
                transport: self.transport_of(flow),
                peer: binding.peer,
                certificate: Vec::new(),
                expires_in: binding.expires.since(now),
                age: now.since(binding.refreshed),
            })
            .collect()
    }

    /// The phone's own Contact URI, for its alias.
    pub(super) fn write_own_contact(&self, id: BindingId, out: &mut Vec<u8>) -> bool {
        match self.directory.find(id) {
            Some(binding) => {
                out.extend_from_slice(&binding.contact);
                true
            }
            None => false,
        }
    }
}

/// Who wants what of whom, for events: `INVITE from sip:alice@example.com to sip:bob@example.com`.
pub(super) fn in_words(request: &Message) -> Vec<u8> {
    let uri_in = |name: Name| {
        request
            .first(name)
            .and_then(|field| NameAddr::parse(request.buf(), field.value).ok())
            .map_or(&b"?"[..], |value| request.text(value.uri))
    };
    let uri = |name| cut(uri_in(name));
    let (method, call_id) = (cut(request.method_text()), cut(call_id(request)));
    [method, b" from ", uri(Name::From), b" to ", uri(Name::To), b", Call-ID ", call_id].concat()
}

/// The Call-ID of a message, for an operator to find it by elsewhere.
pub(super) fn call_id(message: &Message) -> &[u8] {
    message.first(Name::CallId).map_or(b"?", |field| message.text(field.value))
}

/// So much of what a peer sent is shown that the rest of the line has room.
fn cut(text: &[u8]) -> &[u8] {
    text.get(..80).unwrap_or(text)
}
