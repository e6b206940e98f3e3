//! The phones: three groups, each with a stack of its own, over UDP, TCP and TLS.
//!
//! Owns: registering, moving and storming, and when each phone was away. Must not touch: which calls are placed.

use crate::args::PhonesArgs;
use crate::bench::{Bench, Place};
use crate::ledger::{Booked, Ledger};
use crate::net::{TlsSettings, Transport};
use crate::phones::PhoneCallRef;
use crate::scenario::{self, Ended, LINGER};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];
/// Short, so that refreshes go on all the time.
const EXPIRES_S: u32 = 60;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const REGISTER_RATE: f64 = 200.0;
/// For a group's sockets, in each turn.
const TURN: Duration = Duration::from_millis(2);
/// A phone that has lost its connection stays away for up to so long: less than `flow-grace`, so that calls survive it.
const AWAY_MAX_MS: u64 = 2_000;
/// Of a phone's last times away, so many are remembered.
const KEPT_US: u64 = 120_000_000;

/// A loopback address of a phone's own.
fn own_address(phone: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + phone).into()
}

/// A phone: its group, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhoneId {
    pub group: usize,
    pub phone: u32,
}

/// A time in which a phone had no connection, or a new one that it had not registered over.
#[derive(Clone, Copy, Debug)]
struct Away {
    id: PhoneId,
    from_us: u64,
    /// `None`: it is not back yet.
    until_us: Option<u64>,
}

pub struct Group {
    pub bench: Bench,
    pub calls: Booked<PhoneCallRef>,
}

pub struct Parties {
    groups: Vec<Group>,
    count: u32,
    away: Vec<Away>,
    /// Pseudo-random, the same in each run.
    dice: u64,
    lost: u64,
    moved: u64,
    refreshed: u64,
}

impl Parties {
    /// So many phones, without their places yet.
    ///
    /// # Errors
    /// There are fewer than three.
    pub fn new(phones: u32, tls: &TlsSettings) -> Ended<Self> {
        if phones < 3 {
            return Err("--phones: at least three".into());
        }
        let group = |_| Ok(Group { bench: scenario::bench(tls.clone(), LINGER)?, calls: Booked::new() });
        let groups = TRANSPORTS.iter().map(group).collect::<Ended<_>>()?;
        let away = Vec::new();
        Ok(Self { groups, count: phones / 3, away, dice: 1, lost: 0, moved: 0, refreshed: 0 })
    }

    /// Lets all of them register, each where the proxy listens for its transport.
    ///
    /// # Errors
    /// One of them does not.
    pub fn register(&mut self, args: &PhonesArgs, proxy: impl Fn(Transport) -> Place) -> Ended<()> {
        for (Group { bench, .. }, transport) in self.groups.iter_mut().zip(TRANSPORTS) {
            let mut config = args.config(proxy(transport), self.count);
            config.user_prefix = transport.param().to_owned();
            config.expires_s = EXPIRES_S;
            config.keep_alive = Some(KEEP_ALIVE);
            if transport == Transport::Udp {
                // The system may give a port that one phone has left to another at once. To the proxy they would be one.
                config.sources = (0..self.count).map(own_address).collect();
            }
            bench.add_phones(config);
            scenario::register(bench, REGISTER_RATE)?;
        }
        Ok(())
    }

    /// Rings when one of the servers says something.
    pub fn waker(&self) -> Arc<mio::Waker> {
        self.groups[0].bench.stack.net.waker()
    }

    pub fn all(&self) -> impl Iterator<Item = PhoneId> + use<> {
        let count = self.count;
        (0..TRANSPORTS.len()).flat_map(move |group| (0..count).map(move |phone| PhoneId { group, phone }))
    }

    pub fn group(&mut self, id: PhoneId) -> &mut Group {
        &mut self.groups[id.group]
    }

    pub fn aor(&mut self, id: PhoneId) -> String {
        self.groups[id.group].bench.phones().1.aor(id.phone)
    }

