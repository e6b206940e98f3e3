//! What a seed stands for, as plain data: who there is, what they do and what goes wrong, each at its time. Shrinking takes
//! parts of it away.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use fastrand::Rng;
use hawser::engine::Sticky;
use hawser::ids::Transport;

use crate::net::PartyId;

/// The first phone's place among the parties, behind the servers.
pub const PHONES: PartyId = 2;
/// A device that does not register, and the proxy of another site.
pub const DEVICE: PartyId = 100;
pub const SITE: PartyId = 101;
/// Somebody whom nobody knows.
pub const STRANGER: PartyId = 102;

/// What kind of user agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Phone,
    /// A phone that never registers.
    Guest,
    Device,
    Site,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    B2bua,
    Proxy,
}

/// The six ways in which a server fails (src/lab/failover/fault.rs plays the same with real ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Its process is killed: it forgets its transactions.
    Kill,
    /// Its connections are reset and its ports closed.
    Reset,
    /// Its process stands still; its system goes on taking bytes.
    Freeze,
    /// It answers 503 to everything.
    Refuse,
    /// It answers 503 to service checks.
    RefuseOptions,
    /// Nothing reaches its host any more.
    Cut,
}

/// How a phone's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Reset,
    Fin,
    /// It closes its half, and hears what it is owed.
    Half,
}

/// What the network does.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss_permille: u16,
    pub double_permille: u16,
    pub delay_us: u64,
    pub late_permille: u16,
    pub late_us: u64,
    /// Of pieces of a stream that are cut once more.
    pub cut_permille: u16,
    /// What a system holds of a stream before its reader reads.
    pub room: usize,
    /// Of calls that send datagrams, those that find the socket full.
    pub full_permille: u16,
}

/// How resolvers fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolving {
    Well,
    Silent,
    Failure,
    Refused,
    Unreachable,
    Truncated,
    Garbage,
    NoSuchName,
}

/// Who there is, and by which settings the proxy runs.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub shards: u8,
    pub sticky: Sticky,
    pub internal: Transport,
    /// Streams of phones, and of servers where their transport is TLS, are TLS; else plain.
    pub tls: bool,
    pub server: ServerKind,
    pub server_record_routes: bool,
    /// Two listeners, one for each side.
    pub split: bool,
    /// The servers are known by name.
    pub named: bool,
    pub mails_max: usize,
    pub oos_check_s: u64,
    pub flow_grace_s: u64,
    pub timer_c_s: u64,
    pub ring_ms: u64,
    pub phones: Vec<PhonePlan>,
    pub servers: [SocketAddr; 2],
    /// Users that are reached without a registration: a Request-URI, and the party there.
    pub fixed: BTreeMap<String, (String, PartyId)>,
}

#[derive(Clone, Copy, Debug)]
pub struct PhonePlan {
    pub transport: Transport,
    pub user: u8,
    /// With an instance-id, and reg-id: 0 neither, 1 the first, 2 both.
    pub instance: u8,
    pub expires_s: u64,
    pub comes_back: bool,
    /// It never registers: what it asks it asks as a guest.
    pub guest: bool,
}

/// One thing that is done at a time.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A phone asks a user or the service.
    Asks {
        phone: usize,
        method: &'static str,
        user: String,
    },
    /// Something within a dialog of a phone.
    GoesOn {
        phone: usize,
        method: &'static str,
    },
    Cancels {
        phone: usize,
    },
    Registers {
        phone: usize,
        expires_s: Option<u64>,
    },
    /// A phone comes by another connection or port, and lets go of the old one.
    Moves {
        phone: usize,
    },
    /// A phone loses its connection so.
    Loses {
        phone: usize,
        how: Ends,
    },
    Reboots {
        phone: usize,
    },
    /// A phone's network is away for so long.
    Away {
        phone: usize,
        ms: u64,
    },
    /// A phone reads nothing for so long.
    Deaf {
        phone: usize,
        ms: u64,
    },
    /// A server asks a phone.
    ServerAsks {
        server: usize,
        method: &'static str,
        user: String,
    },
    ServerGoesOn {
        server: usize,
        method: &'static str,
    },
    ServerFails {
        server: usize,
        how: Failure,
        ms: u64,
    },
    /// A device or the other site asks.
    DeviceAsks {
        party: PartyId,
        method: &'static str,
        user: String,
    },
    /// A shard stands still for so long.
    Holds {
        shard: u8,
        ms: u64,
    },
    /// Each turn of a shard takes so long, for so long.
    Slow {
        shard: u8,
        us: u64,
        ms: u64,
    },
    Resolvers {
        how: Resolving,
        ms: u64,
    },
    /// Accepting connections fails, for want of descriptors.
    NoDescriptors {
        ms: u64,
    },
    /// Settings are read anew.
    Reload {
        grace_s: u64,
        check_s: u64,
    },
    Pin {
        member: u8,
    },
    /// The proxy is killed and starts again, with the same keys or others.
    Restart {
        same_keys: bool,
    },
    /// A stranger tries something.
    Stranger {
        what: u8,
        victim: usize,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    pub setup: Setup,
    pub weather: Weather,
    /// In the order of time: when, in milliseconds from the start.
    pub steps: Vec<(u64, Step)>,
    /// It ends with a drain.
    pub drains: bool,
}

