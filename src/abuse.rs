//! Abuse: addresses that only fail are slowed, then shut out for a time (DESIGN.md, Fairness).
//!
//! Owns: who is guilty, of how much, and what follows ([`Judge`], of which a process has one), and what each shard has to
//! know of that ([`Sentences`]). Must not touch: what a failure is, connections, and where the words go.
//!
//! # The rules
//!
//! 1. An address has points, which each failure adds to and each second takes one of. An IPv6 address counts with its
//!    whole /64, which is what one party commonly has.
//! 2. From [`ABUSE_SLOWED_FROM`] on the address is slowed, until it has half of them.
//! 3. From [`ABUSE_SHUT_OUT_FROM`] on it is shut out, if it has been slowed for [`ABUSE_SLOWED_LEAST`]: for [`BAN_TIME`], and
//!    each time for twice as long, up to [`BAN_TIME_MAX`]. [`BAN_REMEMBERED`] after the last time it is the first again.
//! 4. A success clears the address of all. A shard where it holds a binding says so as soon as it hears that the address is
//!    slowed, and again if it should hear that it is shut out: so no address is shut out that holds a binding.
//! 5. When the table is full, the quarter with the least guilt is forgotten.
//!
//! # Why these weights
//!
//! A thousand phones may stand behind one address, some of them with a wrong password or an old certificate. What
//! protects them is rule 4: one that registers acquits all. Until then:
//!
//! - A challenge (401, 407) is no failure, for digest begins with it. Nor is a connection that is closed before a word
//!   was said: monitors and balancers look in so, each second.
//! - A connection that comes to nothing (a failed TLS handshake, no message in time) weighs [`CONNECTION`]. One
//!   broken phone that tries every two seconds stays where it is, and so do fifteen that try every thirty. None does
//!   while the shard is overloaded, nor when it gave way to others: that may be our fault.
//! - Garbage, and a 403, weigh [`GARBAGE`] and [`REFUSED`]: no phone sends much of it, a scanner nothing else. A trunk that
//!   never registers and is refused some calls has success with others.
//! - A refused REGISTER weighs [`REGISTER`], but once for each address of record: phones repeat theirs for ever, who guesses
//!   takes another. So fourteen phones that are refused can never shut out their site.
//!
//! What is wrong with certificates is mended by new ones: all is forgotten when ours have been renewed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::clock::Time;
use crate::limits::{
    ABUSE_AORS_COUNT_MAX, ABUSE_SHUT_OUT_FROM, ABUSE_SLOWED_FROM, ABUSE_SLOWED_LEAST, ABUSE_SOURCES_COUNT_MAX,
    BAN_REMEMBERED, BAN_TIME, BAN_TIME_MAX,
};

#[cfg(test)]
mod tests;

/// Points of a connection that came to nothing.
pub const CONNECTION: u32 = 2;
/// Points of a message that is none, or is malformed.
pub const GARBAGE: u32 = 10;
/// Points of a request that got 403.
pub const REFUSED: u32 = 10;
/// Points of an address of record whose REGISTER was refused.
pub const REGISTER: u32 = 20;

/// The fixed words of the log for an address that is shut out from now on. `conf/fail2ban-hawser.conf` reads them.
pub const SHUT_OUT: &str = "address shut out";
/// The same for one that no longer is.
pub const LET_IN: &str = "address let in again";

/// Whose failures count together: an IPv4 address, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// That of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => Self(IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into())),
            ip => Self(ip),
        }
    }

    /// As it is shown, or any address of it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix("/64") {
            Some(text) => text.parse::<Ipv6Addr>().ok().map(|ip| Self::of(ip.into())),
            None => text.parse().ok().map(Self::of),
        }
    }

    /// Its address, or the first of its addresses.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/64"),
        }
    }
}

/// What an address has failed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A connection came to nothing.
    Connection,
    /// A message was none, or malformed.
    Garbage,
    /// A request got 403.
    Refused,
    /// A REGISTER for the address of record with this hash was refused for good.
    Register(u64),
}

