//! An ACK to a 2xx as it goes on, without state (RFC 3261 §16.11).

use super::context::plan;
use super::mail::{By, Letter};
use super::{Engine, Source};
use crate::flow::keys::Tag;
use crate::ids::{BindingId, FlowRef, PointId};
use crate::planted::{Plant, planted};
use crate::proxy::{RouteSet, forward, validate};
use crate::sip::{Message, Method};
use crate::transaction::Branch;
use crate::transaction::branch::TxnId;

impl Engine {
    /// The home knows the flow of an ACK's phone.
    pub(super) fn forward_ack_on(
        &mut self,
        ack: Box<Message>,
        source: &Source,
        flow: FlowRef,
        binding: Option<BindingId>,
    ) {
        let routes = crate::proxy::route::read(&ack, source, &self.env.names, &self.env.keys, self.env.here);
        let key = self.key_of(&ack, Method::Invite, source);
        let loop_hash = validate::loop_hash(&ack, source.side, &self.env.keys);
        self.send_ack(ack, source, &routes, flow, binding, By::Binding, key, loop_hash);
    }

    #[allow(clippy::too_many_arguments, reason = "everything that is known of an ACK, used once")]
    pub(super) fn send_ack(
        &mut self,
        ack: Box<Message>,
        source: &Source,
        routes: &RouteSet,
        flow: FlowRef,
        binding: Option<BindingId>,
        by: By,
        key: u128,
        loop_hash: u32,
    ) {
        if planted(Plant::AckToOtherShardDropped) && flow.is_stream() && flow.shard() != self.me() {
            return self.recycle_message(ack);
        }
        let bytes = self.ack_bytes(&ack, source, routes, flow.point(), key, loop_hash);
        if let Err(letter) = self.send(flow, Letter { bytes, binding, txn: None, by }) {
            self.deliver(Some(flow), letter);
        }
        self.recycle_message(ack);
    }

    pub(super) fn ack_bytes(
        &mut self,
        ack: &Message,
        source: &Source,
        routes: &RouteSet,
        point: PointId,
        key: u128,
        loop_hash: u32,
    ) -> Vec<u8> {
        // The same for a repetition, as a stateless proxy must make it (RFC 3261 §16.11).
        let nonce = self.env.keys.hash64(Tag::Branch, &[&key.to_be_bytes()]);
        let branch = Branch { shard: self.me(), txn: TxnId::NONE, nonce, loop_hash };
        let mut edits = std::mem::take(&mut self.ports.edits);
        edits.clear();
        let point = self.env.settings.point(point);
        forward::edit(ack, &plan(source, routes, point, branch, None), &mut edits);
        let mut bytes = self.ports.pool.take();
        edits.apply(ack.buf(), &mut bytes);
        self.ports.edits = edits;
        bytes
    }
}
