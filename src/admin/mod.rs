//! Statistics over HTTP: `/metrics`, `/stats`, `/where`, `/bans`, `/healthz`, `/readyz` and a page for people.
//!
//! Owns: one plain thread with an HTTP server on it, and what the answers look like. It reads the shards only
//! through [`Source`], whose questions may block: they run on threads of their own, a bounded number at once and
//! for a bounded time, so that a shard that does not answer costs its asker a 503 and nobody else anything. Probes ask no
//! shard: they are answered from what the shards keep up to date themselves, and need no place that others can take.
//! Must not touch: a shard's state, sockets of SIP, the shards' threads.
//!
//! HTTPS when it is told to be (`tls`). Who may ask for what is `access`'s matter: with a token, all but `/`, `/healthz`
//! and `/readyz` ask for it; the page holds no numbers, and what asks whether a proxy is well seldom carries a token and
//! learns one word.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | every counter and gauge by shard, in the OpenMetrics text format that Prometheus reads |
//! | `/stats` | the same as JSON, by shard and in total, what runs here, and the state of servers, links and names |
//! | `/servers` | the state of each pair of SIP Servers as a JSON array |
//! | `POST /servers/NAME/pin?member=` | makes `primary` or `backup` the active one of its pair, whatever happens |
//! | `POST /servers/NAME/release` | leaves it to the rules again |
//! | `/bans` | the addresses that are shut out, as a JSON array |
//! | `POST /unban?address=` | lets one in again |
//! | `/where?aor=` | the bindings of an AOR as a JSON array; 404 and `[]` when there is none |
//! | `/healthz` | 200 while every shard runs |
//! | `/readyz` | 200 while new work is taken, else 503 with the reason; and how many pairs of SIP Servers answer |
//! | `/` | a page that shows the numbers and renews them |
//!
//! Left out on purpose: keep-alive (one request for each connection, so that nobody can hold one for ever),
//! request bodies, and everything that changes state but for what an operator may need when nothing else helps.

mod access;
mod control;
mod live;
mod metrics;
mod page;
mod process;
pub mod route;
mod serve;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod upstreams;

use std::time::{Duration, Instant, SystemTime};

use crate::abuse::{self, BanRow};
use crate::engine::Located;
use crate::server_pool::{Member, PinFault};
use crate::stats::{PairRow, Snapshot};

pub use access::Access;
pub use live::Live;
pub use serve::{Admin, start, start_tls};
pub use token::Token;

/// Where the numbers come from: the shards of this process. What asks them may block; what probes are answered from must
/// not.
pub trait Source: Send + Sync + 'static {
    /// One snapshot for each shard that answered, in any order; the others are missing.
    fn snapshots(&self) -> Vec<Snapshot>;

    /// The bindings of an AOR, given as a SIP URI; `None` when the shard that would know did not answer.
    fn locate(&self, aor: &str) -> Option<Vec<Located>>;

    /// The pairs of SIP Servers, as the shard that owns the verdict sees them; `None` when it did not answer.
    fn pairs(&self) -> Option<Vec<PairRow>>;

    /// Fixes the active server of a pair; with no member the rules decide again. `None` when the shard that owns the
    /// verdict did not answer.
    fn pin(&self, pair: &str, member: Option<Member>) -> Option<Result<(), PinFault>>;

    /// The addresses that are shut out, those of late first; `None` when a shard did not answer.
    fn bans(&self) -> Option<Vec<BanRow>>;

    /// Lets an address in again, and says whether it was shut out; `None` when the shard that judges did not answer.
    fn unban(&self, address: abuse::Source) -> Option<bool>;

    /// How many shards run, and how many there are. Must not block.
    fn running(&self) -> (usize, usize);

    /// Whether new work is taken. Must not block.
    fn readiness(&self) -> Readiness;

    /// How many pairs of SIP Servers answer, and how many there are; `None` while that is not known. Must not block.
    fn pairs_answering(&self) -> Option<(usize, usize)>;

    /// What runs here.
    fn about(&self) -> About;
}

/// Whether new work is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The process is ready.
    Ready,
    /// The process is not ready, and why in a few words.
    Not(String),
}

/// What runs here: what does not change, or seldom.
#[derive(Clone, Debug)]
pub struct About {
    /// Hawser's version.
    pub version: String,
    /// How long the process has run.
    pub uptime: Duration,
    /// What the shards wait with: `io_uring` or `epoll`.
    pub driver: String,
    /// How many shards there are.
    pub shards: u8,
    /// Each listening point in words, such as `tls 192.0.2.1:5061`.
    pub listeners: Vec<String>,
    /// The SIP Server in words, such as `sips1 udp 192.0.2.2:5060`.
    pub server: String,
    /// The setting `sticky`.
    pub sticky: String,
    /// The files of TLS.
    pub tls_files: TlsFiles,
    /// Log lines that stderr did not take.
    pub log_lost: u64,
}

/// What is known of the files of TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// The certificates that Hawser shows to others.
    pub certificates: Vec<Certificate>,
    /// Revocation lists.
    pub crls: Vec<Crl>,
    /// How often they were read again and taken.
    pub taken: u64,
    /// How often what was read was of no use.
    pub refused: u64,
    /// Since when what is used is not what is on the disk; `None` when it is.
    pub stale_since: Option<Instant>,
}

impl TlsFiles {
    /// For how long what is used is not what is on the disk; zero when it is.
    fn stale(&self) -> Duration {
        self.stale_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A revocation list, for its next update.
#[derive(Clone, Debug)]
pub struct Crl {
    /// The file that it was read from.
    pub file: String,
    /// The CA whose list it is.
    pub issuer: String,
    /// When the next one is to come, in seconds since 1970.
    pub next_update_unix_s: i64,
}

/// A certificate of ours, for its expiry.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file that it was read from.
    pub file: String,
    /// When it stops to be valid.
    pub not_after: SystemTime,
}

impl Certificate {
    /// In seconds since 1970.
    fn not_after_unix_s(&self) -> u64 {
        self.not_after.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Whole days that are left, less than zero for one that has expired.
    fn days_left(&self) -> i64 {
        days_until(self.not_after, SystemTime::now())
    }
}

/// Whole days, less than zero for what is past.
pub(crate) fn days_until(end: SystemTime, now: SystemTime) -> i64 {
    let days = |gap: Duration| i64::try_from(gap.as_secs() / 86_400).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => days(left),
        Err(past) => -1 - days(past.duration()),
    }
}
