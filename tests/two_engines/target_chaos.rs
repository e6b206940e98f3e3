//! Devices, other sites and another pair under accidents: connections that open, fail and close at any moment, mail
//! that is late or refused, answers of every kind or none, CANCELs that cross everything. Every INVITE gets its one
//! final answer, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};

use hawser::config::{Host, PeerProxy};
use hawser::engine::{ConnectFailure, Settings};
use hawser::ids::Transport;

use crate::next_hop::{request, wide};
use crate::seeds::play;
use crate::talk::{answer, header, start_line};
use crate::world::{SERVER, Sent, Setup, Wire, World};

const SEEDS: u64 = 200;
const STEPS: u32 = 120;

/// A second site, over TLS.
fn two_sites(settings: &mut Settings) {
    wide(settings);
    let site3 = PeerProxy {
        name: "site3".into(),
        servers: vec!["10.9.9.8".parse().expect("an address")],
        contact: Host::parse("10.9.0.3").expect("a host"),
        protocol: Transport::Tls,
        ..settings.peers[0].clone()
    };
    settings.peers.push(site3);
}

/// Where a message came to a device.
#[derive(Clone, Debug)]
enum Way {
    Wire(Wire),
    Udp(String),
}

struct Story {
    world: World,
    rng: fastrand::Rng,
    /// Connections that are ready.
    ready: Vec<Wire>,
    /// INVITEs of the server, as sent.
    invites: Vec<String>,
    calls: u32,
    /// What the devices have got and not answered.
    inbox: Vec<(Way, String)>,
    /// Final answers to each INVITE.
    finals: BTreeMap<String, BTreeSet<String>>,
}

impl Story {
    fn new(seed: u64) -> Self {
        let shards = 1 + u8::try_from(seed % 3).expect("few");
        let mut world = World::new(&Setup { shards, mutate: two_sites, ..Setup::default() });
        world.resolver.set_zone(&[
            "_sip._tcp.gw.test SRV 1 1 5061 a.test",
            "_sip._tcp.gw.test SRV 2 1 5062 a.test",
            "_sip._udp.gw.test SRV 1 1 5063 a.test",
            "_sip._udp.gw.test SRV 2 1 5064 a.test",
            "a.test A 10.3.3.1",
        ]);
        world.hold_mail = seed.is_multiple_of(2);
        Self {
            world,
            rng: fastrand::Rng::with_seed(seed),
            ready: Vec::new(),
            invites: Vec::new(),
            calls: 0,
            inbox: Vec::new(),
            finals: BTreeMap::new(),
        }
    }

