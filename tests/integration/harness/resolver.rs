//! Hawser's resolver over its own sockets: what a shard does with it, and nothing else.
//!
//! Time can be moved forward, so that a TTL expires without a wait.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hawser::clock::Time;
use hawser::dns::socket::{Asked, Question as Exchange};
use hawser::dns::{Answer, Dns, Input, Output, Question, Settings};
use hawser::stats::{Counter, Counters};

/// How long a test waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// From one look at the sockets to the next.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The resolver and its sockets.
pub struct Resolver {
    pub dns: Dns,
    pub counters: Counters,
    start: Instant,
    skipped: Duration,
    exchanges: BTreeMap<u32, Exchange>,
    found: BTreeMap<u64, Answer>,
    last_waiter: u64,
}

/// Runs a test with a resolver that asks these.
pub fn with_resolver(resolvers: Vec<SocketAddr>, test: impl FnOnce(Resolver)) {
    let settings = Settings { resolvers, ttl_stale: Duration::from_secs(3_600) };
    test(Resolver {
        dns: Dns::new(settings, [8; 32]),
        counters: Counters::default(),
        start: Instant::now(),
        skipped: Duration::ZERO,
        exchanges: BTreeMap::new(),
        found: BTreeMap::new(),
        last_waiter: 0,
    });
}

impl Resolver {
    pub fn now(&self) -> Time {
        Time(0).after(self.start.elapsed() + self.skipped)
    }

    /// Lets so much time have passed.
    pub fn skip(&mut self, time: Duration) {
        self.skipped += time;
    }

    pub fn of(&self, counter: Counter) -> u64 {
        self.counters.of(counter)
    }

    /// Asks; the answer may be there at once.
    pub fn begin(&mut self, question: &Question) -> u64 {
        self.last_waiter += 1;
        let now = self.now();
        if let Some(answer) = self.dns.ask(question, self.last_waiter, now, &mut self.counters) {
            self.found.insert(self.last_waiter, answer);
        }
        self.last_waiter
    }

    /// Waits for the answer to a question that was begun.
    pub fn wait(&mut self, waiter: u64) -> Answer {
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            self.carry_out();
            if let Some(answer) = self.found.remove(&waiter) {
                return answer;
            }
            assert!(Instant::now() < deadline, "no answer within {ANSWER_MAX:?}: {:?}", self.dns);
            self.step();
        }
    }

    /// Asks and waits.
    pub fn ask(&mut self, question: &Question) -> Answer {
        let waiter = self.begin(question);
        self.wait(waiter)
    }

    /// Goes on until nothing is asked any more.
    pub fn settle(&mut self) {
        let deadline = Instant::now() + ANSWER_MAX;
        self.carry_out();
        while !self.dns.is_idle() {
            assert!(Instant::now() < deadline, "it never ends: {:?}", self.dns);
            self.step();
            self.carry_out();
        }
        assert!(self.exchanges.is_empty(), "a socket is left");
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.dns.poll_output() {
            match output {
                Output::Send { exchange, to, tcp, bytes } => match Exchange::ask(to, tcp, &bytes) {
                    Ok(asked) => drop(self.exchanges.insert(exchange, asked)),
                    Err(_) => self.hear(Input::Failed { exchange }),
                },
                Output::Done { exchange } => drop(self.exchanges.remove(&exchange)),
                Output::Found { waiter, answer } => drop(self.found.insert(waiter, answer)),
            }
        }
    }

    fn hear(&mut self, input: Input<'_>) {
        let now = self.now();
        self.dns.handle(input, now, &mut self.counters);
    }

    /// Looks at the sockets and at the time.
    fn step(&mut self) {
        let all: Vec<u32> = self.exchanges.keys().copied().collect();
        for exchange in all {
            let mut heard = Vec::new();
            let asked = self.exchanges.get_mut(&exchange).expect("it was there");
            let went = asked.proceed(|from, bytes| heard.push((from, bytes.to_vec())));
            for (from, bytes) in &heard {
                self.hear(Input::Answer { exchange, from: *from, bytes });
            }
            if went.is_err() {
                self.exchanges.remove(&exchange);
                self.hear(Input::Failed { exchange });
            }
        }
        let now = self.now();
        self.dns.fire(now, &mut self.counters);
        std::thread::park_timeout(LOOK_EVERY);
    }
}
