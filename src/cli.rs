//! The command line: arguments, and what each command does. A fault is one line on stderr and a status that is
//! not zero: 2 for arguments, 1 for all else.
//!
//! Must not touch sockets of SIP or the shards: `server` starts those. Left out on purpose: no environment
//! variable is read, so that the file says everything.

mod ask;
mod bans;
mod file;
mod locate;
mod pool_zone;
mod servers;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Cores, CoresFault, Fault};
use crate::server::{self, LogWriter, StartError};
use file::FileError;

/// A SIP proxy that keeps every phone moored to the connection that it registered over.
#[derive(Debug, Parser)]
#[command(name = "hawser", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    /// The configuration file; conf/hawser.toml is the commented example.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Cores to run on in place of the file's: "all", or numbers such as 0-3,6.
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// Validate, read certificates and keys, print what would run, and exit.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every setting with its default and meaning, as a table in Markdown.
    Settings,
    /// Print the DNS records of a pool of proxies, or check those that are published.
    PoolZone(pool_zone::Line),
    /// Ask a running proxy where a phone is: shard, connection, peer address and binding.
    Where {
        /// Address of record, such as sip:alice@example.com.
        aor: String,
        #[command(flatten)]
        running: Running,
    },
    /// Ask a running proxy which SIP Server of each pair gets the requests, and whether they answer.
    Servers {
        #[command(flatten)]
        running: Running,
    },
    /// Make one SIP Server of a pair the active one, whatever happens, until it is released.
    Pin {
        /// The pair, by its name in [[sip-server]].
        name: String,
        /// Which of its servers.
        member: servers::Which,
        #[command(flatten)]
        running: Running,
    },
    /// Ask a running proxy which addresses it has shut out for they only failed, since when, until when and why.
    Bans {
        #[command(flatten)]
        running: Running,
    },
    /// Let an address in again that is shut out.
    Unban {
        /// The address, as bans shows it.
        address: String,
        #[command(flatten)]
        running: Running,
    },
    /// Let service checks decide again which SIP Server of a pair is active.
    Release {
        /// The pair, by its name in [[sip-server]].
        name: String,
        #[command(flatten)]
        running: Running,
    },
}

/// Which running proxy is asked.
#[derive(Debug, clap::Args)]
struct Running {
    /// The running proxy's configuration file: where its HTTP port is, whether it speaks TLS, the token's file.
    #[arg(long, value_name = "FILE", conflicts_with = "http")]
    config: Option<PathBuf>,
    /// The running proxy's http-address and http-port, when it has neither TLS nor token.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    http: String,
}

/// Why a command failed.
#[derive(Debug)]
enum CliError {
    File(FileError),
    Affinity(io::Error),
    Cores(CoresFault),
    Log(io::Error),
    Start(StartError),
    Ask(ask::AskError),
    Locate(locate::LocateError),
    Pin(servers::PinError),
    Unban(bans::UnbanError),
    Zone(pool_zone::ZoneError),
    Write(io::Error),
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(fault) => fault.fmt(f),
            Self::Affinity(fault) => write!(f, "{AFFINITY_FILE}: cannot be read: {fault}"),
            Self::Cores(fault) => write!(f, "--cores: {fault}"),
            Self::Log(fault) => write!(f, "the log cannot be written: {fault}"),
            Self::Start(fault) => fault.fmt(f),
            Self::Ask(fault) => fault.fmt(f),
            Self::Locate(fault) => fault.fmt(f),
            Self::Pin(fault) => fault.fmt(f),
            Self::Unban(fault) => fault.fmt(f),
            Self::Zone(fault) => fault.fmt(f),
            Self::Write(fault) => write!(f, "stdout: cannot be written: {fault}"),
        }
    }
}

/// Runs the command of these arguments (the first is the program's name) to its end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(fault) if fault.use_stderr() => {
            eprintln!("{}", usage_line(&fault));
            return ExitCode::from(2);
        }
        Err(help) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    match (cli.command, cli.config) {
        (Some(Command::Settings), _) => {
            let later = config::KEYS.iter().filter(|key| key.is_later()).map(|key| format!("`{}`", key.name));
            let later: Vec<_> = later.collect();
            say(&format!("{}\nFor a later release: {}\n", config::markdown(), later.join(", ")))
        }
        (Some(Command::PoolZone(line)), _) => say(&pool_zone::run(&line).map_err(CliError::Zone)?),
        (Some(Command::Where { aor, running }), _) => {
            say(&locate::locate(&aor, &running.proxy()?).map_err(CliError::Locate)?)
        }
        (Some(Command::Servers { running }), _) => say(&servers::servers(&running.proxy()?).map_err(CliError::Ask)?),
        (Some(Command::Pin { name, member, running }), _) => {
            say(&servers::pin(&name, Some(member), &running.proxy()?).map_err(CliError::Pin)?)
        }
        (Some(Command::Release { name, running }), _) => {
            say(&servers::pin(&name, None, &running.proxy()?).map_err(CliError::Pin)?)
        }
        (Some(Command::Bans { running }), _) => say(&bans::bans(&running.proxy()?).map_err(CliError::Ask)?),
        (Some(Command::Unban { address, running }), _) => {
            say(&bans::unban(&address, &running.proxy()?).map_err(CliError::Unban)?)
        }
        (None, Some(path)) => {
            let file = file::read(&path).map_err(CliError::File)?;
            let config = file.config().map_err(|fault| CliError::File(FileError::Config(fault)))?;
            let available = cores_available().map_err(CliError::Affinity)?;
            let cores = match &cli.cores {
                Some(cores) => cores.resolve(&available).map_err(CliError::Cores)?,
                None => config
                    .sipproxy
                    .cores
                    .resolve(&available)
                    .map_err(|fault| file.fault_at("sipproxy.cores", Fault::Cores(fault)))
                    .map_err(|fault| CliError::File(FileError::Config(fault)))?,
            };
            if cli.check {
                return say(&server::check(&config, &cores).map_err(CliError::Start)?.to_string());
            }
            let log = LogWriter::start(server::level(config.log.level)).map_err(CliError::Log)?;
            let ended = server::run(config, file, cores, &log).map_err(CliError::Start);
            // What is said last, by whomever, comes behind it.
            log.finish();
            ended
        }
        // clap has asked for --config where there is no subcommand.
        (None, None) => Ok(()),
    }
}

