//! Hawser: a SIP proxy that keeps every phone moored to the connection that it registered over.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod flow;
pub mod ids;
pub mod limits;
pub mod proxy;
pub mod server;
pub mod shard;
pub mod sip;
pub mod stats;
#[allow(unsafe_code, reason = "the one module that may call into libc; each block has its argument")]
pub mod sys;
pub mod tls;
pub mod transaction;
pub mod transport;
pub mod wheel;
