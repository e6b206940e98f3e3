//! What a SIP Server of the pair does: registrar, and B2BUA or proxy, by the plan.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hawser::ids::Transport;

use crate::agent::{Agent, Ctx, Later};
use crate::book::Binding;
use crate::dialog::Dialog;
use crate::message::{Msg, parameter, uri_of, user_of};
use crate::net::PartyId;
use crate::phone::body;
use crate::plan::{Failure, ServerKind};
use crate::stack::{Client, Served, Todo, Up, Way, Why};

/// What is a server's own.
pub struct Server {
    pub address: SocketAddr,
    /// What is wrong with it.
    pub failure: Option<Failure>,
    /// What has come while it was frozen.
    frozen: VecDeque<(Msg, Way)>,
    /// INVITEs sent on that are to be cancelled as soon as something is heard of them.
    to_cancel: Vec<String>,
}

impl Server {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, failure: None, frozen: VecDeque::new(), to_cancel: Vec::new() }
    }
}

/// Where a request of the server is to go.
struct Next {
    uri: String,
    path: Vec<String>,
    /// As `X-Id` says it.
    to: String,
}

impl Agent {
    /// What goes wrong begins or ends.
    pub fn server_fails(&mut self, ctx: &mut Ctx, failure: Option<Failure>) {
        let before = std::mem::replace(&mut self.server().failure, failure);
        let (id, address, now) = (self.id, self.server().address, ctx.net.now());
        ctx.judge.server_changed(id, failure, now);
        match failure {
            Some(Failure::Kill | Failure::Reset) => {
                let wires: Vec<_> = self.conns.keys().copied().collect();
                for wire in wires {
                    self.close(ctx, wire, true);
                }
                if failure == Some(Failure::Kill) {
                    ctx.judge.died(id, now);
                    self.die();
                    self.server().frozen.clear();
                    self.server().to_cancel.clear();
                }
                let mut inside = ctx.net.0.borrow_mut();
                inside.udp.remove(&address);
                inside.tcp.remove(&address);
            }
            Some(Failure::Freeze) => self.set_deaf(ctx, true),
            Some(Failure::Cut) => {
                let mut inside = ctx.net.0.borrow_mut();
                inside.cut.push(address.ip());
                inside.watch_for_death(address.ip());
            }
            Some(Failure::Refuse | Failure::RefuseOptions) | None => {}
        }
        match before.filter(|_| failure.is_none()) {
            Some(Failure::Kill | Failure::Reset) => {
                let mut inside = ctx.net.0.borrow_mut();
                inside.udp.insert(address, id);
                inside.tcp.insert(address, id);
            }
            Some(Failure::Freeze) => {
                self.set_deaf(ctx, false);
                let missed = std::mem::take(&mut self.server().frozen);
                for (message, way) in missed {
                    let mut todo = Todo::default();
                    self.stack.on_message(message, way, now, &mut todo);
                    self.carry_out(ctx, todo);
                }
            }
            Some(Failure::Cut) => ctx.net.0.borrow_mut().cut.retain(|host| *host != address.ip()),
            _ => {}
        }
    }

    /// Whether a message goes the ordinary way.
    pub fn server_takes(&mut self, ctx: &mut Ctx, message: &Msg, way: Way) -> bool {
        let failure = self.server().failure;
        let is_check = message.method() == "OPTIONS" && message.get("X-Id").is_empty();
        match failure {
            Some(Failure::Freeze) => {
                self.server().frozen.push_back((message.clone(), way));
                false
            }
            Some(Failure::Refuse) if message.is_request() && message.method() != "ACK" => {
                self.refuse(ctx, message, way);
                false
            }
            Some(Failure::RefuseOptions) if message.is_request() && is_check => {
                self.refuse(ctx, message, way);
                false
            }
            _ if message.is_request() && is_check => {
                self.send(ctx, way, &message.answer("200 OK", "o"));
                false
            }
            _ => true,
        }
    }

    fn refuse(&mut self, ctx: &mut Ctx, message: &Msg, way: Way) {
        ctx.judge.was_answered(message.get("X-Id"), ctx.net.now());
        let number = self.number();
        let mut response = message.answer("503 Service Unavailable", "u");
        response.push("X-Rid", format!("{} {number}", self.id));
        self.send(ctx, way, &response);
    }

