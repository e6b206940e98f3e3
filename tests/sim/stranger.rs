//! Somebody whom nobody knows, with what can be learnt of others: tokens, branches, addresses. Nothing of it may reach
//! anybody but the SIP Servers, whom anybody may ask.

use std::net::SocketAddr;

use crate::agent::Role;
use crate::dialog::Dialog;
use crate::message::Msg;
use crate::net::PartyId;
use crate::plan::STRANGER;
use crate::steps::stranger_address;
use crate::world::World;

/// Texts that are wrong each in its own way.
const WRONG: [&str; 42] = [
    "MESSAGE sip:a@example.com SIP/7.0\r\n{via}\r\n{rest}\r\n\r\n",
    "MESSAGE  sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\n\r\n",
    "MESSAGE sip: SIP/2.0\r\n{via}\r\n{rest}\r\n\r\n",
    "MESSAGE sip:a@example.com:99999 SIP/2.0\r\n{via}\r\n{rest}\r\n\r\n",
    "MESSAGE sip:{long}@example.com SIP/2.0\r\n{via}\r\n{rest}\r\n\r\n",
    "MESSAGE wais:what SIP/2.0\r\n{via}\r\n{rest}\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nFrom: <sip:x@x>;tag=1\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>;tag=1\r\nCSeq: 1 MESSAGE\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>;tag=1\r\nCall-ID: 1\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x\r\nFrom: <sip:x@x>\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>\r\nCall-ID: a b\r\nCSeq: 1 MESSAGE\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>\r\nCall-ID: 1\r\nCSeq: x MESSAGE\r\n\r\n",
    "MESSAGE sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>\r\nCall-ID: 1\r\nCSeq: 1 INFO\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nTo: <sip:y@y>\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nFrom: <sip:y@y>;tag=2\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nCall-ID: 2\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nCSeq: 2 MESSAGE\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nMax-Forwards: many\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nMax-Forwards: 0\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nMax-Forwards: 9\r\nMax-Forwards: 8\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nMax-Breadth: 0\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nContent-Length: -1\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nContent-Length: 900000\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nContent-Length: 60\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nRoute: <<sip\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nProxy-Require: time-travel\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nRoute: <sip:192.0.2.200:5060;lr>\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nno colon here\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\n{many}\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\n{rest}\r\nX-Long: {long}{long}{long}{long}{long}{long}\
     {long}{long}{long}{long}{long}{long}\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/UDP\r\n{rest}\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{rest}\r\n\r\n",
    "MESSAGE sip:a@example.com SIP/2.0\r\n{via}\r\nTo: <sip:x@x>",
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.1:5060;branch=z9hG4bKnone\r\n{rest}\r\n\r\n",
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.77:5060;branch=z9hG4bKnone\r\n{rest}\r\n\r\n",
    "CANCEL sip:a@b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>;tag=1\r\nCall-ID: 9\r\nCSeq: 1 CANCEL\r\n\r\n",
    "REGISTER sip:b SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>;tag=1\r\nCall-ID: 9\r\nCSeq: 1 REGISTER\r\n\
     Contact: <<<\r\n\r\n",
    "PRACK sip:0@0:0 SIP/2.0\r\n{via}\r\nTo: <sip:x@x>\r\nFrom: <sip:x@x>;tag=1\r\nCall-ID: 9\r\nCSeq: 1 PRACK\r\n\r\n",
    "hello\r\n\r\n",
];

impl World {
    /// A new address of the stranger's, and its number.
    fn strange(&mut self) -> (SocketAddr, u32) {
        self.strangers += 1;
        let own = stranger_address(self.strangers);
        self.ctx.net.0.borrow_mut().udp.insert(own, STRANGER);
        (own, self.strangers)
    }

    pub fn stranger(&mut self, what: u8, victim: PartyId) {
        let (own, nth) = self.strange();
        let to = self.ctx.net.0.borrow().points[0].0;
        match what % 16 {
            0..4 => {
                let text = WRONG[self.ctx.chance.usize(..WRONG.len())];
                let via = format!("Via: SIP/2.0/UDP {own};branch=z9hG4bKx{nth};rport");
                let rest = format!(
                    "To: <sip:x@example.com>\r\nFrom: <sip:x@example.com>;tag=1\r\nCall-ID: x{nth}\r\nCSeq: 1 MESSAGE"
                );
                let text = text.replace("{via}", &via).replace("{rest}", &rest);
                let text = text.replace("{long}", &"x".repeat(3_000)).replace("{many}", &"X-Many: 1\r\n".repeat(300));
                if what % 16 < 2 {
                    self.ctx.net.send(own, to, text.as_bytes());
                } else {
                    self.strange_stream(own, text.as_bytes());
                }
            }
            4 => self.ctx.net.send(own, to, b"\r\n\r\n"),
            5 => {
                let stun = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";
                self.ctx.net.send(own, to, stun);
            }
            6 => self.strange_stream(own, b"MESSAGE sip:never@example.com SIP/2.0\r\nVia: "),
            7 => self.strange_stream(own, &b"\r\n\r\n".repeat(40)),
            8 => self.strange_stream(own, b""),
            9 => self.service_check(own, nth),
            10 => self.steal_token(own, nth, victim),
            11 => self.forge_answer(own),
            12 => self.forge_cancel(own),
            _ => self.hijack(own, nth),
        }
    }

