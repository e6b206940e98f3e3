//! What the parties of the chaos do: one step each, drawn by the seed.

use hawser::engine::Input;

use super::*;

impl Chaos {
    pub(super) fn connect(&mut self, user: usize) {
        if let Some(port) = &mut self.users[user].udp_port {
            *port += 1;
        } else {
            let point = if self.rng.bool() { TLS } else { TCP };
            let wire = self.world.connect(self.rng.u8(..self.shards()), point);
            self.owners.insert((wire.shard, wire.conn.slot, wire.conn.generation), user);
            self.users[user].wires.push(wire);
            self.users[user].phone.via = if point == TLS { "TLS" } else { "TCP" };
        }
        if self.rng.bool() {
            self.count += 1;
            let port = 10_000 + self.count;
            self.users[user].phone.contact = format!("sip:{}@192.0.2.7:{port}", USERS[user]);
        }
        self.register(user);
    }

    pub(super) fn lose(&mut self, user: usize) {
        if self.users[user].wires.is_empty() {
            return;
        }
        let wire = self.users[user].wires[self.rng.usize(..self.users[user].wires.len())];
        if self.rng.bool() {
            self.note(format!("u{user} closes its half of {wire:?}"));
            self.forget(wire);
            self.half.push(wire);
            return self.world.input(wire.shard, Input::HalfClosed { conn: wire.conn });
        }
        self.note(format!("u{user} loses {wire:?}"));
        self.forget(wire);
        self.world.hang_up(wire);
    }

    pub(super) fn register(&mut self, user: usize) {
        if self.reboots && self.users[user].phone.params.is_empty() && self.rng.u8(..3) == 0 {
            self.count += 1;
            self.users[user].phone.call_id = format!("reg{}-{}", self.count, USERS[user]);
        }
        let expires = match self.rng.u8(..8) {
            0 => 0,
            1 => 30,
            _ => 600,
        };
        let text = self.users[user].phone.register_text(expires);
        self.issue(Party::User(user), text);
    }

    pub(super) fn call_user(&mut self, user: usize) {
        if !self.users[user].registered {
            return;
        }
        self.count += 1;
        let method = ["INVITE", "INVITE", "MESSAGE", "OPTIONS", "SUBSCRIBE"][self.rng.usize(..5)];
        let text = self.users[user].phone.server_request(method, &format!("s{}-{}", self.count, USERS[user]), 1);
        let text = text.replacen(&format!("UDP {SERVER}"), &self.server_via(), 1);
        self.issue(Party::Server, text);
    }

    pub(super) fn call_server(&mut self, user: usize) {
        self.count += 1;
        let method = ["INVITE", "INVITE", "MESSAGE"][self.rng.usize(..3)];
        let (count, name) = (self.count, USERS[user]);
        let text = format!(
            "{method} sip:service@example.com SIP/2.0\r\nVia: SIP/2.0/{};branch=z9hG4bKp{count};rport\r\n\
             From: <sip:{name}@example.com>;tag=f{count}\r\nTo: <sip:service@example.com>\r\n\
             Call-ID: p{count}-{name}\r\nCSeq: 1 {method}\r\nContact: <{}>\r\nContent-Length: 0\r\n\r\n",
            self.user_via(user),
            self.users[user].phone.contact
        );
        self.issue(Party::User(user), text);
    }

