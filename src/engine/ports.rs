//! What each part of the engine is given and none owns: what it may read ([`Env`]), and the ways out of it ([`Ports`]).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use super::context::TxnTimer;
use super::io::{Event, Level, Output};
use super::mail::Mail;
use super::pool::Pool;
use super::words::start_of;
use crate::config::LogLevel;
use crate::config::engine::{Live, Settings};
use crate::flow::keys::Keys;
use crate::ids::{BindingId, ConnId, FlowRef, ShardId, Transport};
use crate::limits::TRANSACTION_LEN;
use crate::planted::{Plant, planted};
use crate::proxy::Names;
use crate::proxy::target::Incarnation;
use crate::rng::Rng;
use crate::sip::value::write_u32;
use crate::sip::{Edits, Uri};
use crate::stats::{Counter, Counters};
use crate::transaction::Times;
use crate::transaction::branch::TxnId;
use crate::wheel::Wheel;

/// Seconds in the Retry-After of a 503: the least, and how many more at random, so that those who were sent
/// away do not all come back at once.
const RETRY_AFTER_MIN_S: u64 = 5;
const RETRY_AFTER_SPREAD_S: u64 = 10;

/// What a timer of the wheel is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    /// A timer of a response context.
    Context(TxnId, TxnTimer),
    /// A connection has one of its deadlines now, or had when the timer was set.
    Conn(ConnId),
    /// A binding may have expired.
    Binding(BindingId),
    /// Somebody has waited long enough for a phone to come back.
    Waiter(ConnId),
    /// A UDP flow may have expired.
    Udp(ConnId),
    /// The owner of the verdict on the SIP Servers has something to do.
    Pool,
    /// The names of servers and peers are looked at again.
    Names,
    /// A service check of ours is sent again.
    Ping(u64),
    /// A question to the DNS is asked again or given up.
    Dns,
    /// The overload may be over.
    Overload,
    /// Something is no longer held against an address.
    Abuse,
}

/// Hasher state from injected keys, for maps whose keys come from the network.
#[derive(Clone, Debug)]
pub(super) struct KeyedState(pub(super) siphasher::sip::SipHasher13);

impl std::hash::BuildHasher for KeyedState {
    type Hasher = siphasher::sip::SipHasher13;

    fn build_hasher(&self) -> Self::Hasher {
        self.0
    }
}

/// Lets go of the room in a table that a burst has left behind.
pub(super) fn halve<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V, KeyedState>) {
    map.shrink_to(map.len() * 2);
}

/// What every part may read.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) settings: Settings,
    pub(super) names: Names,
    pub(super) keys: Keys,
    pub(super) here: Incarnation,
    pub(super) times: Times,
}

impl Env {
    pub(super) fn new(settings: Settings) -> Self {
        let here = Incarnation {
            boot: settings.boot,
            member: settings.member,
            shards: settings.shards,
            points: settings.points.len(),
        };
        let (names, keys) = (Names::new(&settings), Keys::new(&settings.token_key));
        Self { names, keys, here, times: times(&settings.live), settings }
    }

    /// The settings that may change have changed.
    pub(super) fn set_live(&mut self, live: Live) {
        self.names.set_live(&live);
        self.times = times(&live);
        self.settings.live = live;
    }

    pub(super) fn me(&self) -> ShardId {
        self.settings.shard
    }

    /// The transport of a flow.
    pub(super) fn transport_of(&self, flow: FlowRef) -> Transport {
        self.settings.point(flow.point()).transport
    }

    /// Whether what is sent on a flow arrives whole and in order.
    pub(super) fn is_reliable(&self, flow: FlowRef) -> bool {
        self.transport_of(flow).is_stream()
    }

    /// What of a URI's user chooses the home shard.
    pub(super) fn user16_of(&self, uri: &Uri, buf: &[u8]) -> u16 {
        let mut user = Vec::new();
        uri.user_unescaped(buf, &mut user);
        self.keys.user16(&user)
    }

