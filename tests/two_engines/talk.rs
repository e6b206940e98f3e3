//! Literal messages of phones and SIP Servers, and what a story reads out of those that it gets.

use crate::world::{SERVER, Wire, World};

/// A header field's values, in order, whole lines.
pub fn headers<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    // By bytes: the chaos spends most of its time here.
    message
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .take_while(|line| !line.is_empty())
        .skip(1)
        .filter(|line| line.as_bytes().first().is_some_and(|first| first.eq_ignore_ascii_case(&name.as_bytes()[0])))
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// A header field's only value.
#[track_caller]
pub fn header<'a>(message: &'a str, name: &str) -> &'a str {
    let all = headers(message, name);
    assert_eq!(all.len(), 1, "{name} in {message}");
    all[0]
}

pub fn start_line(message: &str) -> &str {
    message.split("\r\n").next().unwrap_or("")
}

/// The URI in the brackets of a value.
#[track_caller]
pub fn uri(value: &str) -> &str {
    value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(uri, _)| uri).expect("brackets")
}

/// A response to a request as its receiver makes it: all Vias, Record-Routes, and a To tag.
pub fn answer(request: &str, status: &str, to_tag: &str, extra: &str) -> String {
    let mut out = format!("SIP/2.0 {status}\r\n");
    for name in ["Via", "Record-Route"] {
        for value in headers(request, name) {
            out += &format!("{name}: {value}\r\n");
        }
    }
    let to = header(request, "To");
    let tag = if to.contains("tag=") || to_tag.is_empty() { String::new() } else { format!(";tag={to_tag}") };
    out += &format!("From: {}\r\nTo: {to}{tag}\r\n", header(request, "From"));
    out += &format!("Call-ID: {}\r\nCSeq: {}\r\n", header(request, "Call-ID"), header(request, "CSeq"));
    out += extra;
    out + "Content-Length: 0\r\n\r\n"
}

/// A registered phone.
#[derive(Clone, Debug)]
pub struct Phone {
    pub user: &'static str,
    pub wire: Wire,
    pub via: &'static str,
    pub contact: String,
    pub params: &'static str,
    pub cseq: u32,
    /// Of its REGISTERs.
    pub call_id: String,
    /// What the SIP Server stored.
    pub path: Vec<String>,
    pub bound_contact: String,
    pub supported: &'static str,
}

impl Phone {
    pub fn new(user: &'static str, wire: Wire) -> Self {
        Self {
            user,
            wire,
            via: "TLS",
            contact: format!("sip:{user}@192.0.2.7:5060;transport=tls"),
            params: ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\";reg-id=1",
            cseq: 0,
            call_id: format!("reg-{user}"),
            path: Vec::new(),
            bound_contact: String::new(),
            supported: "Supported: path, outbound\r\n",
        }
    }

    pub fn register_text(&mut self, expires: u32) -> String {
        self.cseq += 1;
        let Self { user, via, contact, params, cseq, call_id, supported, .. } = self;
        format!(
            "REGISTER sip:example.com SIP/2.0\r\n\
             Via: SIP/2.0/{via} 192.0.2.7:5060;branch=z9hG4bKreg{user}{cseq}{call_id};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{user}@example.com>;tag=r{user}\r\n\
             To: <sip:{user}@example.com>\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} REGISTER\r\n\
             Contact: <{contact}>{params}\r\n\
             {supported}Expires: {expires}\r\n\
             Content-Length: 0\r\n\r\n"
        )
    }

    /// Sends a REGISTER, which the story answers.
    pub fn send_register(&mut self, world: &mut World, expires: u32) {
        let text = self.register_text(expires);
        world.write(self.wire, &text);
    }

    /// Registers, with the server's 200, and reads the answer.
    #[track_caller]
    pub fn register(&mut self, world: &mut World, expires: u32) -> String {
        self.send_register(world, expires);
        self.accept_register(world, expires);
        world.read(self.wire)
    }

