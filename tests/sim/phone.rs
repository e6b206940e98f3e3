//! What a phone does, and a device that does not register, and the proxy of another site: each a user agent.

use std::net::SocketAddr;
use std::time::Duration;

use hawser::clock::Time;
use hawser::ids::Transport;

use crate::agent::{Agent, Ctx, Later};
use crate::dialog::Dialog;
use crate::message::{Msg, parameter};
use crate::net::WireId;
use crate::plan::{Ends, Kind};
use crate::stack::{Client, Up, Way, Why};

/// What is a phone's own.
pub struct Phone {
    pub kind: Kind,
    pub transport: Transport,
    /// The user of its AOR.
    pub user: String,
    pub contact: String,
    /// Parameters of its Contact.
    pub params: String,
    pub has_outbound: bool,
    /// Its way to the proxy, while it has one.
    pub way: Option<Way>,
    /// The way by which it has registered.
    pub bound_way: Option<Way>,
    /// Until when that is sure.
    pub bound_until: Time,
    /// Of its REGISTERs.
    call_id: String,
    cseq: u32,
    /// Counts its attempts to register: an older one's timer means nothing.
    nth: u32,
    pub expires_s: u64,
    pub is_off: bool,
    pub dialogs: Vec<Dialog>,
    /// It comes back by itself when it has lost its connection.
    pub comes_back: bool,
}

impl Phone {
    pub fn new(kind: Kind, transport: Transport, user: &str, contact: String, params: String) -> Self {
        Self {
            kind,
            transport,
            user: user.to_owned(),
            contact,
            has_outbound: params.contains("reg-id"),
            params,
            way: None,
            bound_way: None,
            bound_until: Time(0),
            call_id: String::new(),
            cseq: 0,
            nth: 0,
            expires_s: 600,
            is_off: false,
            dialogs: Vec::new(),
            comes_back: true,
        }
    }
}

impl Agent {
    fn via(&mut self) -> String {
        let branch = self.branch();
        let host = self.host;
        let phone = self.phone();
        let transport = phone.transport.via_name();
        // A phone behind a NAT knows its own address only.
        match (phone.kind, phone.way) {
            (Kind::Phone | Kind::Guest, _) => {
                format!("SIP/2.0/{transport} 192.168.7.{}:5060;branch={branch};rport", phone.user.len())
            }
            (_, Some(Way::Udp { own, .. })) => format!("SIP/2.0/{transport} {own};branch={branch};rport"),
            _ => format!("SIP/2.0/{transport} {host}:5060;branch={branch}"),
        }
    }

    fn own_contact(&mut self) -> String {
        format!("<{}>", self.phone().contact)
    }

    /// A request of its own outside of a dialog, which the pair of servers hears first.
    fn request(&mut self, ctx: &mut Ctx, method: &str, to_user: &str) -> Msg {
        let (via, number) = (self.via(), self.number());
        let (id, user) = (self.id, self.phone().user.clone());
        let mut out = Msg::request(method, &format!("sip:{to_user}@example.com"));
        out.push("Via", via);
        out.push("Max-Forwards", "70");
        out.push("From", format!("\"{user}, of {id}\" <sip:{user}@example.com>;tag=f{id}.{number}"));
        out.push("To", format!("<sip:{to_user}@example.com>"));
        out.push("Call-ID", format!("c{number}-{id}"));
        out.push("CSeq", format!("1 {method}"));
        out.push("X-Id", format!("{id} {number} s"));
        if matches!(method, "INVITE" | "SUBSCRIBE") {
            out.push("Contact", self.own_contact());
        }
        body(ctx, &mut out);
        out
    }