    /// An OPTIONS to the proxy itself, which answers it.
    fn service_check(&mut self, own: SocketAddr, nth: u32) {
        let to = self.ctx.net.0.borrow().points[0].0;
        let mut out = Msg::request("OPTIONS", &format!("sip:{to}"));
        out.push("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bKcheck{nth};rport"));
        out.push("Max-Forwards", "0");
        out.push("From", "<sip:probe@example.com>;tag=t");
        out.push("To", format!("<sip:{to}>"));
        out.push("Call-ID", format!("check{nth}"));
        out.push("CSeq", "1 OPTIONS");
        self.ctx.net.send(own, to, &out.bytes());
    }

    /// The route set of somebody's dialog, in another one: within a dialog as it claims, or as a new request of the same
    /// Call-ID. It may reach the pair, and nobody else.
    fn hijack(&mut self, own: SocketAddr, nth: u32) {
        let to = self.ctx.net.0.borrow().points[0].0;
        let dialogs: Vec<Dialog> = self.dialogs();
        let Some(dialog) = self.ctx.chance.choice(&dialogs).cloned() else { return };
        let is_new = self.ctx.chance.bool();
        let method = if is_new { "INVITE" } else { "INFO" };
        let mut out = Msg::request(method, &dialog.target);
        out.push("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bKhijack{nth};rport"));
        out.push("Max-Forwards", "70");
        for route in &dialog.routes {
            out.push("Route", route.as_str());
        }
        out.push("From", dialog.local.as_str());
        // As a new request it keeps the Call-ID and loses the tag; else it is of a dialog of its own.
        let new_to = dialog.remote.split(";tag=").next().unwrap_or("").to_owned();
        out.push("To", if is_new { new_to } else { dialog.remote.clone() });
        out.push("Call-ID", if is_new { dialog.call_id.clone() } else { format!("hijack{nth}") });
        out.push("CSeq", format!("{nth} {method}"));
        out.push("X-Id", format!("{STRANGER} {nth} s"));
        out.push("Contact", format!("<sip:thief@{own}>"));
        self.ctx.judge.left(STRANGER, &out, self.ctx.net.now());
        self.ctx.net.send(own, to, &out.bytes());
    }

    /// The phones' ends of all dialogs.
    fn dialogs(&self) -> Vec<Dialog> {
        let phones = self.agents.values().filter_map(|agent| match &agent.role {
            Role::Phone(phone) => Some(phone.dialogs.iter().cloned()),
            Role::Server(_) => None,
        });
        phones.flatten().collect()
    }

    /// Bytes over a connection that is left open.
    fn strange_stream(&mut self, own: SocketAddr, bytes: &[u8]) {
        let mut inside = self.ctx.net.0.borrow_mut();
        if let Some(wire) = inside.connect_party(STRANGER, own, 1) {
            inside.write(wire, 0, bytes);
        }
    }

    /// Another's way back, used as a Route or as the target.
    fn steal_token(&mut self, own: SocketAddr, nth: u32, victim: PartyId) {
        let Some(binding) = self.ctx.book.bindings.iter().find(|one| one.phone == victim).cloned() else { return };
        let to = self.ctx.net.0.borrow().points[0].0;
        let mut out = Msg::request("MESSAGE", &binding.contact);
        out.push("Via", format!("SIP/2.0/UDP {own};branch=z9hG4bKsteal{nth};rport"));
        out.push("Max-Forwards", "70");
        for path in &binding.path {
            out.push("Route", path.as_str());
        }
        out.push("From", "<sip:thief@example.com>;tag=t");
        out.push("To", "<sip:victim@example.com>");
        out.push("Call-ID", format!("steal{nth}"));
        out.push("CSeq", "1 MESSAGE");
        out.push("X-Id", format!("{STRANGER} {nth} s"));
        out.push("X-Genesys-Route", "sip:10.0.0.1:5060");
        self.ctx.judge.left(STRANGER, &out, self.ctx.net.now());
        self.ctx.net.send(own, to, &out.bytes());
    }

    /// A transaction of the proxy's that a party has got, answered by somebody else.
    fn forge_answer(&mut self, own: SocketAddr) {
        let to = self.ctx.net.0.borrow().points[0].0;
        let open = |agent: &crate::agent::Agent| {
            agent.stack.served.values().find(|served| served.response.is_none()).map(|served| served.request.clone())
        };
        let Some(request) = self.agents.values().find_map(open) else { return };
        let mut out = request.answer("200 OK", "forged");
        out.push("X-Rid", "nobody 1");
        self.ctx.net.send(own, to, &out.bytes());
    }

    /// A CANCEL for an INVITE that somebody else has sent.
    fn forge_cancel(&mut self, own: SocketAddr) {
        let to = self.ctx.net.0.borrow().points[0].0;
        let open = |agent: &crate::agent::Agent| {
            let mut clients = agent.stack.clients.values();
            clients.find(|client| client.request.method() == "INVITE").map(|client| client.request.clone())
        };
        let Some(request) = self.agents.values().find_map(open) else { return };
        let out = request.within("CANCEL", None);
        self.ctx.net.send(own, to, &out.bytes());
    }
}
