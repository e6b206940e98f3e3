//! The phases of a proxied request and its responses (RFC 3261 §16), each a pure function over a parsed
//! message and plain settings: [`validate`] → [`route`] → [`target`] → [`record_route`], [`register`] →
//! [`forward`], and back through [`response`].
//!
//! Owns: what the rules say. Must not touch: the tables of transactions, flows and bindings, which `engine`
//! holds and asks these phases about.

pub mod client_aor;
mod destination;
pub mod forward;
pub mod names;
pub mod place;
pub mod record_route;
pub mod register;
pub mod response;
pub mod route;
pub mod target;
pub mod trust;
pub mod validate;

pub use destination::Target;
pub use names::{Names, Origin};
pub use place::{Place, place_of};
pub use route::RouteSet;
pub use trust::Source;

use crate::stats::Counter;

/// A request is answered by us instead of being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code.
    pub code: u16,
    /// Reason phrase.
    pub reason: &'static str,
    /// What it is counted as.
    pub counter: Counter,
    /// Add `Unsupported` with all of Proxy-Require.
    pub unsupported: bool,
    /// Add `Retry-After`.
    pub retry_after: bool,
}

impl Refusal {
    /// Without further header fields.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, counter: Counter) -> Self {
        Self { code, reason, counter, unsupported: false, retry_after: false }
    }

    /// 503 with Retry-After.
    #[must_use]
    pub fn unavailable(reason: &'static str, counter: Counter) -> Self {
        Self { retry_after: true, ..Self::new(503, reason, counter) }
    }
}
