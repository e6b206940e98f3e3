//! What the system must give before shards can start, checked with words that name the mend.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::error::StartError;
use super::secrets::http_token;
use crate::admin::Access;
use crate::config::{Config, DriverChoice};
use crate::driver::Kind;
use crate::limits::{DNS_EXCHANGES_COUNT_MAX, PORT_WAIT_MAX, TRANSACTION_LEN};
use crate::shard::{Setup, Socket};
use crate::sys::limits::{self, Resource};
use crate::sys::ring::{self, Refused};
use crate::transport::socket;

/// From one look at a port that is held to the next.
const PORT_LOOK_EVERY: Duration = Duration::from_millis(20);
/// glommio refuses to start with less locked memory.
const MEMLOCK_LEN_MIN: u64 = 512 * 1024;
/// Descriptors that are not for connections: files, rings and event descriptors, listeners, HTTP, servers.
const DESCRIPTORS_RESERVED: u64 = 256;
/// Descriptors of each shard that are not for connections, with its DNS questions.
const DESCRIPTORS_RESERVED_BY_SHARD: u64 = 32 + DNS_EXCHANGES_COUNT_MAX as u64;
/// With fewer connections there is no sense in starting.
const CONNECTIONS_COUNT_MIN: u64 = 64;
/// What one connection takes of RAM: session, slot, kernel buffers under use.
const CONNECTION_LEN: u64 = 16 * 1024;
/// More than anybody needs on one shard; ids stay small.
const COUNT_BY_SHARD_MAX: u64 = 4_000_000;

/// What a shard may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Connections of a shard.
    pub connections_max: u32,
    /// Transactions of a shard.
    pub transactions_max: u32,
}

/// The driver of a start. Prints as which one and why.
#[derive(Debug)]
pub struct Chosen {
    /// Which one.
    pub kind: Kind,
    choice: DriverChoice,
    /// Why `auto` has not taken io_uring.
    refused: Option<StartError>,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.refused, self.choice) {
            (Some(fault), _) => write!(f, "{}, for {fault}", self.kind),
            (None, DriverChoice::Auto) => write!(f, "{}, for the system allows it", self.kind),
            (None, _) => write!(f, "{}, as the settings say", self.kind),
        }
    }
}

/// What the shards wait with; epoll needs nothing of what io_uring needs.
///
/// # Errors
/// The settings want io_uring, and it cannot be used.
pub fn driver(choice: DriverChoice) -> Result<Chosen, StartError> {
    choose(choice, io_uring)
}

fn choose(choice: DriverChoice, io_uring: impl FnOnce() -> Result<(), StartError>) -> Result<Chosen, StartError> {
    let chosen = |kind, refused| Ok(Chosen { kind, choice, refused });
    match choice {
        DriverChoice::Epoll => chosen(Kind::Epoll, None),
        DriverChoice::Auto => match io_uring() {
            Ok(()) => chosen(Kind::IoUring, None),
            Err(fault) => chosen(Kind::Epoll, Some(fault)),
        },
        DriverChoice::IoUring => {
            io_uring().map_err(|fault| StartError::Driver(Box::new(fault)))?;
            chosen(Kind::IoUring, None)
        }
    }
}

/// Whether glommio's executors can run here. What forbids io_uring is told before what it would need.
fn io_uring() -> Result<(), StartError> {
    let soft = memlock()?;
    match ring::probe() {
        Ok(()) if soft < MEMLOCK_LEN_MIN => Err(StartError::Memlock { soft }),
        Ok(()) => Ok(()),
        Err(Refused { call, fault }) => Err(match fault.raw_os_error() {
            Some(libc::ENOMEM) => StartError::Memlock { soft },
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => {
                let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
                StartError::IoUring { call, disabled: sysctl.trim().to_owned(), fault }
            }
            _ => StartError::IoUring { call, disabled: String::new(), fault },
        }),
    }
}

/// What the system gives less of than the UDP sockets asked for, in words that name the mend: once for each sysctl, for
/// it bounds all sockets alike.
pub fn cut_down(setups: &[Setup]) -> Vec<String> {
    let udp = setups.iter().flat_map(|setup| &setup.sockets).find_map(|socket| match socket {
        Socket::Udp(socket) => socket::cut_down(socket).ok(),
        Socket::Listener(_) => None,
    });
    let words = |(sysctl, given): (&str, usize)| {
        let (which, so) = match sysctl.contains("rmem") {
            true => ("received", "a burst of datagrams may be lost (hawser_datagrams_lost_total)"),
            false => ("to be sent", "a burst of datagrams has to wait for the system"),
        };
        format!(
            "UDP sockets hold {given} bytes {which} and not the {len} that they asked for, so that {so}: sysctl -w \
             {sysctl}={len}",
            len = socket::UDP_BUFFER_LEN
        )
    };
    udp.into_iter().flatten().map(words).collect()
}