    /// A way to the proxy: over a connection that is there, else one of its own.
    fn server_way(&mut self, ctx: &mut Ctx) -> Option<Way> {
        let own = self.server().address;
        if ctx.setup.internal == Transport::Udp {
            let to = ctx.net.0.borrow().points[usize::from(ctx.setup.server_udp_point())].0;
            return Some(Way::Udp { own, to });
        }
        let wires: Vec<_> = self.conns.keys().copied().collect();
        if let Some(wire) = ctx.chance.choice(&wires).filter(|_| !ctx.setup.seed.is_multiple_of(3)) {
            return Some(Way::Wire(*wire));
        }
        let point = ctx.setup.server_point();
        self.connect(ctx, point).map(Way::Wire)
    }

    fn server_via(&mut self, ctx: &Ctx) -> String {
        let branch = self.branch();
        format!("SIP/2.0/{} {};branch={branch}", ctx.setup.internal.via_name(), self.server().address)
    }

    fn server_contact(&mut self, ctx: &Ctx) -> String {
        let address = self.server().address;
        match ctx.setup.internal {
            Transport::Udp => format!("<sip:{address}>"),
            other => format!("<sip:{address};transport={}>", other.param_name()),
        }
    }

    pub fn server_later(&mut self, ctx: &mut Ctx, what: Later) {
        if let Later::Answer { key, status } = what {
            self.server_answers(ctx, &key, status);
        }
    }

    pub fn server_up(&mut self, ctx: &mut Ctx, up: Up) {
        match up {
            Up::Request { key } => self.server_asked(ctx, &key),
            Up::Cancel { key } => self.server_cancelled(ctx, &key),
            Up::Response { key, client, response, again } => self.server_hears(ctx, &key, &client, &response, again),
            Up::Timeout { client } => {
                if let Why::For(key) = &client.why {
                    self.server_times_out(ctx, key, &client);
                }
            }
            Up::Ack { ack } => {
                // One without an identity acknowledges an error of this server's own.
                if ctx.setup.server == ServerKind::Proxy && !ack.get("X-Id").is_empty() && !is_for_service(&ack) {
                    self.forward_ack(ctx, ack);
                }
            }
            Up::NoAck { .. } | Up::Stray { .. } => {}
        }
    }

    fn server_asked(&mut self, ctx: &mut Ctx, key: &str) {
        let Some(served) = self.stack.served.get(key) else { return };
        let request = served.request.clone();
        match request.method() {
            "REGISTER" => return self.registers(ctx, key, &request),
            "INVITE" => self.respond(ctx, key, request.answer("100 Trying", "")),
            _ => {}
        }
        if ctx.setup.server == ServerKind::Proxy && !is_for_service(&request) {
            return self.forward(ctx, key, request);
        }
        if !parameter(request.get("To"), "tag").is_empty() {
            return self.within_dialog(ctx, key, &request);
        }
        match self.next_of(ctx, &request) {
            Some(next) => self.bridge(ctx, key, &request, next),
            None if is_for_service(&request) => {
                let status = *ctx.chance.choice(&SERVICE).expect("there are some");
                let (most, key) = (ctx.setup.ring_ms, key.to_owned());
                self.later_ms(ctx, 0..most, Later::Answer { key, status });
            }
            None => self.server_answers(ctx, key, "404 Not Found"),
        }
    }

    /// Where the user of a request is, by the registrar and by what is configured.
    fn next_of(&mut self, ctx: &mut Ctx, request: &Msg) -> Option<Next> {
        let user = user_of(request.uri());
        // A phone's call to itself has its own flow at both ends: what names that says how a request came, and is no
        // target (DESIGN, On the wire, 1). Only a server in between can tell the two ends apart.
        let is_direct = ctx.setup.is_proxying() && !ctx.setup.server_record_routes;
        let is_other = |party: PartyId| !is_direct || party.to_string() != from_of(request);
        if let Some((uri, party)) = ctx.setup.fixed.get(user).filter(|(_, party)| is_other(*party)) {
            return Some(Next { uri: uri.clone(), path: Vec::new(), to: party.to_string() });
        }
        let now = ctx.net.now();
        let mut bindings = ctx.book.of(user, now);
        bindings.retain(|binding| is_other(binding.phone));
        let binding = *ctx.chance.choice(&bindings)?;
        let to = binding.phone.to_string();
        Some(Next { uri: binding.contact.clone(), path: binding.path.clone(), to })
    }

