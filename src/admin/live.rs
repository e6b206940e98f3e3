//! The running shards as a [`Source`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{About, Readiness, Source, TlsFiles};
use crate::abuse::{self, BanRow};
use crate::engine::Located;
use crate::server_pool::{Member, PinFault};
use crate::shard::Handle;
use crate::stats::{PairRow, Snapshot};

/// Answers from the shards of this process, and what `about` said at start.
#[derive(Debug)]
pub struct Live {
    handle: Handle,
    about: About,
    tls_files: Arc<Mutex<TlsFiles>>,
    log_lost: Arc<AtomicU64>,
    started: Instant,
}

impl Live {
    /// The process counts as started now; `about` gives what does not change (its number of shards is the
    /// handle's), `tls_files` is kept up to date by who reads the files, and `log_lost` by who writes the log.
    #[must_use]
    pub fn new(handle: Handle, about: About, tls_files: Arc<Mutex<TlsFiles>>, log_lost: Arc<AtomicU64>) -> Self {
        let shards = u8::try_from(handle.shards()).unwrap_or(u8::MAX);
        Self { handle, about: About { shards, ..about }, tls_files, log_lost, started: Instant::now() }
    }
}

impl Source for Live {
    fn snapshots(&self) -> Vec<Snapshot> {
        self.handle.snapshots()
    }

    fn locate(&self, aor: &str) -> Option<Vec<Located>> {
        self.handle.locate(aor)
    }

    fn pairs(&self) -> Option<Vec<PairRow>> {
        self.handle.pairs()
    }

    fn pin(&self, pair: &str, member: Option<Member>) -> Option<Result<(), PinFault>> {
        self.handle.pin(pair, member)
    }

    fn bans(&self) -> Option<Vec<BanRow>> {
        self.handle.bans()
    }

    fn unban(&self, address: abuse::Source) -> Option<bool> {
        self.handle.unban(address)
    }

    fn readiness(&self) -> Readiness {
        if self.handle.draining() {
            Readiness::Not("stopping: no new work is taken".to_owned())
        } else if !self.handle.ready() {
            Readiness::Not("a shard is out of service after repeated panics".to_owned())
        } else {
            Readiness::Ready
        }
    }

    fn running(&self) -> (usize, usize) {
        (self.handle.running(), self.handle.shards())
    }

    fn pairs_answering(&self) -> Option<(usize, usize)> {
        self.handle.pairs_answering()
    }

    fn about(&self) -> About {
        let tls_files = self.tls_files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let log_lost = self.log_lost.load(Ordering::Relaxed);
        About { uptime: self.started.elapsed(), tls_files, log_lost, ..self.about.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::engine::Settings;
    use crate::config::{Server, ServerAddress};
    use crate::ids::{ShardId, Transport};
    use crate::shard::{Common, Setup, Shards};
    use crate::tls::Tls;

    fn setup(shard: u8, shards: u8) -> Setup {
        let mut server = Server::at("sips1", "127.0.0.1:9".parse().expect("an address"), Transport::Udp);
        server.backup = Some(ServerAddress::Address("127.0.0.2:9".parse().expect("an address")));
        let settings = Settings { shard: ShardId(shard), shards, ..Settings::plain(vec![], vec![server]) };
        Setup { cpu: None, settings, sockets: vec![] }
    }

    #[test]
    fn running_shards_answer_and_stopped_ones_do_not() {
        let common = Common {
            kind: crate::driver::Kind::Epoll,
            tls: Tls::default(),
            tos: 256,
            gather: Duration::ZERO,
            spin_before_park: Duration::ZERO,
        };
        let shards = Shards::start(vec![setup(0, 2), setup(1, 2)], &common).expect("two shards start");
        let about = About {
            version: "0".to_owned(),
            uptime: Duration::ZERO,
            shards: 0,
            driver: String::new(),
            listeners: vec![],
            server: String::new(),
            sticky: String::new(),
            tls_files: TlsFiles::default(),
            log_lost: 0,
        };
        let live = Live::new(shards.handle(), about, Arc::default(), Arc::default());
        assert_eq!(live.about().shards, 2);
        assert_eq!(live.snapshots().iter().map(|snapshot| snapshot.shard).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(live.readiness(), Readiness::Ready);
        assert_eq!((live.running(), live.pairs_answering()), ((2, 2), Some((1, 1))));
        assert_eq!(live.pin("sips1", Some(Member::Backup)), Some(Ok(())));
        let pairs = live.pairs().expect("the first shard answers");
        assert_eq!((pairs[0].name.as_str(), pairs[0].active, pairs[0].pinned), ("sips1", "backup", true));
        assert_eq!(live.pin("sips1", None), Some(Ok(())));
        assert!(!live.pairs().expect("the first shard answers")[0].pinned);
        assert_eq!(live.pin("other", None), Some(Err(PinFault::Pair)));
        assert!(live.locate("sip:nobody@example.com").is_some_and(|located| located.is_empty()));
        assert!(shards.handle().drain(Duration::from_secs(10)), "nothing is in flight");
        assert!(matches!(live.readiness(), Readiness::Not(why) if why.starts_with("stopping")));
        shards.stop();
        assert_eq!(live.running(), (0, 2));
        assert!(live.snapshots().is_empty() && live.pairs().is_none() && live.pin("sips1", None).is_none());
        assert!(live.locate("sip:nobody@example.com").is_none(), "nobody is left to say that there is none");
    }
}
