//! A phone's connection and registration (RFC 3261 §10.2, RFC 5626 §4.2).
//!
//! Owns: connecting, REGISTER with its refreshes and retries, what Contact and Via claim. Must not touch: calls.

use super::{
    CONNECT_MAX, Claim, KIND_CONNECT, KIND_KEEP_ALIVE, KIND_REFRESH, KIND_REGISTER, KIND_RETRY, Phones,
    REGISTERING_MAX, State,
};
use crate::net::{Closed, ConnId, Link, Transport};
use crate::stack::{Cookie, Outcome, Stack};
use crate::tally::Tally;
use crate::text::{self, Message, Name};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

impl Phones {
    pub(super) fn source(&self, phone: u32) -> Option<IpAddr> {
        let sources = &self.config.sources;
        (!sources.is_empty()).then(|| sources[phone as usize % sources.len()])
    }

    /// Switches phones on, in order, until `due` of them are or as many as may be under way at once.
    ///
    /// Says whether there are more to come.
    pub fn start_until(&mut self, stack: &mut Stack, due: u64) -> bool {
        while self.started < self.config.count
            && u64::from(self.started) <= due
            && (self.started as usize).saturating_sub(self.registered) < REGISTERING_MAX
        {
            self.start(stack, self.started);
            self.started += 1;
        }
        self.started < self.config.count
    }

    /// Switches a phone on: it connects and registers.
    pub fn start(&mut self, stack: &mut Stack, phone: u32) {
        if self.phones[phone as usize].state != State::Off {
            return;
        }
        self.phones[phone as usize].started_us = stack.now_us;
        let (source, proxy) = (self.source(phone), self.proxy_of(phone));
        if self.config.transport == Transport::Udp {
            let link = match self.phones[phone as usize].link {
                Some(link) => Some(link),
                None => {
                    let any = SocketAddr::new(source.unwrap_or(loopback(proxy)), 0);
                    let bound = stack.net.bind_udp(phone, any).ok();
                    bound.map(|(socket, _)| Link::Udp { socket, peer: proxy })
                }
            };
            self.phones[phone as usize].link = link;
            if link.is_some() {
                return self.register(stack, phone, self.config.expires_s);
            }
        } else if let Ok(conn) = stack.net.connect(phone, self.config.transport, proxy, source) {
            self.phones[phone as usize].link = Some(Link::Stream(conn));
            let serial = self.phones[phone as usize].started_us as u32;
            stack.alarm_in(CONNECT_MAX, Cookie { kind: KIND_CONNECT, leg: 0, slot: phone, serial });
            return self.set_state(phone, State::Connecting);
        }
        Tally::count(&mut stack.tally.register_failures, "no socket");
        self.retry(stack, phone);
    }

    /// Opens a second connection and moves the registration there; the first one stays open until then.
    pub fn move_over(&mut self, stack: &mut Stack, phone: u32) -> bool {
        let (source, proxy) = (self.source(phone), self.proxy_of(phone));
        let conn = stack.net.connect(phone, self.config.transport, proxy, source).ok();
        self.phones[phone as usize].next = conn;
        conn.is_some()
    }

    /// Ends the phone's connection, as when its cable is pulled (`abruptly`) or when it is switched off.
    pub fn drop_connection(&mut self, stack: &mut Stack, phone: u32, abruptly: bool) {
        match self.phones[phone as usize].link.take() {
            Some(Link::Stream(conn)) => {
                stack.net.close(conn, abruptly);
                stack.disconnect(conn);
            }
            Some(Link::Udp { socket, .. }) => stack.net.unbind(socket),
            None => {}
        }
        self.phones[phone as usize].registered_over = None;
        self.set_state(phone, State::Off);
    }

    /// Lets a phone whose connection has been dropped come back after a while.
    pub fn start_in(&mut self, stack: &mut Stack, phone: u32, after: Duration) {
        stack.alarm_in(after, Cookie { kind: KIND_RETRY, leg: 0, slot: phone, serial: 0 });
    }