    /// As many bytes of messages as response contexts may hold, and as may wait for phones to come back.
    pub(super) fn held_len_max(&self) -> u64 {
        u64::from(self.settings.transactions_max) * TRANSACTION_LEN as u64
    }

    /// Whether events of this level are asked for, which cost too much to be made for nobody.
    pub(super) fn tells(&self, level: Level) -> bool {
        match level {
            Level::Trace => self.settings.live.log_level == LogLevel::Trace,
            Level::Debug => matches!(self.settings.live.log_level, LogLevel::Debug | LogLevel::Trace),
            Level::Info | Level::Warn | Level::Error => true,
        }
    }
}

fn times(live: &Live) -> Times {
    Times { t1: live.t1, t2: live.t2, t4: live.t4 }
}

/// What every part may use: timers, counters, buffers, random numbers, and what leaves the engine.
#[derive(Debug)]
pub(super) struct Ports {
    me: ShardId,
    pub(super) counters: Counters,
    pub(super) wheel: Wheel<Timer>,
    pub(super) outputs: VecDeque<Output>,
    /// Mail of this shard to itself, read at the end of each input: nothing is half done then.
    pub(super) local: VecDeque<Mail>,
    pub(super) pool: Pool,
    pub(super) edits: Edits,
    pub(super) rng: Rng,
}

impl Ports {
    pub(super) fn new(me: ShardId, rng: Rng, wheel: Wheel<Timer>) -> Self {
        Self {
            me,
            counters: Counters::default(),
            wheel,
            outputs: VecDeque::new(),
            local: VecDeque::new(),
            pool: Pool::default(),
            edits: Edits::new(),
            rng,
        }
    }

    pub(super) fn count(&mut self, counter: Counter) {
        self.counters.count(counter);
    }

    /// Puts a mail into another shard's box, or among those that this shard reads at the end of the input.
    pub(super) fn mail(&mut self, to: ShardId, mail: Mail) {
        if to == self.me {
            self.local.push_back(mail);
        } else {
            self.outputs.push_back(Output::Mail { to, mail });
        }
    }

    /// Puts a mail into the box of every shard but this one.
    pub(super) fn mail_others(&mut self, shards: u8, mail: impl Fn() -> Mail) {
        for shard in (0..shards).map(ShardId).filter(|shard| *shard != self.me) {
            self.outputs.push_back(Output::Mail { to: shard, mail: mail() });
        }
    }

    /// Somebody did not get what was asked for.
    pub(super) fn event(&mut self, what: &'static str, peer: Option<SocketAddr>, about: &[u8]) {
        self.tell(Level::Warn, what, peer, about);
    }

    pub(super) fn tell(&mut self, level: Level, what: &'static str, peer: Option<SocketAddr>, about: &[u8]) {
        self.tell_why(level, what, "", peer, about);
    }

    /// The same with the fixed words of the reason.
    pub(super) fn tell_why(
        &mut self,
        level: Level,
        what: &'static str,
        reason: &'static str,
        peer: Option<SocketAddr>,
        about: &[u8],
    ) {
        // What a peer sent is shown without what a terminal would obey.
        let about = about.iter().take(384).map(|&byte| if (32..127).contains(&byte) { byte as char } else { '?' });
        self.outputs.push_back(Output::Event(Event { level, what, reason, peer, about: about.collect() }));
    }

    /// A message passes, told by its start line and its length.
    pub(super) fn tell_message(&mut self, what: &'static str, peer: SocketAddr, text: &[u8]) {
        self.tell(Level::Trace, what, Some(peer), &start_of(text));
    }

    pub(super) fn write_retry_after(&mut self, out: &mut Vec<u8>) {
        if planted(Plant::RetryAfterNotWritten) {
            return;
        }
        let seconds = RETRY_AFTER_MIN_S + self.rng.next() % RETRY_AFTER_SPREAD_S;
        out.extend_from_slice(b"Retry-After: ");
        write_u32(seconds as u32, out);
        out.extend_from_slice(b"\r\n");
    }
}