    /// Opens a connection, or takes a port, and registers if it does so.
    pub fn phone_connect(&mut self, ctx: &mut Ctx) {
        let Phone { kind, transport, way, .. } = *self.phone();
        if self.phone().is_off {
            return;
        }
        self.phone_leave(ctx, Ends::Reset, way);
        let new = if transport == Transport::Udp {
            let is_fixed = matches!(kind, Kind::Device | Kind::Site);
            let port = if is_fixed { 5060 } else { ctx.net.fresh_port() };
            let own = SocketAddr::new(self.host, port);
            let mut inside = ctx.net.0.borrow_mut();
            inside.udp.insert(own, self.id);
            Some(Way::Udp { own, to: inside.points[0].0 })
        } else {
            let point = ctx.setup.phone_point();
            self.connect(ctx, point).map(Way::Wire)
        };
        self.phone().way = new;
        if let Some(new) = new {
            // What it is asked it answers from where it is; and behind a NAT that has chosen another port it is the same
            // socket that asks again.
            self.stack.served.values_mut().for_each(|served| served.way = new);
            let over_udp = self.stack.clients.values_mut().filter(|client| !client.way.is_stream());
            over_udp.for_each(|client| client.way = new);
        }
        match new {
            Some(_) if kind == Kind::Phone => self.register(ctx, None),
            Some(_) => {}
            None => self.try_again(ctx),
        }
    }

    fn try_again(&mut self, ctx: &mut Ctx) {
        let nth = self.phone().nth;
        self.later_ms(ctx, 1_000..6_000, Later::Connect { nth });
    }

    /// Gives up a way.
    pub fn phone_leave(&mut self, ctx: &mut Ctx, how: Ends, way: Option<Way>) {
        match way {
            Some(Way::Udp { own, .. }) => {
                ctx.judge.moved(self.id, ctx.net.now());
                ctx.net.0.borrow_mut().udp.remove(&own);
            }
            Some(Way::Wire(wire)) => {
                if how == Ends::Half {
                    ctx.net.0.borrow_mut().fin(wire, 0);
                } else {
                    self.close(ctx, wire, how == Ends::Reset);
                }
            }
            None => {}
        }
        if self.phone().way == way {
            self.phone().way = None;
        }
    }

    /// It opens a connection again after a while, if it is one that does.
    pub fn phone_comes_back(&mut self, ctx: &mut Ctx) {
        let phone = self.phone();
        if phone.comes_back && !phone.is_off {
            let nth = phone.nth;
            self.later_ms(ctx, 10..4_000, Later::Connect { nth });
        }
    }

    /// A connection is gone.
    pub fn phone_lost(&mut self, ctx: &mut Ctx, wire: WireId) {
        let phone = self.phone();
        if phone.way != Some(Way::Wire(wire)) {
            return;
        }
        phone.way = None;
        self.phone_comes_back(ctx);
    }

    pub fn register(&mut self, ctx: &mut Ctx, expires: Option<u64>) {
        let id = self.id;
        let phone = self.phone();
        let Some(way) = phone.way.filter(|_| phone.kind == Kind::Phone) else { return };
        phone.nth += 1;
        phone.cseq += 1;
        if phone.call_id.is_empty() {
            phone.call_id = format!("r{}-{id}", phone.nth);
        }
        let (user, call_id, cseq) = (phone.user.clone(), phone.call_id.clone(), phone.cseq);
        let expires = expires.unwrap_or(phone.expires_s);
        if expires == 0 {
            phone.bound_way = None;
            ctx.judge.unbinds(id, ctx.net.now());
        }
        let phone = self.phone();
        let (params, has_outbound) = (phone.params.clone(), phone.has_outbound);
        let (via, contact) = (self.via(), self.own_contact());
        let number = self.number();
        let mut out = Msg::request("REGISTER", "sip:example.com");
        out.push("Via", via);
        out.push("Max-Forwards", "70");
        out.push("From", format!("<sip:{user}@example.com>;tag=r{number}"));
        out.push("To", format!("<sip:{user}@example.com>"));
        out.push("Call-ID", call_id);
        out.push("CSeq", format!("{cseq} REGISTER"));
        out.push("X-Id", format!("{id} {number} s"));
        out.push("Contact", format!("{contact}{params}"));
        if has_outbound {
            out.push("Supported", "path, outbound");
        }
        out.push("Expires", expires.to_string());
        self.ask(ctx, out, way, Why::Register);
    }

    /// It forgets what it was, and registers anew.
    pub fn reboot(&mut self, ctx: &mut Ctx) {
        let (id, way) = (self.id, self.phone().way);
        ctx.judge.died(id, ctx.net.now());
        self.phone_leave(ctx, Ends::Reset, way);
        self.die();
        let phone = self.phone();
        (phone.call_id, phone.cseq) = (String::new(), 0);
        phone.dialogs.clear();
        self.phone_connect(ctx);
    }