/// How often an address has failed in what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    /// Connections that came to nothing.
    pub connections: u32,
    /// Messages that were none, or malformed.
    pub garbage: u32,
    /// Requests that got 403.
    pub refused: u32,
    /// Addresses of record whose REGISTERs were refused.
    pub registers: u32,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, garbage, refused, registers } = self;
        write!(
            f,
            "{connections} failed connections, {garbage} malformed messages, {refused} requests refused with 403, "
        )?;
        write!(f, "{registers} addresses of record refused")
    }
}

/// What a shard is told of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its handshakes wait for one another.
    Slowed,
    /// Its connections are refused until then.
    ShutOut(Time),
    /// Nothing is held against it.
    Free,
}

/// Why nothing is held against an address any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its time is over, or its points are.
    Time,
    /// It has had success, or holds a binding.
    Success,
    /// An operator says so.
    Operator,
    /// The settings except it now, or the proxy's certificates are new.
    Settings,
    /// Others are guiltier, and the table is full.
    GaveWay,
}

impl Why {
    /// As logged.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Time => "its time is over",
            Self::Success => "it has had success",
            Self::Operator => "an operator says so",
            Self::Settings => "settings or certificates have changed",
            Self::GaveWay => "it gave way to others",
        }
    }
}

/// A verdict has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// About whom.
    pub source: Source,
    /// What every shard has to know.
    pub verdict: Verdict,
    /// It is shut out, or was.
    pub ban: Option<Ban>,
    /// Of [`Verdict::Free`].
    pub why: Why,
}

/// An address that is shut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Since when.
    pub since: Time,
    /// Until when.
    pub until: Time,
    /// Which time it is.
    pub nth: u32,
    /// What for.
    pub failed: Failed,
}

/// What is held against one address.
#[derive(Debug)]
struct Suspect {
    points: u32,
    /// When it had them.
    at: Time,
    failed: Failed,
    /// Those that were refused last, by their hash.
    aors: VecDeque<u64>,
    slowed_since: Option<Time>,
    /// The one that lasts, or the last one.
    ban: Option<Ban>,
    is_out: bool,
}

impl Suspect {
    fn new(now: Time) -> Self {
        let (failed, aors) = (Failed::default(), VecDeque::new());
        Self { points: 0, at: now, failed, aors, slowed_since: None, ban: None, is_out: false }
    }

    fn points(&self, now: Time) -> u32 {
        self.points.saturating_sub(u32::try_from(now.since(self.at).as_secs()).unwrap_or(u32::MAX))
    }

    /// Notes a failure, and gives its weight.
    fn weigh(&mut self, failure: Failure) -> u32 {
        let (count, weight) = match failure {
            Failure::Connection => (&mut self.failed.connections, CONNECTION),
            Failure::Garbage => (&mut self.failed.garbage, GARBAGE),
            Failure::Refused => (&mut self.failed.refused, REFUSED),
            Failure::Register(aor) if self.aors.contains(&aor) => return 0,
            Failure::Register(aor) => {
                if self.aors.len() >= ABUSE_AORS_COUNT_MAX {
                    self.aors.pop_front();
                }
                self.aors.push_back(aor);
                (&mut self.failed.registers, REGISTER)
            }
        };
        *count = count.saturating_add(1);
        weight
    }

    fn add(&mut self, failure: Failure, now: Time) {
        let left = self.points(now);
        if left == 0 && self.slowed_since.is_none() {
            (self.failed, self.aors) = (Failed::default(), VecDeque::new());
        }
        let points = (left + self.weigh(failure)).min(ABUSE_SHUT_OUT_FROM);
        // What has passed of a second goes on.
        let at = if left == 0 { now } else { self.at.after(Duration::from_secs(u64::from(self.points - left))) };
        (self.points, self.at) = (points, at);
    }