    fn one_of(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.rng.usize(..len))
    }

    fn step(&mut self) {
        match self.rng.u8(..12) {
            0..3 => self.ask(),
            3 => self.cancel(),
            4..6 => self.settle_dial(),
            6 => {
                if let Some(at) = self.one_of(self.ready.len()) {
                    let wire = self.ready.swap_remove(at);
                    self.world.hang_up(wire);
                }
            }
            7 => {
                for _ in 0..self.rng.usize(..6) {
                    let refuse = self.rng.u8(..8) == 0;
                    if let Some(nth) = self.one_of(self.world.mails()) {
                        self.world.deliver_mail(nth, refuse);
                    }
                }
            }
            8 => {
                let ms = self.rng.u64(..4_000);
                self.world.pass_ms(ms);
            }
            _ => {
                if let Some(at) = self.one_of(self.inbox.len()) {
                    let (way, text) = self.inbox.swap_remove(at);
                    self.answer(&way, &text);
                }
            }
        }
        self.collect();
    }

    fn ask(&mut self) {
        let user = ["a", "b", "c", "d"][self.rng.usize(..4)];
        // Devices over each transport, by address and by name, the other site, the other pair.
        let to = [
            "10.3.3.3;transport=tcp",
            "10.3.3.4;transport=tls",
            "10.3.3.5",
            "gw.test;transport=tcp",
            "gw.test",
            "10.9.9.9",
            "10.9.9.8",
            "10.8.0.1:5070",
        ];
        let target = format!("sip:{user}@{}", to[self.rng.usize(..to.len())]);
        let method = if self.rng.bool() { "INVITE" } else { "MESSAGE" };
        self.calls += 1;
        let text = request(method, &target, &format!("x{}", self.calls), "");
        let shard = self.rng.u8(..4);
        self.world.datagram(shard, SERVER, &text);
        if method == "INVITE" {
            self.finals.entry(header(&text, "Call-ID").to_owned()).or_default();
            self.invites.push(text);
        }
    }

    fn cancel(&mut self) {
        if let Some(at) = self.one_of(self.invites.len()) {
            let cancel = self.invites[at].replace("INVITE sip:", "CANCEL sip:").replace("1 INVITE", "1 CANCEL");
            let shard = self.rng.u8(..4);
            self.world.datagram(shard, SERVER, &cancel);
        }
    }

    fn settle_dial(&mut self) {
        let Some(at) = self.one_of(self.world.opened.len()) else { return };
        let (wire, _) = self.world.opened.swap_remove(at);
        if self.world.closed.iter().any(|(closed, _)| *closed == wire) {
            return;
        }
        match self.rng.u8(..5) {
            0 => self.world.fail(wire, ConnectFailure::Refused),
            1 => self.world.fail(wire, ConnectFailure::Tls),
            _ => {
                self.world.ready(wire);
                self.ready.push(wire);
            }
        }
    }

    fn answer(&mut self, way: &Way, text: &str) {
        let status = match (start_line(text).split(' ').next(), self.rng.u8(..6)) {
            (Some("ACK"), _) => return,
            (Some("CANCEL"), _) => "200 OK",
            (_, 0) => "100 Trying",
            (_, 1) => "180 Ringing",
            (_, 2) => "503 Service Unavailable",
            (_, 3) => "486 Busy Here",
            (_, 4) => "200 OK",
            // It says nothing.
            _ => return,
        };
        self.say(way, &answer(text, status, "d", ""));
        // One that has only been heard of is answered later, perhaps.
        if status.starts_with('1') {
            self.inbox.push((way.clone(), text.to_owned()));
        }
    }

    fn say(&mut self, way: &Way, text: &str) {
        match way {
            Way::Wire(wire) if self.ready.contains(wire) => self.world.write(*wire, text),
            Way::Wire(_) => {}
            Way::Udp(from) => {
                let shard = self.rng.u8(..4);
                self.world.datagram(shard, from, text);
            }
        }
    }

    fn collect(&mut self) {
        for sent in self.world.drain() {
            match sent {
                Sent::Datagram { to, text } if to.to_string() == SERVER => {
                    let is_final = text.starts_with("SIP/2.0 ") && !text.starts_with("SIP/2.0 1");
                    if is_final && header(&text, "CSeq") == "1 INVITE" {
                        let call = header(&text, "Call-ID").to_owned();
                        self.finals.entry(call).or_default().insert(start_line(&text).to_owned());
                    }
                }
                Sent::Datagram { to, text } => self.inbox.push((Way::Udp(to.to_string()), text)),
                Sent::Stream { wire, text } => self.inbox.push((Way::Wire(wire), text)),
            }
        }
    }

    fn finish(mut self, seed: u64) {
        self.world.hold_mail = false;
        // Longer than Timer C's CANCEL waits for what never comes.
        for _ in 0..60 {
            while self.world.mails() > 0 {
                self.world.deliver_mail(0, false);
            }
            while !self.world.opened.is_empty() {
                self.settle_dial();
            }
            self.world.pass_s(10);
            self.collect();
            self.inbox.clear();
        }
        for (call, finals) in &self.finals {
            // A 2xx goes back though it has crossed an answer of ours (RFC 3261 §16.7 step 5).
            let errors = finals.iter().filter(|line| !line.starts_with("SIP/2.0 2")).count();
            assert!(!finals.is_empty() && errors <= 1, "seed {seed}, {call}: {finals:?}");
        }
        self.world.end();
    }
}

#[test]
fn whatever_happens_to_targets_every_invite_is_answered_once_and_nothing_is_left() {
    play("target_chaos", SEEDS, |seed| {
        let mut story = Story::new(seed);
        for _ in 0..STEPS {
            story.step();
        }
        story.finish(seed);
    });
}
