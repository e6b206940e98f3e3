//! What leaves a shard: bytes on a flow, wherever it is, and mail.

use std::net::SocketAddr;

use super::context::Asked;
use super::mail::{By, Letter};
use super::{Engine, Mail, Output, Source};
use crate::clock::Time;
use crate::ids::{BindingId, ConnId, FlowRef, PointId, ShardId};
use crate::limits::UDP_DATAGRAM_LEN_MAX;
use crate::planted::{Plant, planted};
use crate::sip::Message;
use crate::stats::Counter;
use crate::transaction::branch::TxnId;

impl Engine {
    /// Puts a mail into another shard's box, or among those that this shard reads at the end of the input.
    pub(super) fn mail(&mut self, to: ShardId, mail: Mail) {
        self.ports.mail(to, mail);
    }

    pub(super) fn put_datagram(&mut self, point: PointId, to: SocketAddr, bytes: Vec<u8>) {
        if bytes.len() > UDP_DATAGRAM_LEN_MAX {
            // What can be answered was, before it came to this: see `unsent`.
            self.count(Counter::DatagramTooLarge);
            return self.ports.pool.give(bytes);
        }
        self.count(Counter::MessagesOutUdp);
        self.ports.counters.add(Counter::BytesOutUdp, bytes.len() as u64);
        self.ports.outputs.push_back(Output::Datagram { point, to, bytes });
    }

    pub(super) fn put_bytes(&mut self, conn: ConnId, point: PointId, bytes: Vec<u8>) {
        let transport = self.env.settings.point(point).transport;
        self.count(Counter::messages_out(transport));
        self.ports.counters.add(Counter::bytes_out(transport), bytes.len() as u64);
        self.note_sent(conn, &bytes);
        self.ports.outputs.push_back(Output::Bytes { conn, bytes });
    }

    /// Sends a letter on a flow. When the flow is known here to be gone (for a request: its peer has closed its half, too),
    /// gives the letter back; when another shard finds that out, the letter goes to the home of its binding, or
    /// `Mail::Failed` comes back to its `txn`.
    ///
    /// # Errors
    /// The letter, unsent.
    pub(super) fn send(&mut self, flow: FlowRef, letter: Letter) -> Result<(), Letter> {
        match flow {
            FlowRef::Stream { shard, conn, point } if shard == self.me() => {
                if !self.location.carries(conn, &letter.bytes) {
                    return Err(letter);
                }
                self.put_bytes(conn, point, letter.bytes);
            }
            FlowRef::Udp { point, remote, .. } if self.knows_where(flow, &letter) => {
                self.put_datagram(point, remote, letter.bytes);
            }
            _ => self.mail(flow.shard(), Mail::Send { flow, letter }),
        }
        Ok(())
    }

    /// Whether no other shard need be asked whether a letter's binding has left a UDP flow: its home and the flow's owner
    /// know, and any shard can send.
    fn knows_where(&self, flow: FlowRef, letter: &Letter) -> bool {
        let home = letter.binding.map(|binding| binding.home(self.env.settings.shards));
        letter.by == By::Flow || flow.shard() == self.me() || home.is_none_or(|home| home == self.me())
    }

    /// The same for bytes that are looked for when their binding has moved, and are no response.
    ///
    /// # Errors
    /// The bytes, unsent.
    pub(super) fn send_on(
        &mut self,
        flow: FlowRef,
        binding: Option<BindingId>,
        bytes: Vec<u8>,
        txn: Option<TxnId>,
    ) -> Result<(), Vec<u8>> {
        self.send(flow, Letter { bytes, binding, txn, by: By::Binding }).map_err(|letter| letter.bytes)
    }

    /// Sends a response of a context to who asked.
    pub(super) fn respond_for(&mut self, asked: &Asked, bytes: Vec<u8>) {
        let binding = asked.source.binding;
        let bytes = match asked.stays {
            true => match self.send(asked.reply, Letter { bytes, binding, txn: None, by: By::Flow }) {
                Ok(()) => return,
                Err(letter) => letter.bytes,
            },
            false => bytes,
        };
        if let FlowRef::Stream { shard, conn, point } = asked.reply
            && asked.source.is_trusted()
            && binding.is_none()
        {
            if shard == self.me() && self.conns.get(conn).is_some() {
                return self.put_bytes(conn, point, bytes);
            }
            return self.mail(shard, Mail::Respond { conn, bytes });
        }
        self.respond(asked.reply, binding, bytes);
    }

    /// Sends a response towards the requester: over the flow that its request came by, or the one that took its place for
    /// the same binding; and over the first all the same when that one has gone too.
    pub(super) fn respond(&mut self, reply: FlowRef, binding: Option<BindingId>, bytes: Vec<u8>) {
        let now_at = self.moved_from(reply, binding);
        if let (None, Some(_), FlowRef::Udp { .. }) = (now_at, binding, reply) {
            // The registration has ended meanwhile: its address still takes the answer, unless the phone is elsewhere.
            return self.deliver(None, Letter { bytes, binding, txn: None, by: By::Binding }.or_by(reply));
        }
        let flow = now_at.unwrap_or(reply);
        if planted(Plant::ChallengeToOtherShardDropped) && flow.is_stream() && flow.shard() != self.me() {
            return self.drop_letter(bytes);
        }
        let by = By::binding_or(reply, flow);
        if let Err(letter) = self.send(flow, Letter { bytes, binding, txn: None, by }) {
            self.deliver(Some(flow), letter);
        }
    }

    /// Hands a letter to its binding's home, which knows where the phone is or waits for it to come back.
    pub(super) fn deliver(&mut self, not: Option<FlowRef>, letter: Letter) {
        match letter.binding {
            Some(binding) => {
                let home = binding.home(self.env.settings.shards);
                self.mail(home, Mail::Deliver { binding, not, letter: Box::new(letter) });
            }
            None => self.drop_letter(letter.bytes),
        }
    }

    /// Nobody is there to be sent it.
    pub(super) fn drop_letter(&mut self, bytes: Vec<u8>) {
        self.count(Counter::ResponseConnectionGone);
        self.ports.pool.give(bytes);
    }

    /// A message has done its work.
    pub(super) fn recycle_message(&mut self, message: Box<Message>) {
        self.ports.pool.give(message.into_buf());
    }

    pub(super) fn drop_response(&mut self, message: Box<Message>, why: Counter) {
        self.count(why);
        self.recycle_message(message);
    }

    pub(super) fn place(&mut self, to: ShardId, mut message: Box<Message>, source: Source, now: Time) {
        message.set_posted(now, self.admission.overload().is_some());
        self.count(Counter::Placed);
        self.ports.outputs.push_back(Output::Mail { to, mail: Mail::Message { message, source } });
    }
}
