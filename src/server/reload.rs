//! The files of TLS while Hawser runs: certificates, keys, CAs and revocation lists are read again when one of them
//! changes or SIGHUP says so, as a whole or not at all, and given to every shard.
//!
//! A thread of its own looks at the files' stamps; nothing of this touches a shard but the finished set-up. Stamps are
//! polled, for a watch by inotify loses files behind symbolic links that are switched (ACME clients, Kubernetes), and
//! all of a mount that knows no such events.
//!
//! Left out on purpose: the settings that name the files, and `ticket-key-file`, whose secret never has to change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::source;
use crate::admin::{TlsFiles, days_until};
use crate::config::Config;
use crate::ids::Side;
use crate::shard::Handle;
use crate::tls::CurrentCertificate;
use crate::tls::inventory::Inventory;
use crate::tls::key_log::{self, KeyLogs};
use crate::tls::setup;
use crate::tls::tickets::TicketSecrets;

/// From one look at the files to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Files that have not changed for so long are whole, or as whole as they will be.
const SETTLED_AFTER: Duration = Duration::from_millis(400);
/// A certificate waits so long for the key that belongs to it, and a half-written file for its rest, before the
/// operator hears of a fault.
const TOLD_AFTER: Duration = Duration::from_millis(1_400);
/// What was of no use is read again after this, and after twice as long each time: the fault may pass by itself (no
/// descriptor was free, a disk or a file server had a moment).
const AGAIN_AFTER_MIN: Duration = Duration::from_secs(2);
/// From one such read to the next at the longest.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(5 * 60);
/// How often the operator is reminded of what expires.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// From so many days on.
const REMIND_DAYS: i64 = 30;

/// What tells one state of a file from another; `None` for a file that is not there.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

fn stamp(path: &Path) -> Stamp {
    // Through symbolic links: what they point to is what is read.
    let of = fs::metadata(path).ok()?;
    Some((of.dev(), of.ino(), of.len(), (of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec())))
}

/// The files of TLS and the state that they were in.
#[derive(Debug)]
pub(super) struct Before {
    files: Vec<PathBuf>,
    stamps: Vec<Stamp>,
}

impl Before {
    /// The state that they are in now.
    pub(super) fn new(config: &Config) -> Self {
        let files = files(config);
        Self { stamps: files.iter().map(|path| stamp(path)).collect(), files }
    }
}

/// When the files are to be read, from their stamps at each look.
#[derive(Debug)]
struct Watch {
    /// As of the set-up that is in use.
    used: Vec<Stamp>,
    seen: Vec<Stamp>,
    /// Since when they are as they were seen.
    since: Instant,
    /// What was seen has been read and was of no use, or could not be read: when it is read again.
    refused: Option<Refused>,
    /// Since when what is used is not what is there.
    stale: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    /// The operator has heard of it.
    told: bool,
    again_at: Instant,
    /// The pause behind the next read.
    pause: Duration,
}

impl Watch {
    fn new(stamps: Vec<Stamp>, now: Instant) -> Self {
        Self { used: stamps.clone(), seen: stamps, since: now, refused: None, stale: None }
    }

    /// Whether it is time to read them. `asked`: by SIGHUP, which reads what has not changed too.
    fn is_time(&mut self, stamps: &[Stamp], asked: bool, now: Instant) -> bool {
        if stamps != self.seen {
            self.seen = stamps.to_vec();
            self.since = now;
            self.refused = None;
            self.stale = if self.seen == self.used { None } else { self.stale.or(Some(now)) };
        }
        if asked {
            return true;
        }
        match self.refused {
            None => self.seen != self.used && now.duration_since(self.since) >= SETTLED_AFTER,
            Some(refused) => now >= refused.again_at,
        }
    }

    /// What was seen is in use.
    fn taken(&mut self) {
        self.used.clone_from(&self.seen);
        self.refused = None;
        self.stale = None;
    }

