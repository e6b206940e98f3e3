//! What a request may be sent to, as the phases of RFC 3261 §16.5 and §16.6 name it to one another.

use std::net::SocketAddr;

use crate::ids::{BindingId, FlowRef, Transport};
use crate::sip::Uri;

/// What a request is to be sent to, before any table is asked.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// The proxy itself.
    Myself,
    /// The active SIP Server of a pair.
    Server {
        /// Index into the settings.
        pair: u8,
        /// The one of its servers that it goes to first, though another may be active.
        at: Option<SocketAddr>,
    },
    /// A flow that a token of this start names.
    Flow {
        /// The flow.
        flow: FlowRef,
        /// The binding that it was made for; it may have moved.
        binding: Option<BindingId>,
        /// 430 instead of 480 when it is gone.
        ob: bool,
    },
    /// A binding: by an alias, or by a token of another boot or member.
    Binding {
        /// Which.
        binding: BindingId,
        /// 430 instead of 480 when it is gone.
        ob: bool,
    },
    /// The connection table, by the Request-URI.
    Table,
    /// An address that the SIP Server names in X-Genesys-Route: a flow whose peer it is, or over UDP itself.
    Address {
        #[allow(missing_docs, reason = "see Transport")]
        transport: Transport,
        /// The address and port.
        remote: SocketAddr,
    },
    /// Another site's proxy.
    Peer {
        /// Index into the settings.
        peer: u8,
    },
    /// What a server's Route names, or its Request-URI: a device that did not register.
    Uri(Uri),
    /// Nothing that could come back.
    Gone {
        /// 430 instead of 480.
        ob: bool,
    },
}
