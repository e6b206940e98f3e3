//! What this shard has seen of SIP Servers, told to the owner of the verdict on them.

use std::net::SocketAddr;

use super::service_checks::OWNER;
use super::{Engine, Mail};
use crate::dns::NextHop;
use crate::server_pool::Evidence;
use crate::sip::Message;

impl Engine {
    pub(super) fn tell_evidence(&mut self, pair: u8, address: SocketAddr, evidence: Evidence) {
        self.ports.mail(OWNER, Mail::Evidence { pair, address, evidence });
    }

    fn tell_seen(&mut self, seen: Option<super::Seen>) {
        if let Some((pair, address, evidence)) = seen {
            self.tell_evidence(pair, address, evidence);
        }
    }

    /// A request other than OPTIONS of the server side.
    pub(super) fn note_server_request(&mut self, request: &Message, peer: SocketAddr) {
        let seen = self.connections.upstream().seen_request(request, peer, &self.env);
        self.tell_seen(seen);
    }

    /// A SIP Server has answered a request.
    pub(super) fn note_answer(&mut self, pair: u8, hop: NextHop, code: u16) {
        let seen = self.connections.upstream().seen_answer(pair, hop.address, code, &self.env.settings);
        self.tell_seen(seen);
    }

    /// The partner has taken a call that the active server would not.
    pub(super) fn note_takes_calls(&mut self, pair: u8, hop: NextHop) {
        let seen = self.connections.upstream().seen_call_taken(pair, hop.address, &self.env);
        self.tell_seen(seen);
    }
}
