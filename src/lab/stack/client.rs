//! Client transactions (RFC 3261 §17.1, §9.1, RFC 6026 §7.2): what we ask and what comes back.
//!
//! Owns: requests on their way and the matching of responses. Must not touch: requests that come in.

use super::{Alarm, Client, ClientId, ClientState, Cookie, Draft, Outcome, Stack, User, finish};
use crate::net::{Link, Transport};
use crate::text::{Message, Name, Start};
use std::io::Write;
use std::net::SocketAddr;

impl Stack {
    /// Begins a request; it must be sent before the next one is begun.
    pub fn draft(&mut self, method: &str, uri: &str, transport: Transport, sent_by: SocketAddr) -> Draft {
        let slot = self.clients.vacant_key();
        let serial = self.next_serial();
        let mut bytes = Vec::with_capacity(1_024);
        write!(
            bytes,
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{} {sent_by};branch=z9hG4bK{:08x}.{slot:x}.{serial:x};rport\r\n",
            transport.via(),
            self.boot
        )
        .expect("a Vec takes everything");
        Draft { slot, serial, is_invite: method == "INVITE", bytes }
    }

    /// Sends what was begun. The outcome is told with `cookie`.
    pub fn send(&mut self, mut draft: Draft, owner: u32, link: Link, cookie: Cookie, body: &[u8]) -> ClientId {
        finish(&mut draft.bytes, body);
        let id = ClientId { slot: draft.slot as u32, serial: draft.serial };
        let client = Client {
            serial: draft.serial,
            owner,
            cookie,
            link,
            is_invite: draft.is_invite,
            state: ClientState::Calling,
            resend_us: self.timers.t1_us,
            request: draft.bytes,
            ack: Vec::new(),
            cancel_wanted: false,
            cancel: None,
        };
        let is_sent = self.net.send(link, &client.request);
        let slot = self.clients.insert(client);
        assert_eq!(slot, draft.slot, "a draft is sent before the next is begun");
        self.tally.messages_out += 1;
        if !is_sent {
            // Told through the same door as any other outcome, at the next pass.
            self.wheel.set(0, Alarm::ClientGiveUp(id));
            return id;
        }
        if link.is_lossy() {
            self.wheel.set(self.now_us + self.timers.t1_us, Alarm::ClientResend(id));
        }
        self.wheel.set(self.now_us + self.timers.give_up_us, Alarm::ClientGiveUp(id));
        id
    }

    /// A message without a transaction, such as the ACK to a 2xx; the draft's branch is used up.
    pub fn send_ack(&mut self, invite: ClientId, link: Link, mut draft: Draft, body: &[u8]) {
        finish(&mut draft.bytes, body);
        self.tally.messages_out += 1;
        if !self.net.send(link, &draft.bytes) {
            self.tally.undeliverable += 1;
        }
        if let Some(client) = self.client(invite) {
            client.ack = draft.bytes;
            client.link = link;
        }
    }

    /// Cancels an INVITE: at once when a provisional response has come, else with the first one
    /// (RFC 3261 §9.1).
    pub fn cancel(&mut self, id: ClientId) {
        let Some(client) = self.client(id) else { return };
        if client.cancel.is_some() || !client.is_invite {
            return;
        }
        match client.state {
            ClientState::Calling => client.cancel_wanted = true,
            ClientState::Proceeding => self.send_cancel(id),
            ClientState::Completed | ClientState::Accepted => {}
        }
    }

    /// The same over another link: the one of the INVITE may have given way to it.
    pub fn cancel_over(&mut self, id: ClientId, link: Link) {
        if let Some(client) = self.client(id) {
            client.link = link;
        }
        self.cancel(id);
    }

