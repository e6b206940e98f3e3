//! SIP text: scanner, framer, parser, spans, edits and responses (RFC 3261 §7, §18.3, §20, §25).
//!
//! Owns: how bytes become a [`Message`] and how a changed message becomes bytes again. A message is
//! parsed once, keeps its buffer, and is forwarded by copying spans and applying [`Edits`]; nothing here
//! prints a message from an object model. Must not touch: sockets, clocks, logs, randomness.

mod chars;
#[cfg(test)]
mod cost;
mod count;
pub mod edit;
pub mod framer;
mod lines;
pub mod message;
pub mod name;
pub mod response;
mod scan;
pub mod span;
#[cfg(test)]
mod torture;
pub mod uri;
pub mod value;

pub use edit::Edits;
pub use framer::{FrameFault, Framed, Framer};
pub use message::{Fault, Field, Message, Method, ScanError, Scanned, Start};
pub use name::Name;
pub use span::Span;
pub use uri::{Host, Scheme, Uri, UriError};
pub use value::{NameAddr, Via};
