//! Hawser's resolver over its own sockets, in an executor of its own: what a shard does with it, and nothing else.
//!
//! Time can be moved forward, so that a TTL expires without a wait.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::or;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement, Task};
use hawser::clock::Time;
use hawser::dns::{Answer, Dns, Input, Output, Question, Settings, socket};
use hawser::stats::{Counter, Counters};

/// How long a test waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What a socket has brought.
enum Heard {
    Answer { exchange: u32, from: SocketAddr, bytes: Vec<u8> },
    Failed { exchange: u32 },
}

#[derive(Default)]
struct Inbox {
    heard: VecDeque<Heard>,
    waker: Option<Waker>,
}

/// The resolver and its sockets.
pub struct Resolver {
    pub dns: Dns,
    pub counters: Counters,
    start: Instant,
    skipped: Duration,
    tasks: BTreeMap<u32, Task<()>>,
    inbox: Rc<RefCell<Inbox>>,
    found: BTreeMap<u64, Answer>,
    last_waiter: u64,
}

/// Runs a test with a resolver that asks these.
pub fn with_resolver<F: Future<Output = ()> + 'static>(
    resolvers: Vec<SocketAddr>,
    test: impl FnOnce(Resolver) -> F + Send + 'static,
) {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(65_536).make().expect("an executor");
    let settings = Settings { resolvers, ttl_stale: Duration::from_secs(3_600) };
    executor.run(test(Resolver {
        dns: Dns::new(settings, [8; 32]),
        counters: Counters::default(),
        start: Instant::now(),
        skipped: Duration::ZERO,
        tasks: BTreeMap::new(),
        inbox: Rc::default(),
        found: BTreeMap::new(),
        last_waiter: 0,
    }));
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
    pub async fn wait(&mut self, waiter: u64) -> Answer {
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            self.carry_out();
            if let Some(answer) = self.found.remove(&waiter) {
                return answer;
            }
            assert!(Instant::now() < deadline, "no answer within {ANSWER_MAX:?}: {:?}", self.dns);
            self.step().await;
        }
    }

    /// Asks and waits.
    pub async fn ask(&mut self, question: &Question) -> Answer {
        let waiter = self.begin(question);
        self.wait(waiter).await
    }

    /// Goes on until nothing is asked any more.
    pub async fn settle(&mut self) {
        let deadline = Instant::now() + ANSWER_MAX;
        self.carry_out();
        while !self.dns.is_idle() {
            assert!(Instant::now() < deadline, "it never ends: {:?}", self.dns);
            self.step().await;
            self.carry_out();
        }
        assert!(self.tasks.is_empty(), "a socket is left");
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.dns.poll_output() {
            match output {
                Output::Send { exchange, to, tcp, bytes } => {
                    let inbox = self.inbox.clone();
                    let task = glommio::spawn_local(async move {
                        let heard = |from, bytes: &[u8]| {
                            put(&inbox, Heard::Answer { exchange, from, bytes: bytes.to_vec() });
                        };
                        socket::ask(to, tcp, bytes, heard).await;
                        put(&inbox, Heard::Failed { exchange });
                    });
                    self.tasks.insert(exchange, task);
                }
                Output::Done { exchange } => drop(self.tasks.remove(&exchange)),
                Output::Found { waiter, answer } => drop(self.found.insert(waiter, answer)),
            }
        }
    }

    /// Waits for a socket, or for the time that is due next.
    async fn step(&mut self) {
        let due = self.dns.poll_timeout().map_or(ANSWER_MAX, |due| due.since(self.now()));
        let inbox = self.inbox.clone();
        let heard = poll_fn(|cx| {
            let mut inbox = inbox.borrow_mut();
            inbox.waker = Some(cx.waker().clone());
            if inbox.heard.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        });
        or(heard, async {
            Timer::new(due).await;
        })
        .await;
        let now = self.now();
        let all = std::mem::take(&mut self.inbox.borrow_mut().heard);
        for heard in all {
            let input = match &heard {
                Heard::Answer { exchange, from, bytes } => Input::Answer { exchange: *exchange, from: *from, bytes },
                Heard::Failed { exchange } => {
                    self.tasks.remove(exchange);
                    Input::Failed { exchange: *exchange }
                }
            };
            self.dns.handle(input, now, &mut self.counters);
        }
        self.dns.fire(now, &mut self.counters);
    }
}

fn put(inbox: &RefCell<Inbox>, heard: Heard) {
    let mut inbox = inbox.borrow_mut();
    inbox.heard.push_back(heard);
    inbox.waker.take().into_iter().for_each(Waker::wake);
}
