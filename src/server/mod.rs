//! From a valid configuration to running shards, and to their end.
//!
//! Owns: the checks of a start (`checks`), secrets (`secrets`), what each shard is made with (`plan`), the log's way to
//! stderr (`log_writer`), the signals, and what `--check` prints ([`mod@report`]). Must not touch: a shard's state, SIP.

mod checks;
mod error;
mod log_writer;
mod lookup;
mod plan;
mod reload;
mod report;
pub(crate) mod resolvers;
mod secrets;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod tls_report;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, select};
use rustls::{NoKeyLog, ServerConfig};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use checks::PortWait;
pub use error::StartError;
pub use log_writer::LogWriter;
use reload::{Before, CertificateReload};
pub use report::Report;
pub use secrets::{SecretError, http_token};
pub use settings::{SettingsFile, level};

use crate::admin;
use crate::config::Config;
use crate::ids::Side;
use crate::limits::{DRAIN_MAX, SHARDS_MAX};
use crate::shard::{Common, Setup, Shards};
use crate::tls::CurrentCertificate;
use crate::tls::inventory::Inventory;
use crate::tls::key_log::KeyLogs;
use crate::tls::setup;
use crate::tls::tickets::TicketSecrets;

/// Status when a second signal ends the process at once.
const STATUS_AT_ONCE: i32 = 130;

/// What would run with this configuration on these cores.
///
/// # Errors
/// Whatever would end a start, but for ports that are taken and limits of the system.
pub fn check(config: &Config, cores: &[usize]) -> Result<Report, StartError> {
    shards(cores)?;
    secrets::check_keys(config)?;
    // Secrets of this moment will do, for nothing is sent.
    let tickets = TicketSecrets { server: secrets::random()?, endpoint: secrets::random()? };
    KeyLogs::check(config)?;
    let (_, inventory) = setup::set_up(config, &tickets, &KeyLogs::default())?;
    config.sipproxy.http_token_file.as_deref().map(http_token).transpose()?;
    let names = lookup::names(config);
    let dns = resolvers::settings(&config.dns);
    let answers = lookup::look_up(dns.clone(), names.iter().map(|name| &name.question))?;
    let names = names.into_iter().zip(answers).collect();
    let driver = checks::driver(config.sipproxy.driver)
        .map_or_else(|fault| format!("io_uring, WITH WHICH IT CANNOT START: {fault}"), |chosen| chosen.to_string());
    Ok(report(config, cores, &inventory).with_driver(driver).with_names(dns.resolvers, names))
}

fn report(config: &Config, cores: &[usize], inventory: &Inventory) -> Report {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Report::new(config, cores).with_tls(inventory, i64::try_from(now).unwrap_or(i64::MAX))
}

fn shards(cores: &[usize]) -> Result<u8, StartError> {
    match u8::try_from(cores.len()) {
        Ok(count @ 1..) if usize::from(count) <= SHARDS_MAX => Ok(count),
        _ => Err(StartError::Cores(cores.len())),
    }
}

/// Runs one shard on each core until SIGTERM or SIGINT: then no new work is taken, what is in flight finishes for up
/// to 5 s, and all connections are closed. A second signal ends the process at once.
///
/// # Errors
/// Whatever ends the start; a shard that ended by itself.
pub fn run(config: Config, file: SettingsFile, cores: Vec<usize>, log: &LogWriter) -> Result<(), StartError> {
    let Heard { stop, reload, armed } = signals().map_err(StartError::Executor)?;
    let mut settings = settings::Current::new(file, &config)?;
    let running = Running::start(&config, &cores, log.lost())?;
    let ended = loop {
        select! {
            recv(stop) -> _ => break None,
            recv(reload) -> _ => {
                log::info!("SIGHUP: settings, certificates, keys, CAs and revocation lists are read again");
                settings.read_again(&running.shards.handle());
                running.reload.read_again();
            }
            recv(running.shards.ended()) -> _ => break Some(StartError::ShardEnded),
        }
    };
    armed.store(true, Ordering::SeqCst);
    match ended {
        None => {
            log::info!("stopping: no new work; what is in flight has {} s", DRAIN_MAX.as_secs());
            if !running.shards.handle().drain(DRAIN_MAX) {
                log::warn!("some transactions were still in flight and are given up");
            }
            running.stop();
            log::info!("stopped");
            Ok(())
        }
        Some(fault) => Err(fault),
    }
}

