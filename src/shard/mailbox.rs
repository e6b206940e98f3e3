//! The channel between shards: one bounded queue for each pair, drained in batches, one wake for each batch.
//!
//! Owns: who may use how much of a queue, and what becomes of a mail that does not fit. New work gives way from
//! three quarters full; changes to the directory wait here and are tried again each pass; nothing blocks. What only its
//! newest word counts of (a verdict, or that something was seen of a server) has one place, however often it is said.
//! Must not touch: what a mail says beyond its three questions (`is_new_work`, `is_directory`, `says_same`).

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::shared::Shared;
use crate::engine::{Mail, Seen};
use crate::ids::ShardId;
use crate::limits::{MAILBOX_COUNT_MAX, MAILBOX_NEW_WORK_COUNT_MAX};
use crate::planted::{Plant, planted};

/// The smallest queue of a pair, however many shards share the bound of one mailbox.
const QUEUE_COUNT_MIN: usize = 256;

/// One shard's channels to all shards, itself among them.
#[derive(Debug)]
pub struct Post {
    channels: Vec<Channel>,
}

#[derive(Debug)]
struct Channel {
    queue: Sender<Mail>,
    receiver: Arc<Shared>,
    /// Changes to the directory that found no room.
    waiting: VecDeque<Mail>,
    /// Of those, what has one place for each thing that it is about; it overtakes the others.
    latest: Vec<Mail>,
    /// What was seen of servers since the last wake.
    seen: Vec<Seen>,
    /// Something was put in since the last wake.
    fresh: bool,
}

/// What other shards sent to one.
#[derive(Debug)]
pub struct Inbox {
    queues: Vec<Receiver<Mail>>,
    /// The queue that is looked at first, so that none is always last.
    first: usize,
}

/// What became of a mail.
#[derive(Debug)]
pub enum Posted {
    /// In the receiver's queue.
    Sent,
    /// The mail waits here for room.
    Waits,
    /// No room: the sender has to do without.
    Refused(Mail),
}

/// The mailboxes of all shards, joined; each pair's queue takes so many mails.
#[must_use]
pub(super) fn join(shards: &[Arc<Shared>], count_max: usize) -> (Vec<Post>, Vec<Inbox>) {
    let mut posts: Vec<Post> = shards.iter().map(|_| Post { channels: Vec::new() }).collect();
    let mut inboxes = Vec::new();
    for receiver in shards {
        let mut queues = Vec::new();
        for post in &mut posts {
            let (queue, out) = crossbeam_channel::bounded(count_max);
            post.channels.push(Channel {
                queue,
                receiver: receiver.clone(),
                waiting: VecDeque::new(),
                latest: Vec::new(),
                seen: Vec::new(),
                fresh: false,
            });
            queues.push(out);
        }
        inboxes.push(Inbox { queues, first: 0 });
    }
    (posts, inboxes)
}

/// The bound of one pair's queue: the mailbox's, shared among its senders.
pub(super) fn queue_count_max(shards: usize) -> usize {
    (MAILBOX_COUNT_MAX / shards.saturating_sub(1).max(1)).max(QUEUE_COUNT_MIN)
}

impl Post {
    /// Puts a mail into the receiver's queue, without waking it yet.
    pub fn post(&mut self, to: ShardId, mail: Mail) -> Posted {
        let Some(channel) = self.channels.get_mut(usize::from(to.0)) else { return Posted::Refused(mail) };
        if let Some(seen) = mail.seen() {
            if channel.seen.contains(&seen) {
                return Posted::Sent;
            }
            channel.seen.push(seen);
        }
        if mail.is_directory() && !mail.is_latest() && !channel.waiting.is_empty() {
            channel.waiting.push_back(mail);
            return Posted::Waits;
        }
        let is_new_work = mail.is_new_work();
        let count_max = channel.queue.capacity().unwrap_or(MAILBOX_COUNT_MAX);
        let new_work_max = count_max * MAILBOX_NEW_WORK_COUNT_MAX / MAILBOX_COUNT_MAX;
        if is_new_work && channel.queue.len() >= new_work_max + usize::from(planted(Plant::QueueOneTooLong)) {
            return Posted::Refused(mail);
        }
        match channel.queue.try_send(mail) {
            Ok(()) => {
                // This is the only sender, and the receiver only takes.
                debug_assert!(!is_new_work || channel.queue.len() <= new_work_max, "new work takes more than its part");
                channel.fresh = true;
                Posted::Sent
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) if mail.is_directory() => {
                channel.wait(mail);
                Posted::Waits
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => Posted::Refused(mail),
        }
    }

    /// Tries again what waits; says whether some of it still does.
    pub fn retry(&mut self) -> bool {
        let mut waits = false;
        for channel in &mut self.channels {
            waits |= channel.retry();
        }
        waits
    }

    /// Wakes every shard that was sent something since the last call; says how many.
    pub fn wake(&mut self) -> u64 {
        let mut woken = 0;
        for channel in &mut self.channels {
            channel.seen.clear();
            if std::mem::take(&mut channel.fresh) {
                if !planted(Plant::LostWake) {
                    channel.receiver.wake();
                }
                woken += 1;
            }
        }
        woken
    }
}

impl Channel {
    /// There is no room for a change to the directory.
    fn wait(&mut self, mail: Mail) {
        if !mail.is_latest() {
            return self.waiting.push_back(mail);
        }
        match self.latest.iter_mut().find(|other| mail.says_same(other)) {
            Some(place) => *place = mail,
            None => self.latest.push(mail),
        }
    }