    fn registers(&mut self, ctx: &mut Ctx, key: &str, request: &Msg) {
        if ctx.chance_of(8) {
            return self.server_answers(ctx, key, "401 Unauthorized");
        }
        let phone = request.get("X-Id").split(' ').next().and_then(|id| id.parse().ok()).expect("of a phone");
        let expires: u64 = request.get("Expires").parse().expect("a number");
        let user = user_of(uri_of(request.get("To"))).to_owned();
        let contact = uri_of(request.get("Contact")).to_owned();
        let path: Vec<String> = request.all("Path").map(str::to_owned).collect();
        // One that was overtaken by a later one changes nothing (RFC 3261 §10.3, step 7).
        let by = (request.get("Call-ID").to_owned(), request.cseq());
        let is_overtaken = |one: &&Binding| one.phone == phone && one.by.0 == by.0 && one.by.1 > by.1;
        if ctx.book.bindings.iter().any(|one| is_overtaken(&one)) {
            return self.server_answers(ctx, key, "500 Server Internal Error");
        }
        let mut response = request.answer("200 OK", "reg");
        for value in &path {
            response.push("Path", value.as_str());
        }
        if expires == 0 {
            ctx.book.unbind(phone);
        } else {
            response.push("Contact", format!("<{contact}>;expires={expires}"));
            let until = ctx.net.now().after(Duration::from_secs(expires));
            ctx.book.bind(Binding { user, phone, contact, path, until, by });
        }
        self.respond(ctx, key, response);
    }

    fn server_answers(&mut self, ctx: &mut Ctx, key: &str, status: &'static str) {
        let Some(served) = self.stack.served.get(key) else { return };
        let request = served.request.clone();
        let mut response = request.answer(status, &format!("s{}", self.id));
        if matches!(request.method(), "INVITE" | "SUBSCRIBE") {
            response.push("Contact", self.server_contact(ctx));
        }
        body(ctx, &mut response);
        if request.method() == "INVITE" && response.code() / 100 == 2 && ctx.book.leg(request.get("Call-ID")).is_none()
        {
            ctx.book.legs.push(Dialog::callee(&request, &response, from_of(&request)));
        }
        self.respond(ctx, key, response);
    }

    // --- as a B2BUA -----------------------------------------------------------------------------------------

    /// A request of the server's own to this target.
    fn own_request(&mut self, ctx: &mut Ctx, method: &str, next: &Next, from_user: &str) -> Msg {
        let (via, contact, number, id) = (self.server_via(ctx), self.server_contact(ctx), self.number(), self.id);
        let mut out = Msg::request(method, &next.uri);
        out.push("Via", via);
        out.push("Max-Forwards", "70");
        for path in &next.path {
            out.push("Route", path.as_str());
        }
        out.push("From", format!("<sip:{from_user}@example.com>;tag=b{id}.{number}"));
        out.push("To", format!("<sip:{}@example.com>", user_of(&next.uri)));
        out.push("Call-ID", format!("b{number}-{id}"));
        out.push("CSeq", format!("1 {method}"));
        out.push("X-Id", format!("{id} {number} {}", next.to));
        if matches!(method, "INVITE" | "SUBSCRIBE") {
            out.push("Contact", contact);
        }
        out
    }

    fn bridge(&mut self, ctx: &mut Ctx, key: &str, request: &Msg, next: Next) {
        let from = user_of(uri_of(request.get("From"))).to_owned();
        let mut out = self.own_request(ctx, request.method(), &next, &from);
        out.body.clone_from(&request.body);
        self.send_for(ctx, key, out);
    }

    /// Sends a request for the one under `key`, which is refused when there is no way.
    fn send_for(&mut self, ctx: &mut Ctx, key: &str, out: Msg) {
        match self.server_way(ctx) {
            Some(way) => {
                let is_another = |served: &&Served| served.request.get("X-Id") != out.get("X-Id");
                if let Some(served) = self.stack.served.get(key).filter(is_another) {
                    ctx.judge.made(served.request.get("X-Id"), out.get("X-Id"));
                }
                self.ask(ctx, out, way, Why::For(key.to_owned()));
            }
            None => self.server_answers(ctx, key, "480 Temporarily Unavailable"),
        }
    }

    fn within_dialog(&mut self, ctx: &mut Ctx, key: &str, request: &Msg) {
        let call_id = request.get("Call-ID").to_owned();
        let Some(leg) = ctx.book.leg(&call_id) else {
            return self.server_answers(ctx, key, "481 Call/Transaction Does Not Exist");
        };
        let mate = leg.mate.clone();
        if request.method() == "BYE" {
            ctx.book.end(&call_id);
        }
        match mate.filter(|mate| ctx.book.leg(mate).is_some()) {
            Some(mate) => self.server_goes_on(ctx, &mate, request.method(), Some(key)),
            None => self.server_answers(ctx, key, "200 OK"),
        }
    }