    /// Sends a REGISTER for the phone's one contact; `expires_s` of zero takes it back.
    pub fn register(&mut self, stack: &mut Stack, phone: u32, expires_s: u32) {
        let Some(link) = self.phones[phone as usize].link else { return };
        let Some(sent_by) = self.sent_by(stack, phone, link) else { return };
        let (user, domain) = (self.user(phone), &self.config.domain);
        let boot = stack.boot;
        let entry = &mut self.phones[phone as usize];
        entry.cseq += 1;
        let mut draft = stack.draft("REGISTER", &format!("sip:{domain}"), self.config.transport, sent_by);
        draft.line("Max-Forwards", 70);
        draft.line("From", format_args!("<sip:{user}@{domain}>;tag={boot:08x}{phone:x}"));
        draft.line("To", format_args!("<sip:{user}@{domain}>"));
        draft.line("Call-ID", format_args!("r{phone:x}.{boot:08x}@phone"));
        draft.line("CSeq", format_args!("{} REGISTER", entry.cseq));
        let contact = self.contact(stack.boot, phone, sent_by, false);
        draft.line("Contact", format_args!("{contact};expires={expires_s}"));
        match (self.config.supports_path, self.config.is_outbound) {
            (true, true) => draft.line("Supported", "path, outbound"),
            (true, false) => draft.line("Supported", "path"),
            (false, true) => draft.line("Supported", "outbound"),
            (false, false) => {}
        }
        stack.tally.registers_sent += 1;
        if self.phones[phone as usize].state != State::Registered {
            self.set_state(phone, State::Registering);
        }
        stack.send(draft, phone, link, Cookie { kind: KIND_REGISTER, leg: 0, slot: phone, serial: expires_s }, b"");
    }

    /// What Via and Contact claim.
    pub(super) fn sent_by(&self, stack: &Stack, phone: u32, link: Link) -> Option<SocketAddr> {
        let host = match self.config.claim {
            Claim::True => return stack.net.local_addr(link),
            Claim::Host(host) => host,
            Claim::Nat => IpAddr::from([192, 0, 2, 1 + (phone % 250) as u8]),
        };
        Some(SocketAddr::new(host, 5_060))
    }

    pub(super) fn contact(&self, boot: u32, phone: u32, sent_by: SocketAddr, in_dialog: bool) -> String {
        let user = self.user(phone);
        let transport = match (self.config.transport, self.config.claim) {
            // A phone behind NAT claims what it thinks it has.
            (Transport::Udp, _) | (_, Claim::Host(_) | Claim::Nat) => String::new(),
            (transport, Claim::True) => format!(";transport={}", transport.param()),
        };
        if !self.config.is_outbound {
            return format!("<sip:{user}@{sent_by}{transport}>");
        }
        if in_dialog {
            return format!("<sip:{user}@{sent_by}{transport};ob>");
        }
        format!(
            "<sip:{user}@{sent_by}{transport}>;reg-id=1;+sip.instance=\"<urn:uuid:{boot:08x}-0000-4000-8000-{phone:012x}>\""
        )
    }

    pub(super) fn retry(&mut self, stack: &mut Stack, phone: u32) {
        let entry = &mut self.phones[phone as usize];
        if entry.attempts > 0 {
            // One that lost its connection tries the same proxy once more; one that does not get there, the next.
            entry.proxy += 1;
        }
        entry.attempts = entry.attempts.saturating_add(1);
        let attempts = u64::from(entry.attempts.min(6));
        if self.config.reconnects {
            // Spread out, so that phones that lost one proxy do not come back in one wave.
            let after = Duration::from_millis(250 * attempts + u64::from(phone % 64) * 16);
            stack.alarm_in(after, Cookie { kind: KIND_RETRY, leg: 0, slot: phone, serial: 0 });
        }
    }

    pub(super) fn on_connect_timeout(&mut self, stack: &mut Stack, cookie: Cookie) {
        let entry = &self.phones[cookie.slot as usize];
        if entry.state == State::Connecting && entry.started_us as u32 == cookie.serial {
            Tally::count(&mut stack.tally.register_failures, "no connection in time");
            self.drop_connection(stack, cookie.slot, true);
            self.retry(stack, cookie.slot);
        }
    }

