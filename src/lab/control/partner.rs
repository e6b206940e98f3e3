//! What one server of a pair tells the other: every binding, as it comes, so that either can call every phone.
//!
//! Owns: the connection to the partner's control port, and all that has been told, which is told again when that
//! connection is a new one (the partner may have died and come back with nothing). Must not touch: the registrar.
//! A thread of its own does it, so that a partner that does not read holds up nobody.

use crate::registrar::Shared;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const NEWS_MAX: usize = 65_536;
const CONNECT_MAX: Duration = Duration::from_millis(500);
const WRITE_MAX: Duration = Duration::from_secs(1);
/// Between two attempts to connect, and between two looks at whether an idle connection still stands.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The way to the partner.
pub struct Partner {
    news: Sender<Shared>,
}

/// The latest word about each binding, and when it was said.
type Told = BTreeMap<(String, String), (Instant, Shared)>;

impl Partner {
    pub fn new(addr: SocketAddr) -> Self {
        let (news, told) = crossbeam_channel::bounded(NEWS_MAX);
        std::thread::spawn(move || run(addr, &told));
        Self { news }
    }

    /// Tells a binding. What does not fit is lost until the phone's next REGISTER: the partner has been away for long.
    pub fn tell(&self, binding: Shared) {
        self.news.try_send(binding).ok();
    }
}

fn run(addr: SocketAddr, news: &Receiver<Shared>) {
    let mut told = Told::new();
    loop {
        match talk(addr, news, &mut told) {
            Ok(()) => return,
            // The partner is away.
            Err(_) => match news.recv_timeout(RETRY_AFTER) {
                Ok(binding) => note(&mut told, binding),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            },
        }
    }
}

fn note(told: &mut Told, binding: Shared) {
    told.insert(binding.key(), (Instant::now(), binding));
}

/// Talks until the server ends (`Ok`) or the partner does.
fn talk(addr: SocketAddr, news: &Receiver<Shared>, told: &mut Told) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&addr, CONNECT_MAX)?;
    stream.set_write_timeout(Some(WRITE_MAX))?;
    stream.set_nodelay(true)?;
    news.try_iter().for_each(|binding| note(told, binding));
    for (since, binding) in told.values() {
        let passed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut binding = binding.clone();
        binding.expires_in_ms = binding.expires_in_ms.saturating_sub(passed_ms);
        say(&mut stream, &binding)?;
    }
    loop {
        match news.recv_timeout(RETRY_AFTER) {
            Ok(binding) => {
                let said = say(&mut stream, &binding);
                note(told, binding);
                said?;
            }
            // An empty order has no answer; it only shows whether somebody is there.
            Err(RecvTimeoutError::Timeout) => stream.write_all(b"\n")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn say(stream: &mut TcpStream, binding: &Shared) -> io::Result<()> {
    let text = serde_json::to_string(binding)?;
    stream.write_all(format!("bind {text}\n").as_bytes())
}