impl Running {
    /// The proxy of a configuration, or the one that is named by its address.
    fn proxy(&self) -> Result<ask::Proxy, CliError> {
        let proxy = match &self.config {
            Some(path) => ask::Proxy::of(&file::load(path).map_err(CliError::File)?),
            None => ask::Proxy::at(&self.http),
        };
        proxy.map_err(CliError::Ask)
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no fault, though `print!` would panic.
fn say(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(fault) if fault.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Write(fault)),
        _ => Ok(()),
    }
}

const AFFINITY_FILE: &str = "/proc/self/status";

/// The cores that this process may run on.
pub(crate) fn cores_available() -> io::Result<Vec<usize>> {
    let status = fs::read_to_string(AFFINITY_FILE)?;
    cores_allowed(&status).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The kernel's own notation is the one that `cores` takes, but has no bound.
fn cores_allowed(status: &str) -> Option<Vec<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cores)
}

/// clap tells a fault in a paragraph; this is its gist on one line.
fn usage_line(fault: &clap::Error) -> String {
    let text = fault.to_string();
    let end = |line: &&str| !(line.starts_with("Usage:") || line.starts_with("For more information"));
    let gist: Vec<_> = text.lines().map(str::trim).take_while(end).filter(|line| !line.is_empty()).collect();
    format!("hawser: {} (see hawser --help)", gist.join(" ").trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        Cli::try_parse_from(line.split(' ')).map_err(|fault| usage_line(&fault))
    }

    #[test]
    fn the_file_is_asked_for() {
        let line = "hawser: the following required arguments were not provided: --config <FILE> (see hawser --help)";
        assert_eq!(parse("hawser").unwrap_err(), line);
        assert_eq!(parse("hawser --check").unwrap_err(), line);
        assert_eq!(parse("hawser --config a.toml").unwrap().config, Some(PathBuf::from("a.toml")));
    }

    #[test]
    fn cores_are_read_where_they_stand() {
        let cli = parse("hawser --config a.toml --cores 0-1,4 --check").unwrap();
        assert_eq!(cli.cores, Some(Cores::List(vec![0, 1, 4])));
        assert!(cli.check);
        assert_eq!(
            parse("hawser --config a.toml --cores 1-0").unwrap_err(),
            "hawser: invalid value '1-0' for '--cores <LIST>': expected \"all\" or numbers of cores such as \
             \"0-3,6\" (see hawser --help)"
        );
    }

    #[test]
    fn where_needs_no_file() {
        let Some(Command::Where { aor, running }) = parse("hawser where sip:alice@example.com").unwrap().command else {
            panic!("not where");
        };
        assert_eq!(aor, "sip:alice@example.com");
        assert_eq!((running.config, running.http.as_str()), (None, "127.0.0.1:8080"));
        assert!(parse("hawser where a --http 127.0.0.1:1 --config b").is_err());
        assert!(parse("hawser where").is_err());
    }

    #[test]
    fn a_pin_says_pair_and_member() {
        let Some(Command::Pin { name, member, .. }) = parse("hawser pin sips1 backup").unwrap().command else {
            panic!("not pin");
        };
        assert_eq!((name.as_str(), member), ("sips1", servers::Which::Backup));
        for line in ["hawser pin sips1", "hawser pin sips1 other", "hawser release", "hawser release sips1 backup"] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(matches!(parse("hawser release sips1").unwrap().command, Some(Command::Release { .. })));
    }

    #[test]
    fn the_kernels_list_of_cores_is_read() {
        assert_eq!(cores_allowed("A: 1\nCpus_allowed_list:\t0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(cores_allowed("Cpus_allowed_list:\t5\n"), Some(vec![5]));
        assert_eq!(cores_allowed("Cpus_allowed_list:\tx\n"), None);
        assert_eq!(cores_allowed(""), None);
        assert!(!cores_available().unwrap().is_empty());
    }
}
