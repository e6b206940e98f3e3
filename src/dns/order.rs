//! In which order the servers of a name are tried: RFC 2782, with those that did not answer lately at the end.
//!
//! Owns: the list of targets to be tried last (RFC 3263 §4.3). Must not touch: how targets are found.
//!
//! RFC 2782 draws among running sums with 0 and the sum both included, which gives the first record more than its
//! share. Here each record's chance is exactly its weight's share, and a weight of 0 counts as a small part of a
//! weight of 1: chosen seldom beside others, and evenly among themselves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::Target;
use crate::clock::Time;
use crate::ids::Transport;
use crate::limits::{DNS_BLOCK_TIME, DNS_BLOCKED_COUNT_MAX};
use crate::rng::Rng;

/// How many records of weight 0 make up one of weight 1.
const ZEROES_PER_ONE: u64 = 64;

/// Targets that did not answer, each until when.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    until: BTreeMap<(Transport, SocketAddr), Time>,
}

impl Blocked {
    /// Says whether another one had to give way.
    pub(super) fn block(&mut self, transport: Transport, address: SocketAddr, now: Time) -> bool {
        let key = (transport, address);
        let mut pushed_out = false;
        if self.until.len() >= DNS_BLOCKED_COUNT_MAX && !self.until.contains_key(&key) {
            self.until.retain(|_, until| *until > now);
            if self.until.len() >= DNS_BLOCKED_COUNT_MAX {
                let first = self.until.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key);
                first.map(|key| self.until.remove(&key));
                pushed_out = true;
            }
        }
        self.until.insert(key, now.after(DNS_BLOCK_TIME));
        pushed_out
    }

    pub(super) fn unblock(&mut self, transport: Transport, address: SocketAddr) {
        self.until.remove(&(transport, address));
    }

    pub(super) fn is_blocked(&self, transport: Transport, address: SocketAddr, now: Time) -> bool {
        self.until.get(&(transport, address)).is_some_and(|until| *until > now)
    }
}

/// The order in which to try them.
pub(super) fn order(targets: &[Target], blocked: &Blocked, rng: &mut Rng, now: Time) -> SmallVec<[Target; 4]> {
    let mut left: SmallVec<[Target; 4]> = SmallVec::from_slice(targets);
    let is_blocked = |target: &Target| blocked.is_blocked(target.transport, target.address, now);
    left.sort_by_key(|target| (is_blocked(target), target.priority));
    let mut from = 0;
    while from < left.len() {
        let (first, is_last) = (left[from].priority, is_blocked(&left[from]));
        let alike = |target: &Target| target.priority == first && is_blocked(target) == is_last;
        let to = from + left[from..].iter().take_while(|target| alike(target)).count();
        draw(&mut left[from..to], rng);
        from = to;
    }
    left
}