    /// Asks somebody something.
    pub fn phone_asks(&mut self, ctx: &mut Ctx, method: &str, to_user: &str) {
        let Some(way) = self.phone().way else { return };
        let request = self.request(ctx, method, to_user);
        self.ask(ctx, request, way, Why::Own);
    }

    /// Something within one of its dialogs.
    pub fn phone_goes_on(&mut self, ctx: &mut Ctx, method: &str) {
        let count = self.phone().dialogs.len();
        let Some(way) = self.phone().way.filter(|_| count > 0) else { return };
        let at = ctx.chance.usize(..count);
        let request = self.in_dialog(ctx, at, method, None);
        if method == "BYE" {
            self.phone().dialogs.swap_remove(at);
        }
        self.ask(ctx, request, way, Why::Own);
    }

    fn in_dialog(&mut self, ctx: &mut Ctx, at: usize, method: &str, cseq: Option<u32>) -> Msg {
        let (id, via, number) = (self.id, self.via(), self.number());
        let contact = self.own_contact();
        let dialog = &mut self.phone().dialogs[at];
        let mut out = dialog.request(method, cseq);
        out.push_front("Via", via);
        out.push("X-Id", format!("{id} {number} {}", dialog.peer));
        if method == "INVITE" {
            out.push("Contact", contact);
        }
        body(ctx, &mut out);
        out
    }

    pub fn phone_cancels(&mut self, ctx: &mut Ctx) {
        let open = |(key, client): (&String, &Client)| {
            (client.request.method() == "INVITE" && client.provisional && client.finals.is_empty()).then(|| key.clone())
        };
        let keys: Vec<String> = self.stack.clients.iter().filter_map(open).collect();
        if let Some(key) = ctx.chance.choice(&keys) {
            self.cancel(ctx, key);
        }
    }

    pub fn phone_later(&mut self, ctx: &mut Ctx, what: Later) {
        match what {
            Later::Answer { key, status } => self.phone_answers(ctx, &key, status),
            Later::Register { nth } if nth == self.phone().nth && !self.phone().is_off => self.register(ctx, None),
            Later::Connect { nth } if nth == self.phone().nth && self.phone().way.is_none() => self.phone_connect(ctx),
            Later::Register { .. } | Later::Connect { .. } => {}
        }
    }

    fn phone_answers(&mut self, ctx: &mut Ctx, key: &str, status: &'static str) {
        let (id, contact) = (self.id, self.own_contact());
        let Some(served) = self.stack.served.get(key) else { return };
        let request = served.request.clone();
        let is_new = parameter(request.get("To"), "tag").is_empty();
        let mut response = request.answer(status, &format!("t{id}.{}", request.branch().len()));
        if matches!(request.method(), "INVITE" | "SUBSCRIBE") {
            response.push("Contact", contact);
        }
        body(ctx, &mut response);
        if request.method() == "INVITE" && response.code() / 100 == 2 && is_new {
            let peer = peer_of(request.get("X-Id"));
            self.phone().dialogs.push(Dialog::callee(&request, &response, &peer));
        }
        self.respond(ctx, key, response);
    }

    pub fn phone_up(&mut self, ctx: &mut Ctx, up: Up) {
        match up {
            Up::Request { key } => self.phone_asked(ctx, &key),
            Up::Cancel { key } => {
                if ctx.chance_of(90) {
                    self.phone_answers(ctx, &key, "487 Request Terminated");
                }
            }
            Up::Response { client, response, again, .. } => self.phone_hears(ctx, &client, &response, again),
            Up::Timeout { client } if client.why == Why::Register => self.try_again(ctx),
            Up::Timeout { .. } | Up::NoAck { .. } | Up::Ack { .. } | Up::Stray { .. } => {}
        }
    }

    fn phone_asked(&mut self, ctx: &mut Ctx, key: &str) {
        let Some(served) = self.stack.served.get(key) else { return };
        let (method, call_id) = (served.request.method().to_owned(), served.request.get("Call-ID").to_owned());
        let in_dialog = !parameter(served.request.get("To"), "tag").is_empty();
        let status = match (method.as_str(), in_dialog) {
            ("INVITE", false) => {
                if ctx.chance_of(60) {
                    self.phone_answers(ctx, key, "180 Ringing");
                }
                *ctx.chance.choice(&FINALS).expect("there are some")
            }
            ("BYE", _) => {
                self.phone().dialogs.retain(|dialog| dialog.call_id != call_id);
                "200 OK"
            }
            (_, true) => "200 OK",
            _ => *ctx.chance.choice(&FINALS_PLAIN).expect("there are some"),
        };
        let most = if method == "INVITE" && !in_dialog { ctx.setup.ring_ms } else { 1_500 };
        let key = key.to_owned();
        self.later_ms(ctx, 0..most, Later::Answer { key, status });
    }

