//! Which shard handles a message: a pure function of the message, asked before any state is.

use super::{Engine, Level, Source};
use crate::clock::Time;
use crate::config::ClientAor;
use crate::ids::{ShardId, Side, Transport};
use crate::planted::{Plant, planted};
use crate::proxy::{Refusal, RouteSet, client_aor, route, target};
use crate::sip::{Message, Method};
use crate::stats::Counter;
use crate::transaction::Branch;

impl Engine {
    /// A message has been parsed where it landed.
    pub(super) fn on_message(&mut self, message: Box<Message>, source: Source, now: Time) {
        if self.tells(Level::Trace) {
            self.ports.tell_message("message received", source.peer, message.buf());
        }
        if !message.is_request() {
            // Before another shard is troubled with what anybody can write in the form of a branch of ours.
            if !self.env.names.is_own_via(message.top_via(), message.buf()) {
                return self.drop_response(message, Counter::ResponseForeignVia);
            }
            match Branch::read(message.text(message.top_via().branch)).map(|branch| self.astray(branch)) {
                Some(branch) if branch.shard == self.me() => self.on_response(message, source, branch, now),
                Some(branch) if branch.shard.0 < self.env.settings.shards => {
                    self.place(branch.shard, message, source, now)
                }
                _ => self.drop_response(message, Counter::ResponseStray),
            }
            return;
        }
        if message.fault().is_none()
            && !(source.is_peer || self.env.settings.point(source.flow.point()).serves(source.side))
        {
            return self.refuse_stranger(message, &source);
        }
        let routes = route::read(&message, &source, &self.env.names, &self.env.keys, self.env.here);
        if let Err(refusal) = self.check_aor(&message, &source, &routes) {
            return self.refuse_impostor(message, &source, &refusal);
        }
        match self.placement(&message, &routes, source.side) {
            Some(shard) if shard != self.me() => self.place(shard, message, source, now),
            _ => self.on_request(message, source, &routes, now),
        }
    }

    /// The branch as it is, unless a test has planted that it leads to another shard.
    fn astray(&self, branch: Branch) -> Branch {
        let by = u8::from(planted(Plant::ResponseToWrongShard));
        Branch { shard: ShardId((branch.shard.0 + by) % self.env.settings.shards.max(1)), ..branch }
    }

    /// Who is no server has no business at a listener of the server side. Where the message landed is where this is
    /// said, without any state.
    fn refuse_stranger(&mut self, request: Box<Message>, source: &Source) {
        if request.method() == Some(Method::Ack) {
            self.count(Counter::AckRefused);
        } else {
            let refusal = Refusal::new(403, "Wrong Listener", Counter::Refused403WrongListener);
            self.refuse(&request, source, &refusal);
        }
        self.recycle_message(request);
    }

    /// Whom an endpoint may speak for by its certificate. Where the message landed is where the certificate is known.
    fn check_aor(&self, request: &Message, source: &Source, routes: &RouteSet) -> Result<(), Refusal> {
        let is_asked = self.env.settings.client_aor != ClientAor::Off
            && !source.is_trusted()
            && self.env.settings.point(source.flow.point()).transport == Transport::Tls
            && request.fault().is_none()
            // It says whether we are well, to anybody.
            && !target::is_for_me(request, routes, &self.env.names);
        match is_asked {
            true => client_aor::check(
                request,
                self.env.settings.client_aor,
                &self.env.names,
                self.identities_of(source.flow),
            ),
            false => Ok(()),
        }
    }

    fn refuse_impostor(&mut self, request: Box<Message>, source: &Source, refusal: &Refusal) {
        let shown = self.identities_of(source.flow).map(|shown| shown.words().join(", ")).filter(|all| !all.is_empty());
        let about = format!("; the certificate names {}", shown.as_deref().unwrap_or("nobody"));
        self.refuse_saying(&request, source, refusal, about.as_bytes());
        self.recycle_message(request);
    }

    fn placement(&self, request: &Message, routes: &RouteSet, side: Side) -> Option<ShardId> {
        if self.env.settings.shards <= 1 || request.fault().is_some() {
            return None;
        }
        if side == Side::Server {
            let user16 = |user: &[u8]| self.env.keys.user16(user);
            return target::placement_from_server(request, routes, &self.env.names, self.env.here, user16);
        }
        if request.method() == Some(Method::Register) { self.home_of_to(request) } else { None }
    }
}