    /// The server's part of a registration.
    #[track_caller]
    pub fn accept_register(&mut self, world: &mut World, expires: u32) -> String {
        let request = world.expect_server("REGISTER ");
        self.path = headers(&request, "Path").iter().map(ToString::to_string).collect();
        self.bound_contact = uri(header(&request, "Contact")).to_owned();
        let mut extra = String::new();
        for path in &self.path {
            extra += &format!("Path: {path}\r\n");
        }
        if expires > 0 {
            extra += &format!("Contact: <{}>;expires={expires}\r\n", self.bound_contact);
        }
        let response = answer(&request, "200 OK", "srv", &extra);
        // It may land anywhere: the branch says where it belongs.
        world.datagram(1, SERVER, &response);
        request
    }

    /// A request of the SIP Server outside of dialogs, by what it stored.
    pub fn server_request(&self, method: &str, call_id: &str, cseq: u32) -> String {
        let routes: String = self.path.iter().map(|path| format!("Route: {path}\r\n")).collect();
        format!(
            "{method} {} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {SERVER};branch=z9hG4bKsrv{method}{call_id}{cseq}\r\n\
             Max-Forwards: 70\r\n\
             {routes}\
             From: <sip:caller@example.com>;tag=c1\r\n\
             To: <sip:{}@example.com>\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\n\
             Contact: <sip:{SERVER}>\r\n\
             Content-Length: 0\r\n\r\n",
            self.bound_contact, self.user
        )
    }

    /// Such a request reaches the phone: as the server sent it, and as it came.
    #[track_caller]
    pub fn asked(&self, world: &mut World, method: &str, call_id: &str) -> (String, String) {
        let sent = self.server_request(method, call_id, 1);
        world.datagram(0, SERVER, &sent);
        let came = world.expect(self.wire, method);
        (sent, came)
    }
}

/// One end of a dialog, as it was made by an INVITE and its 200.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub call_id: String,
    pub local: String,
    pub remote: String,
    pub target: String,
    pub routes: Vec<String>,
    pub cseq: u32,
}

impl Dialog {
    /// Of who sent the INVITE, from the 200 that it got.
    pub fn caller(response: &str) -> Self {
        let mut routes: Vec<String> = headers(response, "Record-Route").iter().map(ToString::to_string).collect();
        routes.reverse();
        Self {
            call_id: header(response, "Call-ID").to_owned(),
            local: header(response, "From").to_owned(),
            remote: header(response, "To").to_owned(),
            target: uri(header(response, "Contact")).to_owned(),
            routes,
            cseq: 1,
        }
    }

    /// Of who got the INVITE, and answered with this tag.
    pub fn callee(invite: &str, tag: &str) -> Self {
        Self {
            call_id: header(invite, "Call-ID").to_owned(),
            local: format!("{};tag={tag}", header(invite, "To")),
            remote: header(invite, "From").to_owned(),
            target: uri(header(invite, "Contact")).to_owned(),
            routes: headers(invite, "Record-Route").iter().map(ToString::to_string).collect(),
            cseq: 100,
        }
    }

    /// The SIP Server, whose end this is, hangs up; its BYE lands on this shard. The phone gets it, and the server the
    /// phone's 200.
    #[track_caller]
    pub fn server_hangs_up(&mut self, world: &mut World, shard: u8, phone: Wire) {
        let bye = self.request("BYE", &format!("UDP {SERVER}"));
        world.datagram(shard, SERVER, &bye);
        let bye = world.expect(phone, "BYE ");
        world.write(phone, &answer(&bye, "200 OK", "", ""));
        world.expect_server("SIP/2.0 200");
    }

    pub fn request(&mut self, method: &str, via: &str) -> String {
        if method != "ACK" {
            self.cseq += 1;
        }
        let Self { call_id, local, remote, target, routes, cseq } = self;
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        format!(
            "{method} {target} SIP/2.0\r\n\
             Via: SIP/2.0/{via};branch=z9hG4bKd{method}{cseq}{call_id}\r\n\
             Max-Forwards: 70\r\n\
             {routes}From: {local}\r\n\
             To: {remote}\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\n\
             Contact: <{target}>\r\n\
             Content-Length: 0\r\n\r\n"
        )
    }
}
