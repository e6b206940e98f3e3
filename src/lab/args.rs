//! Arguments that several commands take: what the registrar does, how the server finds its way to the proxy, and how
//! phones behave.

use crate::bench::Place;
use crate::phones::{Claim, Habit, PhonesConfig};
use crate::registrar::{PathPolicy, Policy};
use crate::server::Habits;
use clap::Args;
use std::net::IpAddr;
use std::time::Duration;

/// What the registrar does about Path and expiry.
#[derive(Args, Clone, Debug)]
pub struct PolicyLine {
    /// A registrar that does not know Path.
    #[arg(long, visible_alias = "sticky-no-path", conflicts_with = "strict_path")]
    no_path: bool,
    /// 420 to a REGISTER with Path from a phone that does not say `Supported: path`.
    #[arg(long)]
    strict_path: bool,
    /// Shortest expiry granted, seconds; less gets 423.
    #[arg(long, default_value_t = 1)]
    expires_min: u32,
    /// Longest expiry granted, seconds.
    #[arg(long, default_value_t = 3_600)]
    expires_max: u32,
}

impl PolicyLine {
    pub fn policy(&self) -> Policy {
        let path = match (self.no_path, self.strict_path) {
            (true, _) => PathPolicy::Ignore,
            (_, true) => PathPolicy::Strict,
            _ => PathPolicy::Keep,
        };
        Policy { path, expires_min_s: self.expires_min, expires_s: self.expires_max }
    }
}

/// How the server finds its way to the proxy.
#[derive(Args, Clone, Debug)]
pub struct HabitsLine {
    /// Never sends requests over a connection that the proxy opened.
    #[arg(long)]
    own_connections: bool,
    /// Where calls to phones that registered without Path go, such as udp:127.0.0.1:5060; else to where their
    /// REGISTER came from.
    #[arg(long)]
    proxy_sip: Option<Place>,
}

impl HabitsLine {
    pub fn habits(&self) -> Habits {
        let outbound_proxy = self.proxy_sip.map(|place| (place.transport, place.addr));
        Habits { own_connections: self.own_connections, outbound_proxy, ..Habits::default() }
    }
}

/// How phones look and behave.
#[derive(Args, Clone, Debug)]
pub struct PhonesArgs {
    #[arg(long, default_value = "example.com")]
    pub domain: String,
    #[arg(long, default_value = "phone")]
    user_prefix: String,
    /// Number of the first phone.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// Local addresses, used in turn.
    #[arg(long, value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// Address that Contact and Via claim, with port 5060, as behind a NAT.
    #[arg(long)]
    contact_host: Option<IpAddr>,
    /// Contact and Via claim 192.0.2.x:5060.
    #[arg(long, conflicts_with = "contact_host")]
    nat_contact: bool,
    /// Phones do not say `Supported: path`.
    #[arg(long)]
    no_supported_path: bool,
    /// Phones without instance-id and reg-id.
    #[arg(long)]
    no_outbound: bool,
    /// Expiry asked for, seconds.
    #[arg(long, default_value_t = 3_600)]
    expires: u32,
    /// From 180 to 200, milliseconds.
    #[arg(long, default_value_t = 0)]
    answer_ms: u64,
    /// Answers every call with 486.
    #[arg(long, conflicts_with = "ring")]
    busy: bool,
    /// Rings until the caller gives up.
    #[arg(long)]
    ring: bool,
    /// Sends CRLFCRLF so often, seconds; 0 is never.
    #[arg(long, default_value_t = 0)]
    keep_alive: u64,
}

impl PhonesArgs {
    pub fn config(&self, proxy: Place, count: u32) -> PhonesConfig {
        PhonesConfig {
            transport: proxy.transport,
            proxy: proxy.addr,
            domain: self.domain.clone(),
            user_prefix: self.user_prefix.clone(),
            first: self.first,
            count,
            sources: self.source.clone(),
            claim: match (self.contact_host, self.nat_contact) {
                (_, true) => Claim::Nat,
                (Some(host), _) => Claim::Host(host),
                _ => Claim::True,
            },
            supports_path: !self.no_supported_path,
            is_outbound: !self.no_outbound,
            expires_s: self.expires,
            habit: match (self.busy, self.ring) {
                (true, _) => Habit::Busy,
                (_, true) => Habit::Ring,
                _ => Habit::Accept(Duration::from_millis(self.answer_ms)),
            },
            keep_alive: (self.keep_alive > 0).then(|| Duration::from_secs(self.keep_alive)),
            reconnects: true,
        }
    }
}