    pub(super) fn answer_one(&mut self) {
        if self.received.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.received.len());
        let Received { text, by, place } = &self.received[at];
        let (text, by, place) = (text.clone(), *by, *place);
        let method = cseq_method(&text).to_owned();
        if method == "INVITE" && self.rng.u8(..3) == 0 {
            let status = ["100 Trying", "180 Ringing", "183 Session Progress"][self.rng.usize(..3)];
            self.send(by, Some(place), &answer(&text, status, "x", ""));
            return;
        }
        self.received.swap_remove(at);
        self.excuse_late(&text);
        if by == Party::Server && method == "REGISTER" {
            return self.answer_register(place, &text);
        }
        let status = match self.rng.u8(..8) {
            0 => "486 Busy Here",
            1 => "404 Not Found",
            2 => "503 Service Unavailable",
            _ => "200 OK",
        };
        let contact = match by {
            Party::Server => format!("Contact: <sip:{SERVER}>\r\n"),
            Party::User(user) => format!("Contact: <{}>\r\n", self.users[user].phone.contact),
        };
        let response = answer(&text, status, "x", &contact);
        if !self.send(by, Some(place), &response) {
            self.excuse(None);
        }
        if method != "INVITE" {
            self.answered.insert(key_of(&text), response);
        }
    }

    pub(super) fn answer_register(&mut self, place: Place, text: &str) {
        let user = USERS.iter().position(|user| header(text, "Call-ID").ends_with(user)).expect("one of them");
        if self.rng.u8(..10) == 0 {
            self.send(Party::Server, Some(place), &answer(text, "401 Unauthorized", "x", ""));
            return;
        }
        let expires = header(text, "Expires");
        let contact = uri(header(text, "Contact")).to_owned();
        let path: Vec<String> = headers(text, "Path").iter().map(ToString::to_string).collect();
        let mut extra: String = path.iter().map(|path| format!("Path: {path}\r\n")).collect();
        if expires != "0" {
            extra += &format!("Contact: <{contact}>;expires={expires}\r\n");
            self.users[user].registered = true;
            self.users[user].phone.path = path;
            self.users[user].phone.bound_contact = contact;
        }
        self.send(Party::Server, Some(place), &answer(text, "200 OK", "x", &extra));
    }

    pub(super) fn cancel_one(&mut self) {
        let open = |issued: &&Issued| issued.finals.is_empty() && issued.text.starts_with("INVITE ");
        let open: Vec<(Party, String)> =
            self.issued.values().filter(open).map(|issued| (issued.by, issued.text.clone())).collect();
        if !open.is_empty() {
            let (by, text) = &open[self.rng.usize(..open.len())];
            let cancel = derived(text, "CANCEL", None);
            self.send(*by, None, &cancel);
        }
    }

    pub(super) fn in_dialog(&mut self) {
        if self.dialogs.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.dialogs.len());
        let method = ["BYE", "INVITE", "INFO"][self.rng.usize(..3)];
        let by = if self.rng.bool() { Party::Server } else { Party::User(self.dialogs[at].0) };
        let via = self.via_of(by);
        let (_, server, phone) = &mut self.dialogs[at];
        let dialog = if by == Party::Server { server } else { phone };
        let text = dialog.request(method, &via);
        // The contact of who sends it is not what it calls.
        let own = match by {
            Party::Server => format!("sip:{SERVER}"),
            Party::User(user) => self.users[user].phone.contact.clone(),
        };
        let target = dialog.target.clone();
        let text = text.replacen(&format!("Contact: <{target}>"), &format!("Contact: <{own}>"), 1);
        if method == "BYE" {
            self.dialogs.swap_remove(at);
        }
        self.issue(by, text);
    }

    /// One phone uses what it has learnt of another.
    pub(super) fn attack(&mut self, user: usize) {
        let victim = self.rng.usize(..self.users.len());
        self.count += 1;
        let (count, name) = (self.count, USERS[user]);
        let own: String = self.users[user].phone.path.iter().map(|path| format!("Route: {path}\r\n")).collect();
        let theirs: String = self.users[victim].phone.path.iter().map(|path| format!("Route: {path}\r\n")).collect();
        let target = match self.users[victim].phone.bound_contact.as_str() {
            "" => "sip:nobody@example.com",
            contact => contact,
        };
        let text = format!(
            "MESSAGE {target} SIP/2.0\r\nVia: SIP/2.0/{};branch=z9hG4bKa{count};rport\r\n{own}{theirs}\
             From: <sip:{name}@example.com>;tag=a{count}\r\nTo: <sip:x@example.com>\r\n\
             Call-ID: a{count}-{name}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n",
            self.user_via(user)
        );
        self.issue(Party::User(user), text);
    }

    pub(super) fn restart(&mut self) {
        self.boot += 1;
        self.note("restart".to_owned());
        self.excuse(None);
        self.world.restart(&Setup { boot: self.boot, ..(self.setup)(self.seed) });
        self.owners.clear();
        self.server_wires.clear();
        self.half.clear();
        self.received.clear();
        self.seen.clear();
        self.answered.clear();
        self.net.clear();
        for user in &mut self.users {
            user.wires.clear();
        }
        self.opened_seen = self.world.opened.len();
        self.closed_seen = self.world.closed.len();
    }
}
