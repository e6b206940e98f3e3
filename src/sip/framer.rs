//! Finds messages in a stream (RFC 3261 §18.3, RFC 5626 §3.5.1).

/// Keeps a part message between reads.
#[derive(Debug, Default)]
pub struct Framer;
/// What was found.
#[derive(Debug)]
pub enum Framed {}
/// Why the stream cannot go on.
#[derive(Debug)]
pub enum FrameFault {}
