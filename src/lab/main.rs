//! `hawser-lab`: the other parties of a SIP proxy, for tests, the demo and benchmarks.
//!
//! Plays the SIP Server (registrar and back-to-back user agent) and any number of phones over UDP, TCP and
//! TLS, in one thread. The proxy never uses it, and it uses nothing of the proxy: text, transactions and
//! sockets are its own, so that each checks the other.
//!
//! ```text
//! commands: certs, server (control), phones, load, failover, pool, sites, storm, stall, renew, soak, story
//!     │     overload (texts and sockets of its own, to outrun a proxy)
//!     │
//!   scenario (the skeleton of load, failover, pool, sites, storm, stall, renew, soak), healthy, ledger
//!     │
//!   bench ── server (registrar, calls of two legs) ─┐
//!     │   ── phones (registration, calls) ──────────┤── dialog, sdp, tally
//!     │                                             │
//!   stack (transactions, wheel) ────────────────────┘
//!     │
//!    net (mio, rustls) ── text (framer, parser)
//! ```

mod args;
mod bare_clients;
mod bench;
mod certs;
mod commands;
mod control;
mod dialog;
mod dns;
mod failover;
mod healthy;
mod ledger;
mod load;
mod net;
mod overload;
mod phones;
mod pool;
mod processes;
mod registrar;
mod renew;
mod scenario;
mod sdp;
mod server;
mod sites;
mod soak;
mod stack;
mod stall;
mod storm;
mod story;
mod tally;
mod text;
mod watch;
mod wheel;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::run() {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("hawser-lab: {fault}");
            ExitCode::from(2)
        }
    }
}