/// The signals that the process hears.
struct Heard {
    /// SIGTERM or SIGINT.
    stop: Receiver<()>,
    /// SIGHUP.
    reload: Receiver<()>,
    /// Once this is set, a second one of the stopping kind ends the process at once.
    armed: Arc<AtomicBool>,
}

fn signals() -> io::Result<Heard> {
    let armed = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, STATUS_AT_ONCE, armed.clone())?;
    }
    let mut all = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    // A place for each kind: however many reloads are asked for, none is in the way of a stop.
    let (stop_sender, stop) = crossbeam_channel::bounded(1);
    let (reload_sender, reload) = crossbeam_channel::bounded(1);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut all {
            // While one is unread, one more says nothing new.
            let _ = if signal == SIGHUP { &reload_sender } else { &stop_sender }.try_send(());
        }
    })?;
    Ok(Heard { stop, reload, armed })
}

/// The shards and the HTTP port of a process.
struct Running {
    shards: Shards,
    admin: Option<admin::Admin>,
    reload: CertificateReload,
}

impl Running {
    fn start(config: &Config, cores: &[usize], log_lost: Arc<AtomicU64>) -> Result<Self, StartError> {
        let wait = PortWait::begin();
        let count = shards(cores)?;
        let driver = checks::driver(config.sipproxy.driver)?;
        let capacity = checks::capacity(cores.len())?;
        let before = Before::new(config);
        let tickets = secrets::tickets(&config.security)?;
        let key_logs = KeyLogs::open(config)?;
        let (tls, inventory) = setup::set_up(config, &tickets, &key_logs)?;
        let settings = plan::settings(config, count, capacity)?;
        checks::ports(config, wait)?;
        let http = checks::http(config, wait)?;
        // `config::check` has seen to it that there is a certificate.
        let https = tls.acceptor(Some(Side::Endpoint)).filter(|_| config.sipproxy.http_tls);
        let https = https.map(|sip| {
            let shown = Arc::new(CurrentCertificate::new(sip.cert_resolver.clone()));
            let mut config = ServerConfig::clone(sip);
            config.cert_resolver = shown.clone();
            config.key_log = Arc::new(NoKeyLog);
            (config, shown)
        });
        let tos = plan::tos(config);
        let points = plan::points(config);
        let setups = settings.into_iter().zip(cores).map(|(settings, cpu)| {
            Ok(Setup { cpu: Some(*cpu), settings, sockets: plan::sockets(&points, tos, wait)? })
        });
        let setups = setups.collect::<Result<Vec<_>, StartError>>()?;
        let cut_down = checks::cut_down(&setups);
        let common = Common {
            kind: driver.kind,
            tls,
            tos,
            gather: config.sipproxy.gather,
            spin_before_park: config.sipproxy.spin_before_park,
        };
        let shards = Shards::start(setups, &common).map_err(StartError::Executor)?;
        let shown = Arc::default();
        let source =
            admin::Live::new(shards.handle(), source::about(config, driver.kind), Arc::clone(&shown), log_lost);
        let admin = http.map(|(listener, access)| match &https {
            Some((tls, _)) => admin::start_tls(listener, source, access, tls),
            None => admin::start(listener, source, access),
        });
        let admin = admin.transpose().map_err(StartError::Executor)?;
        say_what_runs(config, cores, &driver, &inventory, capacity);
        cut_down.iter().for_each(|line| log::warn!("{line}"));
        let https = https.map(|(_, shown)| shown);
        let reload = CertificateReload::watch(
            (config.clone(), tickets, key_logs),
            before,
            &inventory,
            shards.handle(),
            shown,
            https,
        );
        Ok(Self { shards, admin, reload: reload.map_err(StartError::Executor)? })
    }

    fn stop(self) {
        drop(self.reload);
        self.shards.stop();
        drop(self.admin);
    }
}

fn say_what_runs(
    config: &Config,
    cores: &[usize],
    driver: &checks::Chosen,
    inventory: &Inventory,
    capacity: checks::Capacity,
) {
    log::info!("hawser {} runs on {} shards", env!("CARGO_PKG_VERSION"), cores.len());
    for line in report(config, cores, inventory).with_driver(driver).to_string().lines() {
        log::info!("{line}");
    }
    log::info!(
        "capacity     {} connections and {} transactions a shard",
        capacity.connections_max,
        capacity.transactions_max
    );
    for (path, setting) in secrets::open_to_all(config) {
        log::warn!("{}: {setting} can be read by every user of this machine: chmod o-r", shown(&path));
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
