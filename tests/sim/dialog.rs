//! One end of a dialog (RFC 3261 §12).

use crate::message::{Msg, uri_of};

/// See the module.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub call_id: String,
    pub local: String,
    pub remote: String,
    pub target: String,
    pub routes: Vec<String>,
    pub cseq: u32,
    /// Who is at the other end, as `X-Id` says it.
    pub peer: String,
    /// Of a B2BUA: the Call-ID of the leg that this one is joined with.
    pub mate: Option<String>,
}

impl Dialog {
    /// Of who has sent the INVITE, by a 2xx to it.
    pub fn caller(invite: &Msg, response: &Msg, peer: &str) -> Self {
        let mut routes: Vec<String> = response.all("Record-Route").map(str::to_owned).collect();
        routes.reverse();
        Self {
            call_id: response.get("Call-ID").to_owned(),
            local: response.get("From").to_owned(),
            remote: response.get("To").to_owned(),
            target: uri_of(response.get("Contact")).to_owned(),
            routes,
            cseq: invite.cseq(),
            peer: peer.to_owned(),
            mate: None,
        }
    }

    /// Of who has answered it with this response.
    pub fn callee(invite: &Msg, response: &Msg, peer: &str) -> Self {
        Self {
            call_id: invite.get("Call-ID").to_owned(),
            local: response.get("To").to_owned(),
            remote: invite.get("From").to_owned(),
            target: uri_of(invite.get("Contact")).to_owned(),
            routes: invite.all("Record-Route").map(str::to_owned).collect(),
            cseq: 1_000,
            peer: peer.to_owned(),
            mate: None,
        }
    }

    /// A request within it, but for its Via, Contact and `X-Id`. An ACK has the number of the INVITE.
    pub fn request(&mut self, method: &str, cseq: Option<u32>) -> Msg {
        let number = cseq.unwrap_or_else(|| {
            self.cseq += 1;
            self.cseq
        });
        let mut out = Msg::request(method, &self.target);
        out.push("Max-Forwards", "70");
        for route in &self.routes {
            out.push("Route", route.as_str());
        }
        out.push("From", self.local.as_str());
        out.push("To", self.remote.as_str());
        out.push("Call-ID", self.call_id.as_str());
        out.push("CSeq", format!("{number} {method}"));
        out
    }
}