/// The order in which what belongs together tries them, the same each time: `hash` is evenly spread for each target
/// and each dialog. The first comes as often as its weight says, and a target that joins, leaves or is blocked moves
/// no dialog but its own, for each one's place is drawn by itself: the smallest of exponential times whose rates are
/// the weights.
pub(super) fn order_alike(
    targets: &[Target],
    blocked: &Blocked,
    hash: impl Fn(&Target) -> u64,
    now: Time,
) -> SmallVec<[Target; 4]> {
    let mut left: SmallVec<[Target; 4]> = SmallVec::from_slice(targets);
    let time = |target: &Target| {
        // Above 0 and at most 1; 53 bits are what an f64 holds.
        let drawn = ((hash(target) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        -drawn.ln() / share(target) as f64
    };
    left.sort_by(|a, b| {
        let place = |target: &Target| (blocked.is_blocked(target.transport, target.address, now), target.priority);
        place(a).cmp(&place(b)).then_with(|| time(a).total_cmp(&time(b)))
    });
    left
}

/// A target's part of the choices among those of its priority.
fn share(target: &Target) -> u64 {
    (u64::from(target.weight) * ZEROES_PER_ONE).max(1)
}

/// Puts those of one priority into a random order, by weight.
fn draw(targets: &mut [Target], rng: &mut Rng) {
    for at in 0..targets.len().saturating_sub(1) {
        let left = &mut targets[at..];
        let sum: u64 = left.iter().map(share).sum();
        // The sum is far below 2^32, so the remainder favours nobody that counts.
        let mut drawn = rng.next() % sum;
        let mut chosen = 0;
        while drawn >= share(&left[chosen]) {
            drawn -= share(&left[chosen]);
            chosen += 1;
        }
        // The rest keeps its order.
        left[..=chosen].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DNS_BLOCKED_COUNT_MAX;

    const NOW: Time = Time(5_000_000);

    fn target(n: u16, priority: u16, weight: u16) -> Target {
        Target { transport: Transport::Udp, address: SocketAddr::from(([10, 0, 0, 1], n)), priority, weight }
    }

    fn ports(targets: &[Target]) -> Vec<u16> {
        targets.iter().map(|target| target.address.port()).collect()
    }

    /// How often each of the targets comes first, by port from 0.
    fn firsts(targets: &[Target], blocked: &Blocked, picks: usize) -> Vec<u64> {
        let mut rng = Rng::new(&[3; 32]);
        let mut count = vec![0; targets.len()];
        for _ in 0..picks {
            count[usize::from(order(targets, blocked, &mut rng, NOW)[0].address.port())] += 1;
        }
        count
    }

    fn chi_square(observed: &[u64], shares: &[f64]) -> f64 {
        let total = observed.iter().sum::<u64>() as f64;
        let term = |(observed, share): (&u64, &f64)| (*observed as f64 - total * share).powi(2) / (total * share);
        observed.iter().zip(shares).map(term).sum()
    }

    #[test]
    fn the_first_of_ten_thousand_is_as_the_weights_say() {
        let targets = [target(0, 1, 10), target(1, 1, 20), target(2, 1, 30), target(3, 1, 40)];
        let observed = firsts(&targets, &Blocked::default(), 10_000);
        let shares = [0.1, 0.2, 0.3, 0.4];
        // Three degrees of freedom: 11.34 is passed by chance once in a hundred seeds.
        assert!(chi_square(&observed, &shares) < 11.34, "{observed:?}");
        for (observed, share) in observed.iter().zip(shares) {
            assert!((*observed as f64 / 10_000.0 - share).abs() < 0.01, "{observed} of {share}");
        }
        // The test can tell: what RFC 2782's inclusive draw would do with small weights is far off.
        assert!(chi_square(&[6_667, 3_333], &[0.5, 0.5]) > 6.63);
    }

    #[test]
    fn the_second_is_drawn_from_those_that_are_left() {
        let targets = [target(0, 1, 10), target(1, 1, 30), target(2, 1, 60)];
        let mut rng = Rng::new(&[4; 32]);
        let (mut of_first_two, mut second_one) = (0_u64, 0_u64);
        for _ in 0..10_000 {
            let ordered = order(&targets, &Blocked::default(), &mut rng, NOW);
            if ordered[0].address.port() == 2 {
                of_first_two += 1;
                second_one += u64::from(ordered[1].address.port() == 1);
            }
        }
        assert!(chi_square(&[second_one, of_first_two - second_one], &[0.75, 0.25]) < 6.63, "{second_one}");
    }

    #[test]
    fn weights_of_zero_share_evenly_and_come_seldom_beside_others() {
        let zeroes = [target(0, 1, 0), target(1, 1, 0), target(2, 1, 0), target(3, 1, 0)];
        assert!(chi_square(&firsts(&zeroes, &Blocked::default(), 10_000), &[0.25; 4]) < 11.34);
        let mixed = firsts(&[target(0, 1, 0), target(1, 1, 10)], &Blocked::default(), 10_000);
        assert!((1..100).contains(&mixed[0]), "{mixed:?}");
    }

    #[test]
    fn priorities_come_in_their_order_whatever_the_weights() {
        let targets = [target(0, 30, 65_535), target(1, 10, 1), target(2, 20, 0), target(3, 10, 1)];
        let mut rng = Rng::new(&[5; 32]);
        for _ in 0..100 {
            let ordered = ports(&order(&targets, &Blocked::default(), &mut rng, NOW));
            assert!(ordered[..2] == [1, 3] || ordered[..2] == [3, 1], "{ordered:?}");
            assert_eq!(ordered[2..], [2, 0]);
        }
        assert!(order(&[], &Blocked::default(), &mut rng, NOW).is_empty());
    }

    /// Numbers in a row, spread evenly (the end of SplitMix64).
    fn spread(number: u64) -> u64 {
        let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn a_dialog_finds_the_same_order_again_and_leaves_its_target_only_when_that_is_gone() {
        let targets = [target(0, 1, 10), target(1, 1, 20), target(2, 1, 30), target(3, 1, 40), target(4, 2, 90)];
        let mut blocked = Blocked::default();
        let first = |of: &[Target], blocked: &Blocked, dialog: u64| {
            let hash = |target: &Target| spread(dialog * 8 + u64::from(target.address.port()));
            usize::from(order_alike(of, blocked, hash, NOW)[0].address.port())
        };
        let mut count = [0_u64; 4];
        let homes: Vec<usize> = (0..10_000).map(|dialog| first(&targets, &blocked, dialog)).collect();
        homes.iter().for_each(|home| count[*home] += 1);
        for (observed, share) in count.iter().zip([0.1, 0.2, 0.3, 0.4]) {
            assert!((*observed as f64 / 10_000.0 - share).abs() < 0.01, "{count:?}");
        }
        blocked.block(Transport::Udp, targets[3].address, NOW);
        for (dialog, home) in homes.iter().enumerate() {
            let (without, while_blocked) =
                (first(&targets[..3], &Blocked::default(), dialog as u64), first(&targets, &blocked, dialog as u64));
            assert_eq!(without, while_blocked);
            assert!(*home == 3 || *home == without, "{dialog} left {home} for {without}");
        }
    }

    #[test]
    fn what_is_blocked_comes_last_in_the_order_of_its_priority_until_its_time_is_over() {
        let targets = [target(0, 10, 1), target(1, 20, 1), target(2, 30, 1)];
        let mut blocked = Blocked::default();
        let mut rng = Rng::new(&[6; 32]);
        for port in [1, 0] {
            assert!(!blocked.block(Transport::Udp, target(port, 0, 0).address, NOW));
        }
        assert_eq!(ports(&order(&targets, &blocked, &mut rng, NOW)), [2, 0, 1]);
        let over_tcp = Target { transport: Transport::Tcp, ..targets[0] };
        assert!(!blocked.is_blocked(over_tcp.transport, over_tcp.address, NOW), "another transport is another target");
        blocked.unblock(Transport::Udp, targets[0].address);
        assert_eq!(ports(&order(&targets, &blocked, &mut rng, NOW)), [0, 2, 1]);
        assert_eq!(ports(&order(&targets, &blocked, &mut rng, NOW.after(DNS_BLOCK_TIME))), [0, 1, 2]);
    }

    #[test]
    fn the_list_of_blocked_targets_is_bounded_and_the_oldest_gives_way() {
        let mut blocked = Blocked::default();
        let address = |n: usize| SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).unwrap()));
        for n in 0..DNS_BLOCKED_COUNT_MAX {
            assert!(!blocked.block(Transport::Udp, address(n), Time(n as u64)));
        }
        assert!(!blocked.block(Transport::Udp, address(7), Time(2_000)), "it has its place already");
        assert!(blocked.block(Transport::Udp, address(DNS_BLOCKED_COUNT_MAX), Time(2_000)));
        assert_eq!(blocked.until.len(), DNS_BLOCKED_COUNT_MAX);
        assert!(!blocked.is_blocked(Transport::Udp, address(0), Time(2_000)));
        assert!(blocked.is_blocked(Transport::Udp, address(1), Time(2_000)));
        let later = Time(3_000).after(DNS_BLOCK_TIME);
        assert!(!blocked.block(Transport::Udp, address(9_999), later), "what is over makes room");
        assert_eq!(blocked.until.len(), 1);
    }
}