    /// Something within a leg, for a request of its mate or by itself.
    pub fn server_goes_on(&mut self, ctx: &mut Ctx, call_id: &str, method: &str, key: Option<&str>) {
        let (via, contact, number, id) = (self.server_via(ctx), self.server_contact(ctx), self.number(), self.id);
        let Some(leg) = ctx.book.leg(call_id) else { return };
        let mut out = leg.request(method, None);
        out.push_front("Via", via);
        out.push("X-Id", format!("{id} {number} {}", leg.peer));
        if method == "INVITE" {
            out.push("Contact", contact);
        }
        if method == "BYE" {
            ctx.book.end(call_id);
        }
        match key {
            Some(key) => self.send_for(ctx, key, out),
            None => {
                let Some(way) = self.server_way(ctx) else { return };
                self.ask(ctx, out, way, Why::Own);
            }
        }
    }

    /// The server itself asks a phone.
    pub fn server_asks(&mut self, ctx: &mut Ctx, method: &str, user: &str) {
        let asks_for = Msg::request(method, &format!("sip:{user}@example.com"));
        let Some(next) = self.next_of(ctx, &asks_for) else { return };
        let mut out = self.own_request(ctx, method, &next, "service");
        body(ctx, &mut out);
        let Some(way) = self.server_way(ctx) else { return };
        self.ask(ctx, out, way, Why::Own);
    }

    fn server_cancelled(&mut self, ctx: &mut Ctx, key: &str) {
        let is_its = |(_, client): &(&String, &Client)| client.why == Why::For(key.to_owned());
        let client = self.stack.clients.iter().find(is_its);
        let onward = client.map(|(onward, client)| (onward.clone(), client.provisional));
        match onward {
            Some((onward, true)) => self.cancel(ctx, &onward),
            Some((onward, false)) => self.server().to_cancel.push(onward),
            None => self.server_answers(ctx, key, "487 Request Terminated"),
        }
    }

    fn server_hears(&mut self, ctx: &mut Ctx, key: &str, client: &Client, response: &Msg, again: bool) {
        let at = self.server().to_cancel.iter().position(|one| one == key);
        if let Some(at) = at.filter(|_| client.provisional) {
            self.server().to_cancel.swap_remove(at);
            self.cancel(ctx, key);
        }
        self.heard(ctx, client, response, again);
    }

    fn heard(&mut self, ctx: &mut Ctx, client: &Client, response: &Msg, again: bool) {
        let code = response.code();
        let is_accepted = client.request.method() == "INVITE" && code / 100 == 2;
        let Why::For(key) = &client.why else {
            if is_accepted {
                self.own_call(ctx, client, response, None);
            }
            return;
        };
        if ctx.setup.server == ServerKind::Proxy {
            return self.pass_back(ctx, key, response, again);
        }
        if is_accepted {
            self.own_call(ctx, client, response, Some(key));
        }
        if code == 100 || again {
            return;
        }
        let Some(served) = self.stack.served.get(key) else { return };
        let request = served.request.clone();
        let status = response.start.trim_start_matches("SIP/2.0 ").to_owned();
        let mut out = request.answer(&status, &format!("s{}", self.id));
        if matches!(request.method(), "INVITE" | "SUBSCRIBE") {
            out.push("Contact", self.server_contact(ctx));
        }
        out.body.clone_from(&response.body);
        let is_new = parameter(request.get("To"), "tag").is_empty();
        if is_accepted && is_new && ctx.book.leg(request.get("Call-ID")).is_none() {
            let mut leg = Dialog::callee(&request, &out, from_of(&request));
            leg.mate = Some(response.get("Call-ID").to_owned());
            ctx.book.legs.push(leg);
        }
        self.respond(ctx, key, out);
    }