    /// What was seen is of no use; says whether that is to be told, which it is once.
    fn refused(&mut self, asked: bool, now: Instant) -> bool {
        // What was asked for by SIGHUP and could not be had is owed, though no file has changed.
        self.stale = self.stale.or(Some(now));
        let told_at = self.since + TOLD_AFTER;
        let before = self.refused.filter(|before| before.told && !asked);
        self.refused = Some(match before {
            Some(Refused { pause, .. }) => {
                Refused { told: true, again_at: now + pause, pause: (pause * 2).min(AGAIN_AFTER_MAX) }
            }
            None if asked || now >= told_at => {
                Refused { told: true, again_at: now + AGAIN_AFTER_MIN, pause: AGAIN_AFTER_MIN * 2 }
            }
            None => Refused { told: false, again_at: told_at, pause: AGAIN_AFTER_MIN },
        });
        before.is_none() && self.refused.is_some_and(|refused| refused.told)
    }
}

/// The thread that watches the files. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct CertificateReload {
    ask: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CertificateReload {
    /// Watches the files that `config` names. `known` is what the set-up in use was made from, and `before` the state
    /// of the files before they were read for it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn watch(
        (config, tickets, key_logs): (Config, TicketSecrets, KeyLogs),
        before: Before,
        known: &Inventory,
        handle: Handle,
        shown: Arc<Mutex<TlsFiles>>,
        https: Option<Arc<CurrentCertificate>>,
    ) -> io::Result<Self> {
        let Before { files, stamps } = before;
        let reader = Reader { config, tickets, key_logs, handle, shown, https, files };
        reader.show(known);
        let known = known.clone();
        // One place: a second SIGHUP before the first is seen asks for nothing more.
        let (ask, asked) = bounded(1);
        let run = move || reader.run(Watch::new(stamps, Instant::now()), known, &asked);
        let thread = std::thread::Builder::new().name("tls-reload".into()).spawn(run)?;
        Ok(Self { ask: Some(ask), thread: Some(thread) })
    }

    /// Asks for all files to be read again.
    pub(super) fn read_again(&self) {
        if let Some(ask) = &self.ask {
            let _ = ask.try_send(());
        }
    }
}

impl Drop for CertificateReload {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

fn files(config: &Config) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for side in [Side::Server, Side::Endpoint] {
        let security = config.security.side(side);
        let named = [&security.certificate, &security.certificate_key, &security.trusted_ca, &security.crl];
        all.extend(named.into_iter().flatten().cloned());
    }
    for peer in &config.security.peers {
        let named = [&peer.certificate, &peer.certificate_key, &peer.trust.trusted_ca, &peer.trust.crl];
        all.extend(named.into_iter().flatten().cloned());
    }
    all.extend(config.security.sni.iter().flat_map(|sni| [sni.certificate.clone(), sni.certificate_key.clone()]));
    all.sort();
    all.dedup();
    all
}

struct Reader {
    config: Config,
    tickets: TicketSecrets,
    key_logs: KeyLogs,
    handle: Handle,
    shown: Arc<Mutex<TlsFiles>>,
    https: Option<Arc<CurrentCertificate>>,
    files: Vec<PathBuf>,
}

impl Reader {
    fn run(&self, mut watch: Watch, mut known: Inventory, asked: &Receiver<()>) {
        let mut reminded = self.remind(&known);
        loop {
            let asked = match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let stamps = self.stamps();
            if watch.is_time(&stamps, asked, Instant::now()) {
                match setup::set_up(&self.config, &self.tickets, &self.key_logs) {
                    // Something was written while it was read: what was read may be of two states.
                    Ok(_) if self.stamps() != stamps => {}
                    Ok((tls, inventory)) => {
                        watch.taken();
                        if let (Some(https), Some(config)) = (&self.https, tls.acceptor(Some(Side::Endpoint))) {
                            https.set(config.cert_resolver.clone());
                        }
                        self.handle.set_tls(&tls);
                        self.show(&inventory);
                        self.shown().taken += 1;
                        log::info!("certificates, keys, CAs and revocation lists were read again and are in use");
                        known = inventory;
                        reminded = self.remind(&known);
                    }
                    Err(fault) => {
                        if watch.refused(asked, Instant::now()) {
                            self.shown().refused += 1;
                            log::error!(
                                "{fault}: what was read before stays in use; the files are read again and again"
                            );
                        }
                    }
                }
            }
            self.shown().stale_since = watch.stale;
            if reminded.elapsed() >= REMIND_EVERY {
                reminded = self.remind(&known);
            }
        }
    }