    fn retry(&mut self) -> bool {
        while let Some(mail) = self.latest.pop().or_else(|| self.waiting.pop_front()) {
            match self.queue.try_send(mail) {
                Ok(()) => self.fresh = true,
                Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => {
                    match mail.is_latest() {
                        true => self.latest.push(mail),
                        false => self.waiting.push_front(mail),
                    }
                    return true;
                }
            }
        }
        false
    }
}

impl Inbox {
    /// Takes up to `count_max` mails, evenly from all senders; says how many it took.
    pub fn drain(&mut self, count_max: usize, mut take: impl FnMut(ShardId, Mail)) -> usize {
        let count = self.queues.len();
        let share = (count_max / count.max(1)).max(1);
        let mut taken = 0;
        for turn in 0..count {
            let at = (self.first + turn) % count;
            let from = ShardId(u8::try_from(at).unwrap_or(u8::MAX));
            for mail in self.queues[at].try_iter().take(share) {
                take(from, mail);
                taken += 1;
            }
        }
        self.first = (self.first + 1) % count.max(1);
        taken
    }

    /// Mails that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queues.iter().map(Receiver::len).sum()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(Receiver::is_empty)
    }

    /// A second look at the same queues, for the watchdog.
    #[must_use]
    pub fn watch(&self) -> Self {
        Self { queues: self.queues.clone(), first: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Source, Upstream};
    use crate::ids::{ConnId, FlowRef, PointId, Side};
    use crate::limits::SHARDS_MAX;
    use crate::server_pool::Evidence;
    use crate::sip::Message;

    const TO: ShardId = ShardId(1);

    fn request(method: &str) -> Mail {
        let text = format!(
            "{method} sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
             From: <sip:a@example.com>;tag=1\r\nTo: <sip:b@example.com>\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\n\r\n"
        );
        let remote = "192.0.2.1:5060".parse().unwrap();
        let flow = FlowRef::Udp { shard: ShardId(0), point: PointId(0), remote };
        let source =
            Source { flow, peer: remote, side: Side::Endpoint, is_peer: false, is_forwarded: false, binding: None };
        Mail::Message { message: Message::scan(text.into_bytes(), false).unwrap(), source }
    }

    /// A change to the directory, told apart by its slot.
    fn change(slot: u32) -> Mail {
        Mail::ConnGone { conn: ConnId { slot, generation: 0 }, failure: None }
    }

    fn pair() -> (Post, Inbox) {
        let shards = [Arc::default(), Arc::default()];
        let (mut posts, mut inboxes) = join(&shards, MAILBOX_COUNT_MAX);
        (posts.swap_remove(0), inboxes.swap_remove(1))
    }

    #[test]
    #[cfg_attr(miri, ignore = "it fills a mailbox of full size: tens of minutes under miri")]
    fn new_work_gives_way_from_three_quarters_full_and_what_is_in_progress_at_the_end() {
        let (mut post, inbox) = pair();
        for _ in 0..MAILBOX_NEW_WORK_COUNT_MAX {
            assert!(matches!(post.post(TO, request("INVITE")), Posted::Sent));
        }
        assert!(matches!(post.post(TO, request("INVITE")), Posted::Refused(Mail::Message { .. })));
        for _ in MAILBOX_NEW_WORK_COUNT_MAX..MAILBOX_COUNT_MAX {
            assert!(matches!(post.post(TO, request("CANCEL")), Posted::Sent));
        }
        assert!(matches!(post.post(TO, request("CANCEL")), Posted::Refused(Mail::Message { .. })));
        assert_eq!(inbox.len(), MAILBOX_COUNT_MAX);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it fills a mailbox of full size: tens of minutes under miri")]
    fn changes_to_the_directory_wait_for_room_and_keep_their_order() {
        let (mut post, mut inbox) = pair();
        for _ in 0..MAILBOX_COUNT_MAX {
            assert!(matches!(post.post(TO, request("ACK")), Posted::Sent));
        }
        for slot in 0..10 {
            assert!(matches!(post.post(TO, change(slot)), Posted::Waits));
        }
        assert!(post.retry(), "there is no room yet");
        let mut slots = Vec::new();
        let mut take = |inbox: &mut Inbox, count| {
            inbox.drain(count, |from, mail| {
                assert_eq!(from, ShardId(0));
                if let Mail::ConnGone { conn, .. } = mail {
                    slots.push(conn.slot);
                }
            })
        };
        // The queues of both senders have a share of what is taken at once.
        assert_eq!(take(&mut inbox, 2 * 5), 5);
        assert!(post.retry(), "five fit, five wait");
        assert!(matches!(post.post(TO, change(10)), Posted::Waits), "none overtakes those that wait");
        assert_eq!(take(&mut inbox, 2 * MAILBOX_COUNT_MAX), MAILBOX_COUNT_MAX);
        assert!(!post.retry());
        assert_eq!(take(&mut inbox, 2 * MAILBOX_COUNT_MAX), 6);
        assert_eq!(slots, (0..=10).collect::<Vec<_>>());
    }

    #[test]
    #[cfg_attr(miri, ignore = "it fills a mailbox of full size: tens of minutes under miri")]
    fn what_is_seen_of_a_server_and_a_verdict_have_one_place_each() {
        let (mut post, mut inbox) = pair();
        let seen = |port: u16, evidence| Mail::Evidence { pair: 0, address: ([192, 0, 2, 1], port).into(), evidence };
        for _ in 0..100 {
            post.post(TO, seen(5060, Evidence::Silent));
            post.post(TO, seen(5061, Evidence::Silent));
        }
        assert_eq!(inbox.len(), 2, "once for each pass");
        post.wake();
        post.post(TO, seen(5060, Evidence::Silent));
        assert_eq!(inbox.len(), 3, "in the next one it is news");
        while matches!(post.post(TO, request("ACK")), Posted::Sent) {}
        for round in 0..100 {
            post.wake();
            let verdict = |round| Box::new(Upstream { peers: vec![Vec::new(); round], ..Upstream::default() });
            assert!(matches!(post.post(TO, seen(5060, Evidence::Refused)), Posted::Waits));
            assert!(matches!(post.post(TO, seen(5060, Evidence::Reset)), Posted::Waits));
            assert!(matches!(post.post(TO, Mail::View { upstream: verdict(round) }), Posted::Waits));
        }
        inbox.drain(2 * MAILBOX_COUNT_MAX, |_, _| {});
        assert!(!post.retry());
        let mut verdicts = Vec::new();
        let rest = inbox.drain(2 * MAILBOX_COUNT_MAX, |_, mail| {
            if let Mail::View { upstream } = mail {
                verdicts.push(upstream.peers.len());
            }
        });
        assert_eq!((rest, verdicts), (3, vec![99]), "the newest");
    }

    #[test]
    fn a_batch_is_one_wake() {
        let (mut post, _inbox) = pair();
        assert_eq!(post.wake(), 0);
        for slot in 0..100 {
            post.post(TO, change(slot));
        }
        assert_eq!(post.wake(), 1);
        assert_eq!(post.wake(), 0);
        assert!(matches!(post.post(ShardId(7), change(0)), Posted::Refused(_)), "no such shard");
    }

    #[test]
    fn the_bound_of_a_mailbox_is_shared_among_its_senders() {
        assert_eq!(queue_count_max(1), MAILBOX_COUNT_MAX);
        assert_eq!(queue_count_max(2), MAILBOX_COUNT_MAX);
        assert_eq!(queue_count_max(5), MAILBOX_COUNT_MAX / 4);
        assert!(queue_count_max(SHARDS_MAX) * (SHARDS_MAX - 1) <= MAILBOX_COUNT_MAX);
    }
}
