//! Bytes in and out of UDP and TCP.
//!
//! Owns: how sockets are built ([`socket`]), what one stream connection has to send and how that is flushed
//! ([`stream`], over [`tcp`]), datagrams that wait for the end of a pass ([`udp`]), and STUN binding requests ([`stun`]).
//! Must not touch: SIP, timers of the protocol, the engine's state. When bytes are read, and what becomes of
//! them, is decided in `shard`; who waits for a socket, in `driver`.

pub mod socket;
pub mod stream;
pub mod stun;
pub mod tcp;
pub mod udp;