    /// Tells what expires soon or has expired, what there is no list for, and that keys are written. Says when.
    fn remind(&self, inventory: &Inventory) -> Instant {
        warnings(inventory, SystemTime::now()).iter().for_each(|line| log::warn!("{line}"));
        for file in key_log::files(&self.config) {
            log::warn!(
                "KEY LOG: the keys of TLS sessions go to {}: WHOEVER READS IT CAN READ ALL TRAFFIC, OF NOW AND OF CAPTURES. \
                 Take key-log-file out of the settings and delete the file as soon as the fault is found",
                file.display()
            );
        }
        Instant::now()
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.files.iter().map(|path| stamp(path)).collect()
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, TlsFiles> {
        // What the lock guards is whole at any time.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, inventory: &Inventory) {
        let mut shown = self.shown();
        shown.certificates = source::certificates(inventory);
        shown.crls = source::crls(inventory);
    }
}

fn warnings(inventory: &Inventory, now: SystemTime) -> Vec<String> {
    let mut all = Vec::new();
    for leaf in &inventory.leaves {
        if source::not_before(leaf).is_some_and(|begin| begin > now) {
            all.push(format!(
                "{}: the certificate is not valid yet: phones that verify it will not connect; is the clock right?",
                leaf.path.display()
            ));
        }
        let days = source::not_after(leaf).map(|end| days_until(end, now));
        match days {
            Some(days) if days < 0 => all.push(format!(
                "{}: the certificate has expired: phones that verify it will not connect",
                leaf.path.display()
            )),
            Some(days) if days <= REMIND_DAYS => {
                all.push(format!("{}: the certificate expires in {days} days", leaf.path.display()));
            }
            _ => {}
        }
    }
    for crl in &inventory.crls {
        let next = crl.next_update.and_then(|s| u64::try_from(s).ok());
        let next = next.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        if next.is_some_and(|next| next < now) {
            all.push(format!(
                "{}: the revocation list of {} is past its next update: what it lists stays revoked, and what was \
                 revoked since is let in",
                crl.path.display(),
                crl.issuer
            ));
        }
    }
    for authority in inventory.authorities.iter().filter(|authority| authority.unlisted) {
        all.push(format!(
            "{}: {} has no revocation list here: all of its certificates pass",
            authority.path.display(),
            authority.subject()
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::inventory::Leaf;

    fn stamps(of: u64) -> Vec<Stamp> {
        vec![Some((1, 1, of, (0, 0), (0, 0))), None]
    }

    #[test]
    fn the_files_of_every_table_are_watched() {
        let text = "[sipproxy]\ntls-port = 0\n[[sip-server]]\nname = \"a\"\nprimary = \"10.0.0.1:5060\"\n\
                    crl = \"a.crl\"\n[[peer-proxy]]\nname = \"b\"\nservers = [\"10.0.0.2\"]\n\
                    peer-proxy-contact = \"b\"\npeer-proxy-protocol = \"udp\"\ntrusted-ca = \"b.pem\"\n\
                    [[device]]\nnetwork = \"10.1.0.0/16\"\ncertificate = \"c.pem\"\ncertificate-key = \"c.key\"\n\
                    [security]\ntrusted-ca = \"ca.pem\"\n[security.server]\ncrl = \"s.crl\"\n";
        let config = Config::parse(text, "hawser.toml").unwrap();
        let names = ["a.crl", "b.pem", "c.key", "c.pem", "ca.pem", "s.crl"];
        assert_eq!(files(&config), names.map(PathBuf::from));
    }

    #[test]
    fn files_are_read_once_when_they_have_settled_and_a_fault_is_told_when_it_stays() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut watch = Watch::new(stamps(1), start);
        assert!(!watch.is_time(&stamps(1), false, at(10_000)), "nothing has changed");
        assert!(!watch.is_time(&stamps(2), false, at(10_200)));
        assert!(!watch.is_time(&stamps(3), false, at(10_400)), "it is still being written");
        assert!(!watch.is_time(&stamps(3), false, at(10_600)));
        assert!(watch.is_time(&stamps(3), false, at(10_800)));
        assert!(!watch.refused(false, at(10_800)), "its rest or its key may be on its way");
        assert!(!watch.is_time(&stamps(3), false, at(11_000)));
        assert!(watch.is_time(&stamps(3), false, at(11_800)));
        assert!(watch.refused(false, at(11_800)));
        assert!(!watch.is_time(&stamps(4), false, at(13_200)));
        assert!(watch.is_time(&stamps(4), false, at(13_600)));
        watch.taken();
        assert!(!watch.is_time(&stamps(4), false, at(200_000)));
    }

    #[test]
    fn a_read_that_failed_is_tried_again_with_longer_pauses_until_it_is_done_and_told_once() {
        let start = Instant::now();
        let mut watch = Watch::new(stamps(1), start);
        let (mut reads, mut told) = (Vec::new(), 0);
        for second in 0..2_000 {
            let now = start + Duration::from_secs(second);
            if watch.is_time(&stamps(2), false, now) {
                reads.push(second);
                told += u32::from(watch.refused(false, now));
            }
        }
        assert_eq!(reads[..8], [1, 2, 4, 8, 16, 32, 64, 128], "the first is for its rest or its key");
        assert!(reads.windows(2).all(|two| two[1] - two[0] <= AGAIN_AFTER_MAX.as_secs()), "{reads:?}");
        assert_eq!(told, 1);
        assert_eq!(watch.stale, Some(start), "since the files have changed");
        let mut later = start + Duration::from_secs(2_000);
        while !watch.is_time(&stamps(2), false, later) {
            later += Duration::from_secs(1);
        }
        watch.taken();
        assert_eq!(watch.stale, None);
        assert!(!watch.is_time(&stamps(2), false, later + AGAIN_AFTER_MAX * 2));
    }

    #[test]
    fn files_that_are_as_they_were_again_are_what_is_used() {
        let start = Instant::now();
        let mut watch = Watch::new(stamps(1), start);
        assert!(!watch.is_time(&stamps(2), false, start));
        assert_eq!(watch.stale, Some(start));
        assert!(!watch.is_time(&stamps(1), false, start + Duration::from_secs(1)));
        assert_eq!(watch.stale, None);
    }

    #[test]
    fn sighup_reads_at_once_and_tells_a_fault_at_once() {
        let start = Instant::now();
        let mut watch = Watch::new(stamps(1), start);
        assert!(watch.is_time(&stamps(1), true, start));
        watch.taken();
        assert!(watch.is_time(&stamps(2), true, start));
        assert!(watch.refused(true, start));
        assert!(watch.is_time(&stamps(2), false, start + Duration::from_secs(60)), "it is owed");
        assert!(!watch.refused(false, start + Duration::from_secs(60)), "and told");
        // What the set-up in use was made from is back.
        assert!(!watch.is_time(&stamps(1), false, start + Duration::from_secs(61)));
        assert!(!watch.is_time(&stamps(1), false, start + Duration::from_secs(62)));
    }

    #[test]
    fn a_certificate_is_told_before_and_after_its_time_and_a_month_before_its_end() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 12, 31);
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let leaf = Leaf { side: Side::Endpoint, peer: None, path: "own.pem".into(), chain, domain: None };
        let inventory = Inventory { leaves: vec![leaf], ..Inventory::default() };
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        let day = Duration::from_secs(24 * 3_600);
        let told = |now| warnings(&inventory, now).concat();
        assert!(told(begin - day).starts_with("own.pem: the certificate is not valid yet"), "{}", told(begin - day));
        assert_eq!(told(begin + day), "");
        assert_eq!(told(begin + 354 * day), "own.pem: the certificate expires in 10 days");
        assert!(told(begin + 365 * day).starts_with("own.pem: the certificate has expired"));
    }
}