impl Setup {
    pub fn phone_point(&self) -> u8 {
        if self.tls { 2 } else { 1 }
    }

    pub fn server_point(&self) -> u8 {
        let base = if self.split { 3 } else { 0 };
        base + if self.internal == Transport::Tls { 2 } else { 1 }
    }

    pub fn server_udp_point(&self) -> u8 {
        if self.split { 3 } else { 0 }
    }

    pub fn is_proxying(&self) -> bool {
        self.server == ServerKind::Proxy
    }

    pub fn rewrites_contact(&self) -> bool {
        self.sticky == Sticky::Contact
    }

    pub fn own_host(&self) -> &'static str {
        "203.0.113."
    }

    fn draw(seed: u64, rng: &mut Rng) -> Self {
        let tls = rng.u8(..10) == 0;
        let streams = if tls { Transport::Tls } else { Transport::Tcp };
        let internal = if rng.bool() { Transport::Udp } else { streams };
        let phones = (0..rng.u8(2..7)).map(|at| PhonePlan::draw(at, streams, rng)).collect();
        let pick = |rng: &mut Rng, list: &[u64]| list[rng.usize(..list.len())];
        Self {
            seed,
            shards: rng.u8(1..=4),
            sticky: [Sticky::Path, Sticky::Path, Sticky::Contact, Sticky::Aor][rng.usize(..4)],
            internal,
            tls,
            server: if rng.bool() { ServerKind::B2bua } else { ServerKind::Proxy },
            server_record_routes: rng.bool(),
            split: rng.u8(..4) == 0,
            named: rng.u8(..5) == 0,
            mails_max: [8, 16, 64, 256, 1_024][rng.usize(..5)],
            oos_check_s: pick(rng, &[5, 5, 2, 0]),
            flow_grace_s: pick(rng, &[3, 3, 1, 0]),
            timer_c_s: pick(rng, &[180, 40, 15]),
            ring_ms: pick(rng, &[500, 4_000, 12_000]),
            phones,
            servers: [([192, 0, 2, 11], 7000).into(), ([192, 0, 2, 12], 7000).into()],
            fixed: BTreeMap::new(),
        }
    }
}

impl PhonePlan {
    fn draw(at: u8, streams: Transport, rng: &mut Rng) -> Self {
        Self {
            transport: if rng.u8(..3) == 0 { Transport::Udp } else { streams },
            // Now and then two phones share an AOR.
            user: if rng.u8(..6) == 0 { 0 } else { at },
            instance: rng.u8(..3),
            expires_s: [100, 100, 60, 20][rng.usize(..4)],
            comes_back: rng.u8(..8) > 0,
            guest: rng.u8(..8) == 0,
        }
    }
}

impl Weather {
    fn draw(rng: &mut Rng) -> Self {
        let pick = |rng: &mut Rng, list: &[u16]| list[rng.usize(..list.len())];
        Self {
            loss_permille: pick(rng, &[0, 0, 10, 50, 100]),
            double_permille: pick(rng, &[0, 0, 20, 100]),
            delay_us: [400, 4_000, 40_000, 150_000][rng.usize(..4)],
            late_permille: pick(rng, &[0, 10, 100]),
            late_us: [50_000, 600_000, 2_000_000][rng.usize(..3)],
            cut_permille: pick(rng, &[0, 50, 400]),
            room: [700, 6_000, 64_000, 1_000_000][rng.usize(..4)],
            full_permille: pick(rng, &[0, 0, 0, 100]),
        }
    }
}

/// Methods of phones outside of dialogs, INVITE most of all.
const METHODS: [&str; 9] =
    ["INVITE", "INVITE", "INVITE", "INVITE", "MESSAGE", "OPTIONS", "SUBSCRIBE", "PUBLISH", "FETCH"];