    fn phone_hears(&mut self, ctx: &mut Ctx, client: &Client, response: &Msg, again: bool) {
        let (code, request, way) = (response.code(), &client.request, client.way);
        if client.why == Why::Register {
            return self.register_heard(ctx, client, response);
        }
        if request.method() != "INVITE" || code / 100 != 2 {
            return;
        }
        let peer = peer_of(response.get("X-Rid"));
        let known = self.phone().dialogs.iter().any(|dialog| dialog.call_id == response.get("Call-ID"));
        let is_new = parameter(request.get("To"), "tag").is_empty();
        let mut dialog = Dialog::caller(request, response, &peer);
        if is_new && !known && !again {
            self.phone().dialogs.push(dialog.clone());
        }
        if !is_new {
            // The dialog may be over by now; its route set stands in the request.
            dialog.routes = request.all("Route").map(str::to_owned).collect();
        }
        let (id, via, number) = (self.id, self.via(), self.number());
        let mut ack = dialog.request("ACK", Some(request.cseq()));
        ack.push_front("Via", via);
        ack.push("X-Id", format!("{id} {number} {peer}"));
        let way = self.phone().way.unwrap_or(way);
        self.send(ctx, way, &ack);
    }

    fn register_heard(&mut self, ctx: &mut Ctx, client: &Client, response: &Msg) {
        if response.method() != "REGISTER" || response.code() < 200 {
            return;
        }
        let (nth, expires_s) = (self.phone().nth, self.phone().expires_s);
        match response.code() {
            200 => {
                // The proxy has counted from before this came.
                let asked = client.request.get("Expires").parse().unwrap_or(0_u64).saturating_sub(2);
                // It may have been overtaken by the end of the registration.
                let is_over = ctx.judge.has_unbound_since(client.request.get("X-Id"));
                let granted = if is_over { 0 } else { asked };
                // Nor is the proxy that bound it always the one that is there now.
                let is_forgotten = ctx.judge.has_restarted_since(client.request.get("X-Id"));
                if granted > 0 && !is_forgotten {
                    let until = ctx.net.now().after(Duration::from_secs(granted));
                    ctx.judge.facts.bound.push((ctx.net.now(), self.id, until));
                }
                self.phone().bound_way = Some(client.way).filter(|_| granted > 0 && !is_forgotten);
                self.phone().bound_until = ctx.net.now().after(Duration::from_secs(granted));
                self.later(ctx, Duration::from_millis(expires_s * 600), Later::Register { nth });
            }
            _ => self.later_ms(ctx, 2_000..8_000, Later::Register { nth }),
        }
    }
}

const FINALS: [&str; 12] = [
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "486 Busy Here",
    "480 Temporarily Unavailable",
    "302 Moved Temporarily",
    "603 Decline",
    "503 Service Unavailable",
];
const FINALS_PLAIN: [&str; 8] = [
    "200 OK",
    "200 OK",
    "200 OK",
    "202 Accepted",
    "404 Not Found",
    "500 Server Internal Error",
    "302 Moved Temporarily",
    "600 Busy Everywhere",
];

/// Who sent this, for an answer's or a dialog's sake: the first word of `X-Id` or `X-Rid`; both servers are one.
fn peer_of(id: &str) -> String {
    match id.split(' ').next().unwrap_or("") {
        "0" | "1" | "" => "s".to_owned(),
        party => party.to_owned(),
    }
}

/// A body of any bytes, now and then more than a datagram should carry.
pub fn body(ctx: &mut Ctx, message: &mut Msg) {
    if ctx.chance.u8(..4) > 0 {
        return;
    }
    let len = if ctx.chance.u8(..12) == 0 { ctx.chance.usize(..3_000) } else { ctx.chance.usize(..60) };
    message.push("Content-Type", "application/octet-stream");
    message.body = (0..len).map(|_| ctx.chance.u8(..)).collect();
}