fn memlock() -> Result<u64, StartError> {
    limits::raise(Resource::Memlock)
        .or_else(|_| limits::read(Resource::Memlock))
        .map(|l| l.soft)
        .map_err(StartError::Limits)
}

/// Raises the limit of descriptors as far as it goes, and says what each shard may hold.
pub fn capacity(shards: usize) -> Result<Capacity, StartError> {
    let descriptors = limits::raise(Resource::Descriptors).or_else(|_| limits::read(Resource::Descriptors));
    capacity_of(descriptors.map_err(StartError::Limits)?.soft, memory_bytes(), shards as u64)
}

fn capacity_of(descriptors: u64, memory: u64, shards: u64) -> Result<Capacity, StartError> {
    let reserved = DESCRIPTORS_RESERVED + DESCRIPTORS_RESERVED_BY_SHARD * shards;
    let free = descriptors.saturating_sub(reserved);
    if free < CONNECTIONS_COUNT_MIN {
        return Err(StartError::Descriptors { soft: descriptors, needed: reserved + CONNECTIONS_COUNT_MIN });
    }
    let by_shard = |count: u64| u32::try_from((count / shards.max(1)).clamp(1, COUNT_BY_SHARD_MAX)).unwrap_or(u32::MAX);
    Ok(Capacity {
        connections_max: by_shard(free.min(memory / 2 / CONNECTION_LEN)),
        transactions_max: by_shard(memory / 4 / TRANSACTION_LEN as u64),
    })
}

/// RAM of the machine, or of the control group when that is less.
fn memory_bytes() -> u64 {
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    limits::ram_bytes().min(group.unwrap_or(u64::MAX))
}

/// The time that a start has for ports which are still held, for all of them together. What holds them may be a process
/// that is dead already: the kernel lets go of sockets that io_uring works on some time after the process has ended.
#[derive(Clone, Copy, Debug)]
pub struct PortWait {
    until: Instant,
}

impl PortWait {
    /// From now on.
    pub fn begin() -> Self {
        Self { until: Instant::now() + PORT_WAIT_MAX }
    }

    /// Binds a port: at once, or as soon as it is let go of.
    pub fn bind<T>(
        self,
        transport: &'static str,
        address: SocketAddr,
        bind: impl Fn() -> io::Result<T>,
    ) -> Result<T, StartError> {
        let mut told = false;
        loop {
            match bind() {
                Err(fault) if fault.kind() == io::ErrorKind::AddrInUse && Instant::now() < self.until => {
                    if !std::mem::replace(&mut told, true) {
                        log::debug!("{transport} {address} is still held, and waited for");
                    }
                    std::thread::sleep(PORT_LOOK_EVERY);
                }
                bound => return bound.map_err(|fault| StartError::Port { transport, address, fault }),
            }
        }
    }
}

/// Whether all ports are free. Each is bound once without SO_REUSEPORT, so that a second Hawser does not take half of
/// the first one's calls.
pub fn ports(config: &Config, wait: PortWait) -> Result<(), StartError> {
    let mut sockets = config.listeners.iter().flat_map(crate::config::Listener::sockets);
    sockets.try_for_each(|(transport, address)| {
        wait.bind(transport.param_name(), address, || socket::probe(address, transport))
    })
}

/// The listener for HTTP and who may ask there; `None` when it is off.
pub fn http(config: &Config, wait: PortWait) -> Result<Option<(TcpListener, Access)>, StartError> {
    let sipproxy = &config.sipproxy;
    if sipproxy.http_port == 0 {
        return Ok(None);
    }
    let token = sipproxy.http_token_file.as_deref().map(http_token).transpose()?;
    let address = SocketAddr::new(sipproxy.http_address, sipproxy.http_port);
    let listener = wait.bind("http", address, || socket::listen_alone(address))?;
    Ok(Some((listener.into(), Access { token, names: names(config), ..Access::default() })))
}