const WITHIN: [&str; 7] = ["BYE", "BYE", "INVITE", "INFO", "UPDATE", "REFER", "NOTIFY"];

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let setup = Setup::draw(seed, rng);
        let weather = Weather::draw(rng);
        let count = setup.phones.len();
        let mut steps = Vec::new();
        for phone in 0..count {
            steps.push((rng.u64(0..3_000), Step::Registers { phone, expires_s: None }));
        }
        let (mut at, len) = (1_000, rng.usize(20..60));
        let faulty = rng.u8(..5);
        for _ in 0..len {
            let most = [100, 600, 3_000, 12_000][rng.usize(..4)];
            at += rng.u64(..most);
            let step = if rng.u8(..10) < faulty { draw_fault(&setup, rng) } else { draw_work(&setup, rng) };
            steps.push((at, step));
        }
        steps.sort_by_key(|(at, _)| *at);
        Self { setup, weather, steps, drains: rng.u8(..6) == 0 }
    }

    pub fn len_ms(&self) -> u64 {
        self.steps.last().map_or(0, |(at, _)| *at)
    }
}

fn user(count: usize, rng: &mut Rng) -> String {
    match rng.u8(..8) {
        0 => "service".to_owned(),
        1 if rng.bool() => "gw".to_owned(),
        1 => "far".to_owned(),
        _ => format!("u{}", rng.usize(..count)),
    }
}

fn draw_work(setup: &Setup, rng: &mut Rng) -> Step {
    let count = setup.phones.len();
    let phone = rng.usize(..count);
    let method = METHODS[rng.usize(..METHODS.len())];
    let within = WITHIN[rng.usize(..WITHIN.len())];
    match rng.u8(..100) {
        0..40 => Step::Asks { phone, method, user: user(count, rng) },
        40..62 => Step::GoesOn { phone, method: within },
        62..70 => Step::Cancels { phone },
        70..76 => Step::Registers { phone, expires_s: (rng.u8(..4) == 0).then_some(0) },
        76..90 => Step::ServerAsks { server: rng.usize(..2), method, user: user(count, rng) },
        90..97 => Step::ServerGoesOn { server: rng.usize(..2), method: within },
        _ => {
            let party = if rng.bool() { DEVICE } else { SITE };
            Step::DeviceAsks { party, method, user: user(count, rng) }
        }
    }
}

fn draw_fault(setup: &Setup, rng: &mut Rng) -> Step {
    let phone = rng.usize(..setup.phones.len());
    let shard = rng.u8(..setup.shards);
    let most = [300, 3_000, 30_000][rng.usize(..3)];
    let ms = rng.u64(..most);
    match rng.u8(..100) {
        0..18 => Step::Moves { phone },
        18..32 => Step::Loses { phone, how: [Ends::Reset, Ends::Fin, Ends::Half][rng.usize(..3)] },
        32..38 => Step::Reboots { phone },
        38..44 => Step::Away { phone, ms: ms * 2 },
        44..48 => Step::Deaf { phone, ms: ms / 2 },
        48..66 => {
            use Failure::{Cut, Freeze, Kill, Refuse, RefuseOptions, Reset};
            let how = [Kill, Reset, Freeze, Refuse, RefuseOptions, Cut][rng.usize(..6)];
            Step::ServerFails { server: rng.usize(..2), how, ms }
        }
        66..72 => Step::Holds { shard, ms: ms.min(4_000) },
        72..77 => Step::Slow { shard, us: rng.u64(..40_000), ms },
        77..81 => {
            use Resolving::{Failure, Garbage, NoSuchName, Refused, Silent, Truncated, Unreachable};
            let all = [Silent, Failure, Refused, Unreachable, Truncated, Garbage, NoSuchName];
            Step::Resolvers { how: all[rng.usize(..all.len())], ms }
        }
        81..83 => Step::NoDescriptors { ms },
        83..86 => Step::Reload { grace_s: rng.u64(..4), check_s: [0, 2, 5][rng.usize(..3)] },
        86..88 => Step::Pin { member: rng.u8(..3) },
        88..90 => Step::Restart { same_keys: rng.bool() },
        _ => Step::Stranger { what: rng.u8(..), victim: phone },
    }
}

/// What ends later, or comes at the end.
#[derive(Clone, Debug)]
pub enum Undo {
    Server(usize),
    Away(PartyId),
    Deaf(PartyId),
    Slow(u8),
    Resolvers,
    Descriptors,
    Start {
        same_keys: bool,
    },
    /// Phones do nothing more of their own accord.
    PhonesRest,
    /// Phones let go of their connections.
    PhonesLeave,
    /// Nothing is left.
    Rest,
    Stop,
    Over,
}
