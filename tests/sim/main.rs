//! The simulator: whole shards of the proxy, phones, two SIP Servers, a device, another site, resolvers and strangers under
//! one seeded clock, and a network that does to them what networks do.
//!
//! Everything of the proxy is real but its sockets: `shard::Core` with its mailbox, the engine, TLS (in one seed of ten).
//! The parties retransmit by the proxy's own transaction machines. A seed is a [`plan`]; its [`world`] is played to its
//! end, and the [`judge`] asks of each message whether it is where it belongs and is what was sent, and of each request
//! whether it was answered; what may excuse one stands in [`excuses`].
//!
//! ```text
//!   plan ──► world ──► steps, stranger            who does what, when
//!              │
//!              ├──► agent ──► phone, server        what parties do with messages
//!              │      └─────► stack, dialog, book
//!              ├──► judge ──► excuses              what must hold
//!              └──► net ────► wire, place          bytes, lost and late; what a shard sees of them
//!   runner    which seeds, on which threads; shrinking
//! ```

#![allow(missing_docs, reason = "a test")]

mod agent;
mod book;
mod certificates;
mod coverage;
mod dialog;
mod duties;
mod excuses;
mod fields;
mod judge;
mod message;
mod net;
mod phone;
mod place;
mod plan;
#[cfg(feature = "planted-faults")]
mod planted;
mod runner;
mod server;
mod shrink;
mod stack;
mod steps;
mod stranger;
mod trace;
mod wire;
mod world;