    /// A phone has answered an INVITE of the server's own with a 2xx: it is acknowledged each time.
    fn own_call(&mut self, ctx: &mut Ctx, client: &Client, response: &Msg, of: Option<&str>) {
        let peer = client.request.get("X-Id").split(' ').nth(2).unwrap_or("").to_owned();
        let mut leg = Dialog::caller(&client.request, response, &peer);
        if !parameter(client.request.get("To"), "tag").is_empty() {
            leg.routes = client.request.all("Route").map(str::to_owned).collect();
        } else if ctx.book.leg(&leg.call_id).is_none() {
            let of = of.and_then(|key| self.stack.served.get(key));
            leg.mate = of.map(|served| served.request.get("Call-ID").to_owned());
            ctx.book.legs.push(leg.clone());
        }
        let (via, number, id) = (self.server_via(ctx), self.number(), self.id);
        let mut ack = leg.request("ACK", Some(client.request.cseq()));
        ack.push_front("Via", via);
        ack.push("X-Id", format!("{id} {number} {peer}"));
        if let Some(way) = self.server_way(ctx) {
            self.send(ctx, way, &ack);
        }
    }

    fn server_times_out(&mut self, ctx: &mut Ctx, key: &str, client: &Client) {
        // A proxy says nothing to what is no INVITE (RFC 4320 §4.2).
        if client.request.method() == "INVITE" {
            self.server_answers(ctx, key, "408 Request Timeout");
        } else if ctx.setup.server == ServerKind::B2bua {
            self.server_answers(ctx, key, "480 Temporarily Unavailable");
        }
    }

    // --- as a proxy -----------------------------------------------------------------------------------------

    /// Sends a request on as RFC 3261 §16 asks.
    fn forward(&mut self, ctx: &mut Ctx, key: &str, request: Msg) {
        let in_dialog = !parameter(request.get("To"), "tag").is_empty();
        let mut out = self.onward(ctx, request);
        if !in_dialog {
            let Some(next) = self.next_of(ctx, &out) else {
                return self.server_answers(ctx, key, "404 Not Found");
            };
            ctx.judge.onward(out.get("X-Id"), &next.to);
            out.set_uri(&next.uri);
            for path in next.path.iter().rev() {
                out.push_front("Route", path.as_str());
            }
            if ctx.setup.server_record_routes && matches!(out.method(), "INVITE" | "SUBSCRIBE") {
                let own = self.record_route(ctx);
                out.push_front("Record-Route", own);
            }
        }
        let via = self.server_via(ctx);
        out.push_front("Via", via);
        self.send_for(ctx, key, out);
    }

    fn record_route(&mut self, ctx: &Ctx) -> String {
        format!("{};lr>", self.server_contact(ctx).trim_end_matches('>'))
    }

    /// One hop less, and without its own Route.
    fn onward(&mut self, ctx: &Ctx, mut request: Msg) -> Msg {
        let hops: u32 = request.get("Max-Forwards").parse().unwrap_or(70);
        request.set("Max-Forwards", hops.saturating_sub(1).to_string());
        let own = self.record_route(ctx);
        let is_own = |value: &str| ctx.setup.servers.iter().any(|server| value.contains(&server.to_string()));
        if request.get("Route") == own || is_own(request.get("Route")) {
            let at = request.fields.iter().position(|(name, _)| name == "Route").expect("there is one");
            request.fields.remove(at);
        }
        request
    }

    fn forward_ack(&mut self, ctx: &mut Ctx, ack: Msg) {
        let mut out = self.onward(ctx, ack);
        let via = self.server_via(ctx);
        out.push_front("Via", via);
        if let Some(way) = self.server_way(ctx) {
            self.send(ctx, way, &out);
        }
    }

    fn pass_back(&mut self, ctx: &mut Ctx, key: &str, response: &Msg, again: bool) {
        if response.code() == 100 {
            return;
        }
        let mut out = response.clone();
        let at = out.fields.iter().position(|(name, _)| name == "Via").expect("there is one");
        out.fields.remove(at);
        if again {
            let way = self.stack.served.get(key).map(|served| served.way);
            if let Some(way) = way {
                self.send(ctx, way, &out);
            }
            return;
        }
        if out.get("X-Rid").is_empty() {
            // The proxy's own answer: from here on it is this server's.
            let number = self.number();
            out.push("X-Rid", format!("{} {number}", self.id));
        }
        self.respond(ctx, key, out);
    }
}

/// Whether the server itself is asked.
fn is_for_service(request: &Msg) -> bool {
    user_of(uri_of(request.get("To"))) == "service" || user_of(uri_of(request.get("From"))) == "service"
}

/// The party that has sent a request, as `X-Id` says it.
fn from_of(request: &Msg) -> &str {
    request.get("X-Id").split(' ').next().unwrap_or("")
}

const SERVICE: [&str; 8] =
    ["200 OK", "200 OK", "200 OK", "200 OK", "486 Busy Here", "404 Not Found", "302 Moved Temporarily", "603 Decline"];