    pub(super) fn send_cancel(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(id.slot as usize) else { return };
        let Some(bytes) = Message::parse(&client.request).and_then(|invite| hop_request(&invite, "CANCEL", None))
        else {
            return;
        };
        let (owner, link) = (client.owner, client.link);
        let slot = self.clients.vacant_key();
        let serial = self.next_serial();
        // A CANCEL carries the INVITE's branch, so its response is found through the INVITE.
        let draft = Draft { slot, serial, is_invite: false, bytes };
        let cancel = self.send(draft, owner, link, Cookie::default(), b"");
        if let Some(client) = self.client(id) {
            client.cancel = Some(cancel);
        }
        // RFC 3261 §9.1: when no final response follows, the INVITE is given up after 64*T1.
        self.wheel.set(self.now_us + self.timers.give_up_us, Alarm::ClientGiveUp(id));
    }

    pub(super) fn client(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(id.slot as usize).filter(|client| client.serial == id.serial)
    }

    pub(super) fn on_response(&mut self, user: &mut impl User, message: &Message<'_>, code: u16) {
        let found = message.top_via().and_then(|via| self.client_of(via.branch));
        let method = message.cseq().map_or("", |(_, method)| method);
        let id = match found {
            Some(id) if method == "CANCEL" => self.client(id).and_then(|client| client.cancel),
            other => other,
        };
        let Some((id, client)) =
            id.and_then(|id| Some((id, self.clients.get_mut(id.slot as usize).filter(|c| c.serial == id.serial)?)))
        else {
            self.tally.unmatched_responses += 1;
            return;
        };
        if client.is_invite != (method == "INVITE") {
            self.tally.unmatched_responses += 1;
            return;
        }
        let is_lossy = client.link.is_lossy();
        let cookie = client.cookie;
        match client.state {
            ClientState::Calling | ClientState::Proceeding if code < 200 => {
                client.state = ClientState::Proceeding;
                if std::mem::take(&mut client.cancel_wanted) {
                    self.send_cancel(id);
                }
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Calling | ClientState::Proceeding if client.is_invite && code < 300 => {
                client.state = ClientState::Accepted;
                client.request = Vec::new();
                self.forget_client(id, true);
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Calling | ClientState::Proceeding if client.is_invite => {
                client.state = ClientState::Completed;
                self.acknowledge_refusal(id, message);
                let Some(client) = self.client(id) else { return };
                client.request = Vec::new();
                let lingers = is_lossy || client.cancel.is_some();
                self.forget_client(id, lingers);
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Calling | ClientState::Proceeding => {
                client.state = ClientState::Completed;
                client.request = Vec::new();
                self.forget_client(id, is_lossy);
                user.outcome(self, id, cookie, Outcome::Response(message, code));
            }
            ClientState::Completed | ClientState::Accepted => {
                self.on_repeated(id, message, code);
            }
        }
    }

    /// After its final response: at once, or when repetitions of that are over (timers D, K and M).
    fn forget_client(&mut self, id: ClientId, lingers: bool) {
        if lingers {
            self.wheel.set(self.now_us + self.timers.linger_us, Alarm::ClientForget(id));
        } else {
            self.clients.remove(id.slot as usize);
        }
    }

    /// The ACK to a final response that is no 2xx (RFC 3261 §17.1.1.3).
    fn acknowledge_refusal(&mut self, id: ClientId, message: &Message<'_>) {
        let Some(client) = self.clients.get_mut(id.slot as usize).filter(|c| c.serial == id.serial) else { return };
        let to = message.first(Name::To);
        let ack = Message::parse(&client.request).and_then(|invite| hop_request(&invite, "ACK", to));
        if let Some(mut ack) = ack {
            finish(&mut ack, b"");
            self.net.send(client.link, &ack);
            self.tally.messages_out += 1;
            client.ack = ack;
        }
    }

    /// A response to a request that has its final one: a repetition, or a second answer of a forked INVITE.
    fn on_repeated(&mut self, id: ClientId, message: &Message<'_>, code: u16) {
        let Some(client) = self.clients.get_mut(id.slot as usize).filter(|c| c.serial == id.serial) else { return };
        self.tally.retransmissions_in += 1;
        let tag = |message: &Message<'_>| {
            message.first(Name::To).and_then(|to| crate::text::param(to, "tag")).map(Box::<str>::from)
        };
        if client.state == ClientState::Accepted
            && (200..300).contains(&code)
            && Message::parse(&client.ack).is_some_and(|ack| tag(&ack) != tag(message))
        {
            self.tally.second_answers += 1;
        }
        if code >= 200 && !client.ack.is_empty() {
            self.net.send(client.link, &client.ack);
            self.tally.messages_out += 1;
        }
    }

    /// Timers A and E.
    pub(super) fn resend_request(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(id.slot as usize).filter(|c| c.serial == id.serial) else { return };
        let is_due = match client.state {
            ClientState::Calling => true,
            ClientState::Proceeding => !client.is_invite,
            _ => false,
        };
        if is_due {
            let t2_us = self.timers.t2_us;
            let cap_us = if client.is_invite { u64::MAX } else { t2_us };
            let is_proceeding = client.state == ClientState::Proceeding;
            client.resend_us = if is_proceeding { t2_us } else { (client.resend_us * 2).min(cap_us) };
            self.net.send(client.link, &client.request);
            self.tally.requests_resent += 1;
            self.wheel.set(self.now_us + client.resend_us, Alarm::ClientResend(id));
        }
    }

    /// Timers B and F; and a connection that is gone.
    pub(super) fn give_up_request(&mut self, user: &mut impl User, id: ClientId) {
        let Some(client) = self.clients.get(id.slot as usize).filter(|c| c.serial == id.serial) else { return };
        let is_gone = matches!(client.link, Link::Stream(conn) if !self.net.is_alive(conn));
        // Timer B ends with the first provisional response, but a cancelled INVITE is given up.
        let is_due = match client.state {
            ClientState::Calling => true,
            ClientState::Proceeding => is_gone || !client.is_invite || client.cancel.is_some(),
            _ => false,
        };
        if is_due {
            let (cookie, is_invite) = (client.cookie, client.is_invite);
            self.clients.remove(id.slot as usize);
            if !is_gone {
                self.tally.timeouts += 1;
                self.tally.invites_unanswered += u64::from(is_invite);
            }
            let outcome = if is_gone { Outcome::Disconnected } else { Outcome::TimedOut };
            user.outcome(self, id, cookie, outcome);
        }
    }

    pub(super) fn client_of(&self, branch: &str) -> Option<ClientId> {
        let mut parts = branch.strip_prefix("z9hG4bK")?.split('.');
        let boot = u32::from_str_radix(parts.next()?, 16).ok()?;
        let slot = u32::from_str_radix(parts.next()?, 16).ok()?;
        let serial = u32::from_str_radix(parts.next()?, 16).ok()?;
        (boot == self.boot).then_some(ClientId { slot, serial })
    }
}

/// CANCEL or the ACK to a refusal: the INVITE's target, top Via, Route, From, Call-ID and number
/// (RFC 3261 §9.1, §17.1.1.3).
fn hop_request(invite: &Message<'_>, method: &str, to: Option<&str>) -> Option<Vec<u8>> {
    let Start::Request { uri, .. } = invite.start else { return None };
    let mut bytes = Vec::with_capacity(512);
    write!(bytes, "{method} {uri} SIP/2.0\r\nVia: {}\r\n", invite.values(Name::Via).next()?).ok()?;
    for route in invite.values(Name::Route) {
        write!(bytes, "Route: {route}\r\n").ok()?;
    }
    write!(
        bytes,
        "Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\n",
        invite.first(Name::From)?,
        to.or_else(|| invite.first(Name::To))?,
        invite.first(Name::CallId)?,
        invite.cseq()?.0,
    )
    .ok()?;
    Some(bytes)
}