    /// When it has so few points that it is no longer slowed.
    fn calm_at(&self) -> Time {
        self.at.after(Duration::from_secs(u64::from(self.points.saturating_sub(ABUSE_SLOWED_FROM / 2))))
    }

    fn due(&self) -> Option<Time> {
        match self.ban.filter(|_| self.is_out) {
            Some(ban) => Some(ban.until),
            None => self.slowed_since.map(|_| self.calm_at()),
        }
    }

    /// The next ban, from now on.
    fn sentence(&self, now: Time) -> Ban {
        let before = self.ban.filter(|ban| now.since(ban.until) < BAN_REMEMBERED).map_or(0, |ban| ban.nth);
        let time = BAN_TIME.saturating_mul(1 << before.min(16)).min(BAN_TIME_MAX);
        Ban { since: now, until: now.after(time), nth: before + 1, failed: self.failed }
    }

    /// The least guilty first: who was never shut out, then who was, then who is slowed, then who is shut out.
    fn guilt(&self, now: Time) -> (u8, u64) {
        match (self.is_out, self.slowed_since, self.ban) {
            (true, _, Some(ban)) => (3, ban.until.0),
            (_, Some(_), _) => (2, u64::from(self.points(now))),
            (_, _, Some(ban)) if now.since(ban.until) < BAN_REMEMBERED => (1, ban.until.0),
            _ => (0, u64::from(self.points(now))),
        }
    }
}

/// Who is guilty of what, in the whole process.
#[derive(Debug, Default)]
pub struct Judge {
    suspects: BTreeMap<Source, Suspect>,
    changes: VecDeque<Change>,
}

impl Judge {
    /// The next verdict that has changed. To be drained after each call that changes something.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// An address has failed. Says whether others were forgotten for it.
    pub fn on_failure(&mut self, source: Source, failure: Failure, now: Time) -> bool {
        let is_full = self.suspects.len() >= ABUSE_SOURCES_COUNT_MAX && !self.suspects.contains_key(&source);
        if is_full {
            self.make_room(now);
        }
        let suspect = self.suspects.entry(source).or_insert_with(|| Suspect::new(now));
        // What was under way when it was shut out is no news.
        if suspect.is_out {
            return is_full;
        }
        suspect.add(failure, now);
        let points = suspect.points(now);
        let change = |verdict, ban| Change { source, verdict, ban, why: Why::Time };
        match suspect.slowed_since {
            Some(since) if points >= ABUSE_SHUT_OUT_FROM && now.since(since) >= ABUSE_SLOWED_LEAST => {
                let ban = suspect.sentence(now);
                (suspect.slowed_since, suspect.is_out, suspect.ban) = (None, true, Some(ban));
                self.changes.push_back(change(Verdict::ShutOut(ban.until), Some(ban)));
            }
            None if points >= ABUSE_SLOWED_FROM => {
                suspect.slowed_since = Some(now);
                self.changes.push_back(change(Verdict::Slowed, None));
            }
            Some(_) | None => {}
        }
        is_full
    }

    /// An address has had success: nothing is held against it.
    pub fn on_success(&mut self, source: Source) {
        self.forget(source, Why::Success);
    }

    /// Lets an address in again. Says whether it was shut out.
    pub fn pardon(&mut self, source: Source) -> bool {
        let is_out = self.suspects.get(&source).is_some_and(|suspect| suspect.is_out);
        self.forget(source, Why::Operator);
        is_out
    }

    /// Forgets those of whom this is so.
    pub fn pardon_where(&mut self, pardons: impl Fn(Source) -> bool) {
        let all: Vec<Source> = self.suspects.keys().copied().filter(|source| pardons(*source)).collect();
        all.into_iter().for_each(|source| self.forget(source, Why::Settings));
    }