/// The names that others call this proxy by: its settings', and the machine's own.
fn names(config: &Config) -> Vec<String> {
    let advertised = config.listeners.iter().map(crate::config::Listener::advertised_host);
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let names = advertised.chain(config.sipproxy.domains.iter().cloned()).chain([machine]);
    names.map(|name| name.to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn capacity_is_cut_by_descriptors_or_by_ram_and_shared_among_the_shards() {
        let capacity = capacity_of(20_000, 8 * GIB, 2).unwrap();
        assert_eq!(capacity.connections_max, (20_000 - 256 - 128) / 2);
        let capacity = capacity_of(1 << 30, 8 * GIB, 2).unwrap();
        assert_eq!(capacity.connections_max, 131_072);
        assert_eq!(capacity.transactions_max, 131_072);
    }

    #[test]
    fn auto_takes_io_uring_where_it_can_be_used_and_says_why_it_is_not() {
        let short = || Err(StartError::Memlock { soft: 64 * 1024 });
        let forbidden = || {
            let fault = io::Error::from_raw_os_error(libc::EPERM);
            Err(StartError::IoUring { call: "io_uring_setup", disabled: "2".to_owned(), fault })
        };
        for (choice, io_uring, kind, why) in [
            (DriverChoice::Auto, Ok(()), Kind::IoUring, "io_uring, for the system allows it"),
            (DriverChoice::IoUring, Ok(()), Kind::IoUring, "io_uring, as the settings say"),
            (DriverChoice::Epoll, forbidden(), Kind::Epoll, "epoll, as the settings say"),
            (
                DriverChoice::Auto,
                forbidden(),
                Kind::Epoll,
                "epoll, for io_uring cannot be used: io_uring_setup: Operation not permitted (os error 1); the sysctl \
                 kernel.io_uring_disabled is 2: set it to 0",
            ),
            (DriverChoice::Auto, short(), Kind::Epoll, "epoll, for only 64 KiB of memory may be locked"),
        ] {
            let chosen = choose(choice, || io_uring).unwrap();
            assert_eq!(chosen.kind, kind);
            assert!(chosen.to_string().starts_with(why), "{chosen}");
        }
        let fault = choose(DriverChoice::IoUring, forbidden).unwrap_err().to_string();
        assert!(fault.starts_with("io_uring cannot be used: io_uring_setup: Operation not permitted"), "{fault}");
        assert!(fault.ends_with("; with driver = \"epoll\" or \"auto\" Hawser runs without"), "{fault}");
        assert!(choose(DriverChoice::Epoll, || panic!("epoll asks for nothing")).is_ok());
    }

    #[test]
    fn the_http_port_knows_the_names_of_the_settings() {
        let text = "[sipproxy]\nexternal-address = \"Proxy1.example.com\"\ndomains = [\"example.com\"]\ntls-port = 0\n\
                    [[sip-server]]\nname = \"a\"\nprimary = \"10.0.0.1:5060\"\n";
        let names = names(&Config::parse(text, "hawser.toml").unwrap());
        assert_eq!(names[..2], ["proxy1.example.com", "example.com"]);
    }

    #[test]
    fn a_port_that_is_let_go_of_in_time_is_bound_and_one_that_stays_held_is_named() {
        let holder = socket::listen_alone("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = holder.local_addr().unwrap().as_socket().unwrap();
        let mut holder = Some(holder);
        let tries = std::cell::Cell::new(0);
        let held = std::cell::RefCell::new(holder.take());
        let bound = PortWait::begin().bind("tcp", address, || {
            tries.set(tries.get() + 1);
            if tries.get() == 3 {
                held.take();
            }
            socket::probe(address, crate::ids::Transport::Tcp)
        });
        assert!(bound.is_ok() && tries.get() == 3);
        let _holder = socket::listen_alone(address).unwrap();
        let over = PortWait { until: Instant::now() };
        let Err(StartError::Port { transport: "tcp", .. }) =
            over.bind("tcp", address, || socket::probe(address, crate::ids::Transport::Tcp))
        else {
            panic!("it is held")
        };
        let nobody = "192.0.2.1:5060".parse().unwrap();
        let fault = PortWait::begin().bind("udp", nobody, || -> io::Result<()> {
            tries.set(tries.get() + 1);
            Err(io::ErrorKind::AddrNotAvailable.into())
        });
        assert!(fault.is_err() && tries.get() == 4, "no time mends that");
    }

    #[test]
    fn too_few_descriptors_say_how_many_are_needed() {
        assert!(capacity_of(384, GIB, 1).is_ok());
        let Err(StartError::Descriptors { soft: 383, needed: 384 }) = capacity_of(383, GIB, 1) else { panic!() };
    }
}