    pub fn opened(&mut self, stack: &mut Stack, phone: u32, conn: ConnId) {
        let entry = &mut self.phones[phone as usize];
        if entry.next == Some(conn) {
            entry.next = None;
            entry.link = Some(Link::Stream(conn));
            return self.register(stack, phone, self.config.expires_s);
        }
        if entry.link == Some(Link::Stream(conn)) {
            self.register(stack, phone, self.config.expires_s);
        }
    }

    pub fn closed(&mut self, stack: &mut Stack, phone: u32, conn: ConnId, _why: &Closed) {
        let entry = &mut self.phones[phone as usize];
        if entry.next == Some(conn) {
            entry.next = None;
        }
        if entry.link == Some(Link::Stream(conn)) {
            entry.link = None;
            entry.registered_over = None;
            self.set_state(phone, State::Off);
            self.retry(stack, phone);
        }
    }

    pub(super) fn on_register_outcome(&mut self, stack: &mut Stack, cookie: Cookie, outcome: Outcome<'_, '_>) {
        let phone = cookie.slot;
        let reason = match outcome {
            Outcome::Response(_, code) if code < 200 => return,
            Outcome::Response(message, code) if code < 300 => {
                if cookie.serial == 0 {
                    self.phones[phone as usize].registered_over = None;
                    return self.set_state(phone, State::Off);
                }
                match self.granted_s(stack, phone, message) {
                    Some(expires_s) => return self.on_registered(stack, phone, expires_s, message),
                    None => "2xx without our contact".to_owned(),
                }
            }
            Outcome::Response(_, code) => code.to_string(),
            Outcome::TimedOut => "timeout".to_owned(),
            Outcome::Disconnected => "disconnected".to_owned(),
        };
        Tally::count(&mut stack.tally.register_failures, reason);
        if self.phones[phone as usize].state == State::Registering {
            self.drop_connection(stack, phone, false);
            self.retry(stack, phone);
        }
    }

    /// The expiry that the 2xx grants to this phone's contact; `None` when it is not listed.
    pub(super) fn granted_s(&self, stack: &Stack, phone: u32, message: &Message<'_>) -> Option<u32> {
        let sent_by = self.sent_by(stack, phone, self.phones[phone as usize].link?)?;
        let own = self.contact(stack.boot, phone, sent_by, false);
        let own = text::uri_of(&own);
        let contact = message.values(Name::Contact).find(|contact| text::uri_of(contact) == own)?;
        text::param(contact, "expires").or(message.first(Name::Expires))?.parse().ok()
    }

    pub(super) fn on_registered(&mut self, stack: &mut Stack, phone: u32, expires_s: u32, message: &Message<'_>) {
        let has_path = message.first(Name::Path).is_some();
        match (has_path, self.config.supports_path) {
            (true, false) => stack.tally.path_shown_to_phone += 1,
            (false, true) => stack.tally.path_kept_from_phone += 1,
            _ => {}
        }
        let link = self.phones[phone as usize].link;
        let before = self.phones[phone as usize].registered_over;
        if let (Some(Link::Stream(old)), true) = (before, before != link) {
            stack.net.close(old, false);
        }
        if self.phones[phone as usize].state != State::Registered {
            stack.tally.registered += 1;
            self.register_times.record(stack.now_us - self.phones[phone as usize].started_us);
            let entry = &mut self.phones[phone as usize];
            if let Some(after) = self.config.keep_alive.filter(|_| !entry.keeps_alive) {
                entry.keeps_alive = true;
                stack.alarm_in(after, Cookie { kind: KIND_KEEP_ALIVE, leg: 0, slot: phone, serial: 0 });
            }
        }
        self.phones[phone as usize].registered_over = link;
        self.phones[phone as usize].registered_us = stack.now_us;
        self.phones[phone as usize].attempts = 0;
        self.set_state(phone, State::Registered);
        let serial = self.phones[phone as usize].cseq;
        let after = Duration::from_secs(u64::from(expires_s)) * 4 / 5;
        stack.alarm_in(after, Cookie { kind: KIND_REFRESH, leg: 0, slot: phone, serial });
    }
}

fn loopback(proxy: SocketAddr) -> IpAddr {
    match proxy.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => ip.into(),
        IpAddr::V6(ip) if ip.is_loopback() => ip.into(),
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