    /// When a verdict ends next.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.suspects.values().filter_map(Suspect::due).min()
    }

    /// Ends those whose time is over.
    pub fn on_time(&mut self, now: Time) {
        for (source, suspect) in &mut self.suspects {
            if suspect.due().is_none_or(|due| due > now) {
                continue;
            }
            let ban = suspect.ban.filter(|_| suspect.is_out);
            *suspect = Suspect { ban: suspect.ban, ..Suspect::new(now) };
            self.changes.push_back(Change { source: *source, verdict: Verdict::Free, ban, why: Why::Time });
        }
    }

    /// Those that are shut out.
    pub fn bans(&self) -> impl Iterator<Item = (Source, Ban)> {
        let out = self.suspects.iter().filter(|(_, suspect)| suspect.is_out);
        out.filter_map(|(source, suspect)| Some((*source, suspect.ban?)))
    }

    /// How many are slowed, and how many shut out.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let slowed = self.suspects.values().filter(|suspect| suspect.slowed_since.is_some()).count();
        (slowed, self.bans().count())
    }

    fn forget(&mut self, source: Source, why: Why) {
        let Some(suspect) = self.suspects.remove(&source) else { return };
        if suspect.is_out || suspect.slowed_since.is_some() {
            let ban = suspect.ban.filter(|_| suspect.is_out);
            self.changes.push_back(Change { source, verdict: Verdict::Free, ban, why });
        }
    }

    /// A quarter at once, so that a flood of addresses does not cost a walk for each.
    fn make_room(&mut self, now: Time) {
        let mut all: Vec<_> = self.suspects.iter().map(|(source, suspect)| (suspect.guilt(now), *source)).collect();
        all.sort_unstable();
        all.truncate(ABUSE_SOURCES_COUNT_MAX / 4);
        all.into_iter().for_each(|(_, source)| self.forget(source, Why::GaveWay));
    }
}

/// What one shard knows of addresses that something is held against. It holds as many as the judge does.
#[derive(Debug, Default)]
pub struct Sentences {
    all: BTreeMap<Source, Sentence>,
}

#[derive(Debug)]
struct Sentence {
    /// `None`: it is slowed.
    out_until: Option<Time>,
    turned_away: u64,
}

impl Sentences {
    /// Whether nothing is held against anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The judge has decided.
    pub fn set(&mut self, source: Source, verdict: Verdict) {
        let out_until = match verdict {
            Verdict::Free => {
                self.all.remove(&source);
                return;
            }
            Verdict::Slowed => None,
            Verdict::ShutOut(until) => Some(until),
        };
        self.all.insert(source, Sentence { out_until, turned_away: 0 });
    }

    /// Whether something is held against an address.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        !self.all.is_empty() && self.all.contains_key(&Source::of(ip))
    }

    /// Whether an address is shut out. The judge says when that ends; should it be late, it ends all the same.
    #[must_use]
    pub fn shuts_out(&self, ip: IpAddr, now: Time) -> bool {
        if self.all.is_empty() {
            return false;
        }
        self.all.get(&Source::of(ip)).and_then(|sentence| sentence.out_until).is_some_and(|until| until > now)
    }

    /// A connection has been refused for it.
    pub fn note_turned_away(&mut self, ip: IpAddr) {
        if let Some(sentence) = self.all.get_mut(&Source::of(ip)) {
            sentence.turned_away += 1;
        }
    }

    /// How many connections were refused, by address.
    pub fn turned_away(&self) -> impl Iterator<Item = (Source, u64)> {
        self.all.iter().map(|(source, sentence)| (*source, sentence.turned_away)).filter(|(_, count)| *count > 0)
    }
}

/// What a shard says when an operator asks who is shut out.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Those that are, as the judge's shard knows.
    pub bans: Vec<BanRow>,
    /// Connections that this shard has refused.
    pub turned_away: Vec<(Source, u64)>,
}

/// An address that is shut out, as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanRow {
    /// Whose.
    pub source: Source,
    /// For how long it has been.
    pub since: Duration,
    /// For how long it will be.
    pub left: Duration,
    /// Which time it is.
    pub nth: u32,
    /// What for.
    pub failed: Failed,
    /// Connections that were refused.
    pub turned_away: u64,
}
