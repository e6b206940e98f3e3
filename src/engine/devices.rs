//! Targets that are addresses: what X-Genesys-Route names, and devices that did not register (DESIGN.md, What it does
//! on the wire, 2 and 5).
//!
//! Owns: how such a target becomes a flow. The connection to a device is that of the shard that the hash of its target
//! names; the others ask it for the flow, or give it what has no transaction. Must not touch: tokens and bindings.
//!
//! Only a request of the server side comes here. What an endpoint has sent opens no connection and asks no resolver:
//! where the Request-URI of a dialog may hold a name that only an endpoint supplied (its Contact), a name is not
//! followed.

use super::context::{Place, place_of};
use super::links::{Hop, LinkKey, Whose};
use super::{ConnectFailure, Engine, Mail};
use crate::clock::Time;
use crate::ids::{FlowRef, ShardId, Transport};
use crate::sip::Uri;
use crate::tls::identity::{Expected, TlsPeer};
use crate::transaction::branch::TxnId;

impl Engine {
    // --- devices -----------------------------------------------------------------------------------------------

    /// Another shard wants the connection to a device, which belongs to this one.
    pub(super) fn on_find_device(&mut self, from: ShardId, txn: TxnId, hop: Hop, tls: Option<&TlsPeer>, now: Time) {
        let whose = self.whose_device(tls);
        let found = match self.flow_to(hop, whose, tls, now) {
            Some(flow) => Ok(flow),
            None => Err(self.why_not(hop, whose, now)),
        };
        if let Ok(FlowRef::Stream { conn, .. }) = found {
            self.note_use(conn, from);
        }
        self.mail(from, Mail::Device { txn, hop, found });
    }

    /// Why the last attempt to reach an address has failed.
    pub(super) fn why_not(&self, hop: Hop, whose: Whose, now: Time) -> Option<ConnectFailure> {
        let key = LinkKey { whose, transport: hop.transport, address: hop.address };
        self.links.get(&key).filter(|link| link.rests(now))?.failure()
    }

    /// Whether a URI's host is known to be somebody else's than a phone's: a server's, another site's, or a device's by the
    /// settings or because it was sent to over UDP.
    pub(super) fn is_known(&self, uri: &Uri, buf: &[u8]) -> bool {
        let is_servers = self.env.names.has_users_at(uri.host, buf) || self.env.names.peer_of_uri(uri).is_some();
        is_servers
            || match place_of(uri, buf) {
                (Place::At(hop), _) => self.env.settings.device_at(hop.address.ip()).is_some() || self.aims_at(hop),
                (Place::Named(_), _) => false,
            }
    }

    /// Whether the proxy sends requests to a device at this UDP address: what was too large for a datagram may have
    /// gone to it over TCP.
    pub(super) fn aims_at(&self, hop: Hop) -> bool {
        let key = LinkKey { whose: self.whose_device(None), transport: Transport::Udp, address: hop.address };
        !hop.transport.is_stream() && self.links.contains_key(&key)
    }

    // --- what has no transaction -------------------------------------------------------------------------------

    /// Sends an ACK or a CANCEL to a device: by its shard, which opens the connection when it is gone.
    pub(super) fn send_to_device(&mut self, hop: Hop, host: &Expected, port: u16, bytes: Vec<u8>, now: Time) {
        if !hop.transport.is_stream() {
            return self.on_to_device(hop, None, bytes, now);
        }
        let (shard, tls) = self.device_of(hop, host, port);
        self.mail(shard, Mail::ToDevice { hop, tls, bytes });
    }

    /// See [`Mail::ToDevice`].
    pub(super) fn on_to_device(&mut self, hop: Hop, tls: Option<&TlsPeer>, bytes: Vec<u8>, now: Time) {
        let flow = self.flow_to(hop, self.whose_device(tls), tls, now);
        let unsent = match flow {
            Some(flow) => self.send_on(flow, None, bytes, None).err(),
            None => Some(bytes),
        };
        if let Some(bytes) = unsent {
            self.drop_letter(bytes);
        }
    }

    /// The shard that holds the connection to a device, and what its certificate must carry.
    pub(super) fn device_of(&self, hop: Hop, host: &Expected, port: u16) -> (ShardId, Option<Box<TlsPeer>>) {
        let tls = (hop.transport == Transport::Tls).then(|| Box::new(self.tls_of_device(host, hop.address)));
        let shard = match host {
            Expected::Name(name) => self.shard_of_device(name.as_bytes(), port, hop.transport),
            Expected::Address(ip) => self.shard_of_device(ip.to_string().as_bytes(), port, hop.transport),
        };
        (shard, tls)
    }
}
