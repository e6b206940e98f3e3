//! Hawser: a SIP proxy that keeps every phone moored to the connection that it registered over.
//!
//! Hawser stands between a *SIP Server* (registrar and B2BUA) and thousands of phones, gateways and SBCs. A phone
//! registers over TLS; Hawser tells the SIP Server the way back; and every request for that phone goes over
//! the connection that it registered over, on whichever CPU core that is. This page shows how the program is
//! built; the README shows how to run it.
//!
//! # The picture
//!
//! ```text
//!   phones (TLS, TCP, UDP)                                  SIP Server (UDP, TCP or TLS)
//!        |                                                        |
//!  ======|========================================================|======  kernel: SO_REUSEPORT
//!        v                                                        v
//!  +-----------------------------+    mailboxes     +-----------------------------+
//!  | shard 0: one core           | <--------------> | shard 1: one core           |
//!  |                             |  bounded, plain  |                             |
//!  |  driver/     who waits      |  data, one wake  |  driver/                    |
//!  |  shard/      a turn         |  for each batch  |  shard/                     |
//!  |  transport/  bytes in, out  |                  |  transport/                 |
//!  |  tls/        sessions       |                  |  tls/                       |
//!  |  - - - - - - - - - - - - -  |                  |  - - - - - - - - - - - - -  |
//!  |  engine      pure           |                  |  engine      pure           |
//!  |   proxy/ transaction/ sip/  |                  |                             |
//!  |   server_pool/ dns/         |                  |                             |
//!  |   flow/: connection table,  |                  |                             |
//!  |   this core's part of the   |                  |                             |
//!  |   directory                 |                  |                             |
//!  +-----------------------------+                  +-----------------------------+
//!        ^ snapshots, where                               ^
//!        +--------------- admin/: HTTP, on a thread of its own
//! ```
//!
//! Nothing is shared between shards. Each owns its sockets, TLS sessions, transactions and its part of the
//! directory, and has exactly one writer: itself. What one shard wants of another is a [`engine::Mail`].
//!
//! # A message's way
//!
//! A message goes in one direction. For a request that the SIP Server sends to a phone:
//!
//! 1. **Bytes.** [`driver`] waits for sockets, by io_uring or epoll, and lets [`shard`] take a turn over all that is
//!    ready: it is read (`recvmmsg`, or a read into the shard's scratch buffer and [`tls`]), and handed to the engine
//!    as an [`engine::Input`].
//! 2. **Text.** [`sip::Framer`] finds the message in a stream; [`sip::Message::scan`] parses it once, into one
//!    buffer and spans.
//! 3. **Placement.** A pure function of the message says which shard handles it: for a response its Via
//!    branch, for a request of the server the token in its Route, for a REGISTER its AOR's home. If that is
//!    another shard, the message goes there, bytes and spans, as mail. A retransmission, the ACK and the
//!    CANCEL take the same way, whatever has moved meanwhile.
//! 4. **Transaction.** A repetition is absorbed ([`transaction::key`]); a new request begins a response context: a
//!    server transaction, and a client transaction for what is sent on.
//! 5. **Proxy.** The phases of RFC 3261 §16: [`proxy::validate`], [`proxy::route`], [`proxy::target`].
//! 6. **Flow.** The target's flow: a connection of this shard, or what the binding's home says when the phone
//!    has moved; an in-dialog request waits `flow-grace` for a phone that is away.
//! 7. **Edits.** [`proxy::forward`], [`proxy::record_route`] and [`proxy::register`] list changes;
//!    [`sip::Edits`] copies the spans of the received bytes and applies them. Nothing is printed from an
//!    object model.
//! 8. **Bytes.** [`engine::Output`]s gather until the turn over all that was ready is over, and are flushed
//!    once: one TLS record and one send for each connection, one `sendmmsg` for the datagrams.
//!
//! The response finds its context by the branch, loses our Via, and goes back over the connection that the
//! request came by, or the one that took its place for the same binding.
//!
//! A request of an endpoint takes the same steps, but that its target is a SIP Server: of its pair the active one
//! ([`server_pool`]), of a name one of its targets ([`dns`]), over a connection of this shard's own. When that will
//! not do, the request goes on to the next under a new branch, and what the one before still says is heard. One
//! shard owns the health of the pairs; the others send it evidence and get its view, both by mail.
//!
//! # Layers
//!
//! Imports only go down this list; `tests/tidy` holds it. *Pure* code names no socket, clock, thread or
//! source of randomness and writes no log: time is an argument, keys and seeds are injected. So
//! `tests/two_engines` runs several engines under one virtual clock, as stories that are told by hand, and `tests/sim` whole
//! shards with their mailboxes and TLS, with everything at once: with the code that runs in production.
//!
//! | module | pure | what |
//! | --- | --- | --- |
//! | [`cli`], [`server`], [`admin`] | no | arguments; start, signals, drain; HTTP |
//! | [`shard`] | its core is | a turn over all that is ready; the mailbox; the watchdog |
//! | [`driver`] | no | who waits for readiness: glommio on io_uring, or epoll |
//! | [`transport`], [`tls`], [`sys`] | no | bytes in and out; certificates; the few unsafe calls |
//! | [`engine`] | yes | one shard's composition; placement; mail |
//! | [`proxy`] | yes | the phases of RFC 3261 §16 |
//! | [`flow`] | yes | connection table, directory part, tokens |
//! | [`server_pool`], [`dns`] | yes | HA pairs and their health; RFC 3263 |
//! | [`transaction`] | yes | four state machines, keys, branches |
//! | [`sip`], [`proxy_header`] | yes | scanner, framer, spans, edits, responses; whose a balancer says that it is |
//! | [`overload`], [`abuse`] | yes | who gives way when messages wait too long; addresses that only fail |
//! | [`limits`], [`config`], [`stats`] | yes | named bounds; settings; counters |
//! | [`wheel`], [`clock`], [`rng`], [`ids`], [`planted`] | yes | timers; injected time and chance; newtypes; faults that a test plants |
//!
//! The lab (`src/lab`, a package of its own) plays SIP Server and phones; neither uses anything of the other.
//!
//! # Words
//!
//! The words of RFC 3261 and RFC 5626 (transaction, dialog, target, route set, binding, flow) mean here what they mean
//! there. These are ours:
//!
//! | word | meaning |
//! | --- | --- |
//! | token | signed text in a URI's user part, naming a flow and the binding that it was made for |
//! | shard | one event loop, pinned to one core, with all that it owns |
//! | home shard | who holds an AOR's bindings, by keyed hash of the user part; their only writer |
//! | owner shard | who holds a flow |
//! | server side | a known SIP Server; everything else is the endpoint side |
//! | turn | one round of a shard's loop over all that is ready; its end, which carries out and flushes, is its *pass* |
//!
//! # Where to begin
//!
//! [`engine`] for its parts, and for one INVITE, one CANCEL and one move of a phone on their way through them, `tests/two_engines/calls.rs` for the same as stories,
//! [`flow::token`] for what makes a way back authentic, [`driver`] and [`shard`] for the loop.

// Public is what the program, the tests and the benches name.
pub mod abuse;
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dns;
pub mod driver;
pub mod engine;
pub mod flow;
pub mod ids;
pub mod limits;
pub mod overload;
pub mod planted;
pub mod proxy;
pub mod proxy_header;
pub mod rng;
mod server;
pub mod server_pool;
pub mod shard;
pub mod sip;
pub mod stats;
#[allow(unsafe_code, reason = "the one module that may call into libc; each block has its argument")]
mod sys;
pub mod tls;
pub mod transaction;
pub mod transport;
mod wheel;
