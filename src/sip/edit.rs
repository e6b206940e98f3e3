//! Changes to a message, applied while its spans are copied into the outgoing buffer.

/// A list of edits.
#[derive(Debug, Default)]
pub struct Edits;
