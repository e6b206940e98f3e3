//! Arguments that several commands take: what the registrar does, how the server finds its way to the proxy, how
//! phones behave, where all of them meet, and what is read of the proxy.

use crate::bench::Place;
use crate::net::Transport;
use crate::phones::{Claim, Habit, PhonesConfig};
use crate::registrar::{PathPolicy, Policy};
use crate::scenario::Ended;
use crate::server::Habits;
use crate::watch;
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Where phones, proxy and SIP Server meet.
#[derive(Args, Clone, Debug)]
pub struct HopsLine {
    /// Where the proxy listens for phones, such as tls:127.0.0.1:5061.
    #[arg(long)]
    pub proxy: Place,
    /// Transport between the proxy and this SIP Server.
    #[arg(long, default_value = "udp")]
    pub internal: Transport,
    /// Where this SIP Server listens.
    #[arg(long, default_value = "127.0.0.1:7000")]
    server_listen: SocketAddr,
}

impl HopsLine {
    pub fn server_place(&self) -> Place {
        Place { transport: self.internal, addr: self.server_listen }
    }
}

/// What is read of the proxy from outside.
#[derive(Args, Clone, Debug)]
pub struct WatchLine {
    /// The proxy's metrics, read before and after, such as http://127.0.0.1:8080/metrics.
    #[arg(long)]
    pub metrics: Option<String>,
    /// Processes of the proxy, whose processor time and memory go into the report.
    #[arg(long, value_delimiter = ',')]
    pub watch_pid: Vec<u32>,
}

impl WatchLine {
    /// Every sample of the proxy; none when nobody says where to ask.
    pub fn samples(&self) -> Ended<Vec<(String, f64)>> {
        self.metrics.as_deref().map_or(Ok(Vec::new()), watch::metrics)
    }
}

/// What the registrar does about Path and expiry, and how the server finds its way to the proxy.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
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
    /// Never sends requests over a connection that the proxy opened.
    #[arg(long)]
    own_connections: bool,
    /// Where calls to phones that registered without Path go, such as udp:127.0.0.1:5060; else to where their
    /// REGISTER came from.
    #[arg(long)]
    proxy_sip: Option<Place>,
}

impl ServerArgs {
    pub fn policy(&self) -> Policy {
        let path = match (self.no_path, self.strict_path) {
            (true, _) => PathPolicy::Ignore,
            (_, true) => PathPolicy::Strict,
            _ => PathPolicy::Keep,
        };
        Policy { path, expires_min_s: self.expires_min, expires_s: self.expires_max }
    }

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
