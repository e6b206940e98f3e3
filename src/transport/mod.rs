//! Bytes in and out of UDP and TCP.
//!
//! Owns: how sockets are built ([`socket`]), what one stream connection has to send and how that is flushed
//! ([`stream`]), datagrams that wait for the end of a pass ([`udp`]), and STUN binding requests ([`stun`]).
//! Must not touch: SIP, timers of the protocol, the engine's state. When bytes are read, and what becomes of
//! them, is decided in `shard`.

pub mod socket;
pub mod stream;
pub mod stun;
pub mod udp;