    /// A number below `below`.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % below
    }

    pub fn any(&mut self) -> PhoneId {
        let (group, phone) = (self.roll(3), self.roll(u64::from(self.count)));
        PhoneId { group: group as usize, phone: phone as u32 }
    }

    pub fn is_registered(&mut self, id: PhoneId) -> bool {
        self.groups[id.group].bench.phones().1.is_registered(id.phone)
    }

    pub fn registered_count(&mut self) -> u64 {
        self.groups.iter_mut().map(|group| group.bench.phones().1.registered_count() as u64).sum()
    }

    pub fn are_all_registered(&mut self) -> bool {
        self.registered_count() == u64::from(self.count) * TRANSPORTS.len() as u64
    }

    /// One phone moves: it loses its connection and comes back after a while, or it opens another one first.
    pub fn move_one(&mut self, nth: u64, now_us: u64) {
        let id = self.any();
        if !self.is_registered(id) {
            return;
        }
        if nth.is_multiple_of(2) || TRANSPORTS[id.group] == Transport::Udp {
            let away_ms = self.roll(AWAY_MAX_MS);
            self.lose(id, now_us, away_ms);
        } else {
            let (stack, phones) = self.groups[id.group].bench.phones();
            if !phones.is_moving(id.phone) && phones.move_over(stack, id.phone) {
                self.moved += 1;
            }
        }
    }

    fn lose(&mut self, id: PhoneId, now_us: u64, away_ms: u64) {
        let (stack, phones) = self.groups[id.group].bench.phones();
        phones.drop_connection(stack, id.phone, true);
        phones.start_in(stack, id.phone, Duration::from_millis(away_ms));
        self.away.push(Away { id, from_us: now_us, until_us: None });
        self.lost += 1;
    }

    /// Every phone registers again over what it has, or a third of them lose that and all come back at once.
    pub fn storm(&mut self, nth: u64, now_us: u64) {
        let ids: Vec<PhoneId> = self.all().collect();
        for id in ids {
            if !self.is_registered(id) {
                continue;
            }
            if nth.is_multiple_of(2) {
                let (stack, phones) = self.groups[id.group].bench.phones();
                phones.register(stack, id.phone, EXPIRES_S);
                self.refreshed += 1;
            } else if u64::from(id.phone) % 3 == nth / 2 % 3 {
                self.lose(id, now_us, 200);
            }
        }
    }

    /// Lets every group have its turn, and sees who is back; `began` is when the run's clock was 0.
    pub fn turn(&mut self, began: Instant) -> Ended<()> {
        for group in &mut self.groups {
            group.bench.turn(TURN)?;
        }
        let now_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let Self { groups, away, .. } = self;
        for gone in away.iter_mut().filter(|gone| gone.until_us.is_none()) {
            if groups[gone.id.group].bench.phones().1.is_registered(gone.id.phone) {
                gone.until_us = Some(now_us);
            }
        }
        away.retain(|gone| gone.until_us.is_none_or(|until_us| until_us + KEPT_US > now_us));
        Ok(())
    }

    /// Takes in what became of the phones' own calls.
    pub fn listen(&mut self, now_us: u64, ledger: &mut Ledger) {
        for Group { bench, calls } in &mut self.groups {
            calls.note(ledger, now_us, &mut bench.phones().1.journal);
        }
    }

    /// Whether a phone was away in that time.
    pub fn was_away(&self, id: PhoneId, from_us: u64, until_us: u64) -> bool {
        let mut times = self.away.iter().filter(|gone| gone.id == id);
        times.any(|gone| gone.from_us <= until_us && gone.until_us.is_none_or(|back_us| back_us >= from_us))
    }

    /// Where a phone stands, in words.
    pub fn describe(&self, id: PhoneId) -> String {
        let bench = &self.groups[id.group].bench;
        bench.parts.phones.as_ref().map_or_else(String::new, |phones| phones.describe(&bench.stack, id.phone))
    }

    /// When a phone's last REGISTER was answered with a 2xx.
    pub fn registered_us(&self, id: PhoneId, now_us: u64) -> u64 {
        let bench = &self.groups[id.group].bench;
        let before_us =
            bench.parts.phones.as_ref().map_or(0, |phones| phones.registered_before_us(id.phone, bench.stack.now_us));
        now_us.saturating_sub(before_us)
    }

    /// What must not be, in words.
    pub fn faults(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        let missing = u64::from(self.count) * TRANSPORTS.len() as u64 - self.registered_count();
        if missing > 0 {
            faults.push(format!("{missing} phones are not registered at the end"));
        }
        for (group, transport) in self.groups.iter().zip(TRANSPORTS) {
            let tally = &group.bench.stack.tally;
            for (what, count) in [
                ("requests reached a phone over another's connection", tally.wrong_connection),
                ("requests reached another phone", tally.wrong_phone),
                ("messages could not be parsed", tally.malformed_in),
                ("registrations had no Path that the phone asked for", tally.path_kept_from_phone),
            ] {
                if count > 0 {
                    faults.push(format!("{transport:?}: {count} {what}"));
                }
            }
        }
        faults
    }

    pub fn summary(&mut self) -> Value {
        let sum = |of: fn(&crate::tally::Tally) -> u64| -> u64 {
            self.groups.iter().map(|group| of(&group.bench.stack.tally)).sum()
        };
        let failures = self.groups.iter().map(|group| json!(group.bench.stack.tally.register_failures));
        json!({
            "connections_lost": self.lost,
            "moved_before": self.moved,
            "refreshed_in_storms": self.refreshed,
            "registers_sent": sum(|tally| tally.registers_sent),
            "register_failures": failures.collect::<Vec<_>>(),
            "calls_received": sum(|tally| tally.calls_received),
            "reinvites_answered": sum(|tally| tally.reinvites_answered),
            "duplicate_calls": sum(|tally| tally.duplicate_calls),
            "second_answers": sum(|tally| tally.second_answers),
            "retransmissions": sum(|tally| tally.requests_resent + tally.responses_resent),
        })
    }
}
