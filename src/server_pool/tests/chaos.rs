//! A seeded world: servers die, freeze and come back, shards send what they have seen, some of it late.

use super::*;

/// xorshift64*: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % n
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Well,
    /// Refuses at once.
    Dead,
    /// Says nothing.
    Frozen,
    /// Answers 503.
    Refusing,
}

struct World {
    bench: Bench,
    chance: Chance,
    servers: [Server; 2],
    /// Since when each is what it is.
    since: [Time; 2],
    /// When a certain word of a shard, a request or a pin last spoke about a server that was well.
    excuse: [Option<Time>; 2],
}

const STEPS: usize = 2_500;
/// From a ping to its answer.
const ROUND_TRIP: Duration = Duration::from_millis(3);

impl World {
    fn new(seed: u64, check: Duration, force: Duration) -> Self {
        let bench = Bench::new(settings(check, force));
        let since = [bench.now; 2];
        Self { bench, chance: Chance(seed | 1), servers: [Server::Well; 2], since, excuse: [None; 2] }
    }

    /// Answers what has waited for a round trip.
    fn answer(&mut self) {
        let old: Vec<_> =
            self.bench.waiting.iter().filter(|s| self.bench.now.since(s.at) >= ROUND_TRIP).copied().collect();
        for sent in old {
            // An answer to one may have given up another.
            if !self.bench.waiting.iter().any(|waiting| waiting.ping == sent.ping) {
                continue;
            }
            let to = sent.to.to_string();
            match self.servers[usize::from(sent.to == address(BACKUP))] {
                Server::Well => self.bench.answer(&to, 200),
                Server::Refusing => self.bench.answer(&to, 503),
                Server::Dead => self.bench.pong(&to, Pong::Lost(Evidence::Refused)),
                Server::Frozen => {}
            }
        }
    }

    fn step(&mut self) {
        let (which, name) = [(0, PRIMARY), (1, BACKUP)][usize::from(self.chance.below(2) == 1)];
        match self.chance.below(60) {
            0 => self.becomes(which, Server::Dead),
            1 => self.becomes(which, Server::Frozen),
            2 => self.becomes(which, Server::Refusing),
            3..=9 => self.becomes(which, Server::Well),
            10..=13 => self.bench.evidence(name, Evidence::Reset),
            14..=16 => self.bench.evidence(name, Evidence::Status(503)),
            // Late or not, it is what a shard believes.
            17 => {
                self.excuse[which] = Some(self.bench.now);
                self.bench.evidence(name, Evidence::Refused);
            }
            18 if self.servers[which] == Server::Well => {
                self.excuse[1 - which] = Some(self.bench.now);
                self.bench.request(name);
            }
            _ => {}
        }
        let pause =
            Duration::from_millis([0, 1, 40, 700, 3_000][usize::try_from(self.chance.below(5)).expect("small")]);
        let end = self.bench.now.after(pause);
        while self.bench.now < end {
            // To the next answer, or to what the pool does next.
            let answers = self.bench.waiting.iter().map(|sent| sent.at.after(ROUND_TRIP));
            let next = answers.filter(|at| *at > self.bench.now).chain(self.bench.pool.poll_timeout()).min();
            self.bench.pass(next.map_or(end, |next| next.min(end)).since(self.bench.now));
            self.answer();
        }
    }

    fn becomes(&mut self, which: usize, server: Server) {
        if self.servers[which] != server {
            self.servers[which] = server;
            self.since[which] = self.bench.now;
        }
    }
}

fn run(seed: u64, check: Duration, force: Duration) {
    let mut world = World::new(seed, check, force);
    // An alternation comes round to each server after two turns of oos-force.
    let found_within = check.max(force) + force + ROUND_TRIP * 4;
    let (mut said, mut outage, mut switches) = (0, false, 0);
    for step in 0..STEPS {
        world.step();
        let context = format!("seed {seed}, step {step}, servers {:?}, {:?}", world.servers, world.bench.view());
        let now = world.bench.now;

        for (event, at) in world.bench.said.iter().zip(&world.bench.said_at).skip(said) {
            match event {
                Event::Outage { .. } => {
                    assert!(!outage, "40001 twice: {context}");
                    outage = true;
                }
                Event::OutageOver { .. } => {
                    assert!(outage, "cleared twice: {context}");
                    outage = false;
                }
                Event::Switched { to, .. } => {
                    switches += 1;
                    let left = to.other().index();
                    // Only what happened within one search can have moved it.
                    let excused = world.excuse[left].is_some_and(|moved| at.since(moved) <= found_within * 2);
                    let well = world.servers[left] == Server::Well;
                    let long = at.since(world.since[left]) > found_within * 2;
                    assert!(!(well && long) || excused, "left a server that answers: {context}");
                }
                _ => {}
            }
        }
        said = world.bench.said.len();
        let view = world.bench.view();
        assert_eq!(outage, view.outage.is_some(), "{context}");
        assert_eq!(outage, view.members.iter().all(|member| !member.up()), "40001 iff both are down: {context}");

        // One server alone is well for long enough, and nobody lies about it: it is the active one.
        let quiet = world.excuse.iter().flatten().all(|moved| now.since(*moved) > found_within);
        let settled = world.since.iter().all(|since| now.since(*since) > found_within);
        for (which, member) in [(0, Member::Primary), (1, Member::Backup)] {
            let alone = world.servers[which] == Server::Well && world.servers[1 - which] != Server::Well;
            if alone && settled && quiet {
                assert!(view.active == member && view.member(member).up(), "not found: {context}");
            }
        }
        assert!(world.bench.waiting.len() <= 2, "one ping for each target: {context}");
    }
    // A ping for each target every PING_GAP at most, and as many lines as changes.
    let seconds = world.bench.now.since(Time(1_000_000)).as_secs();
    let pings = u64::try_from(world.bench.sent.len()).expect("small");
    assert!(pings <= seconds * 8, "seed {seed}: {pings} pings in {seconds} s");
    assert!(switches > 20, "seed {seed}: the world was too quiet: {switches} switches");
}

#[test]
fn a_pair_in_a_world_of_accidents() {
    for seed in 1..=8 {
        run(seed, CHECK, FORCE);
        run(seed, FORCE, CHECK);
        run(seed, Duration::from_secs(5), Duration::from_secs(5));
        run(seed, Duration::from_secs(1), Duration::from_millis(500));
    }
}
