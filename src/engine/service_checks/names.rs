//! The names of the settings that are followed: those of servers and peers, and those by which this proxy should be
//! found.

use std::net::{IpAddr, SocketAddr};

use crate::clock::Time;
use crate::config::engine::Settings;
use crate::config::{Host, ServerAddress};
use crate::dns::{Answer, Failure, Question, Target};
use crate::engine::io::Level;
use crate::engine::ports::Ports;
use crate::ids::Transport;
use crate::limits::POOL_CHECK_EVERY;
use crate::proxy::Names;
use crate::server_pool::Member;

/// All names that are followed, by their index.
#[derive(Debug)]
pub struct Watches {
    all: Vec<Watch>,
    /// When the names of the pool are next compared with our own.
    pool_check_at: Time,
}

#[derive(Debug)]
struct Watch {
    whose: Watched,
    question: Question,
    last: Option<Answer>,
}

/// Whose name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    Server(u8, Member),
    Peer(u8),
    /// What we advertise.
    Own,
    /// A name of the pool: it should hold our own address. Whether 40000 has been said.
    Domain {
        said: bool,
    },
}

impl Watches {
    pub fn new(settings: &Settings, now: Time) -> Self {
        let mut all = Vec::new();
        for (pair, server) in (0..).zip(&settings.servers) {
            for (member, at) in [(Member::Primary, Some(&server.primary)), (Member::Backup, server.backup.as_ref())] {
                if let Some(ServerAddress::Name(name, port)) = at {
                    all.push(Watch::new(Watched::Server(pair, member), name, *port, server.transport));
                }
            }
        }
        for (index, peer) in (0..).zip(&settings.peers) {
            if let Host::Name(name) = &peer.contact {
                let port = peer.port_tls.filter(|_| peer.protocol == Transport::Tls);
                all.push(Watch::new(Watched::Peer(index), name, port, peer.protocol));
            }
        }
        all.extend(of_the_pool(settings));
        Self { all, pool_check_at: now }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Watched turn it is to be looked up. What is fresh is in the cache.
    pub fn due(&mut self, now: Time) -> Vec<usize> {
        let check_pool = self.pool_check_at <= now;
        if check_pool {
            self.pool_check_at = now.after(POOL_CHECK_EVERY);
        }
        let is_due = |watch: &Watch| check_pool || matches!(watch.whose, Watched::Server(..) | Watched::Peer(_));
        (0..).zip(&self.all).filter(|(_, watch)| is_due(watch)).map(|(at, _)| at).collect()
    }

    pub fn question(&self, at: usize) -> Option<&Question> {
        self.all.get(at).map(|watch| &watch.question)
    }

    /// A name has been resolved, or not. Gives the targets of a server or peer that are others than before; none: the
    /// name does not resolve.
    pub fn on_answer(
        &mut self,
        at: usize,
        answer: Answer,
        names: &Names,
        ports: &mut Ports,
    ) -> Option<(Watched, Vec<Target>)> {
        let watch = self.all.get_mut(at)?;
        if watch.last.as_ref() == Some(&answer) && !matches!(watch.whose, Watched::Domain { .. }) {
            return None;
        }
        watch.last = Some(answer.clone());
        let what = match watch.whose {
            Watched::Server(..) => "the name of a SIP Server does not resolve",
            Watched::Peer(_) => "the name of a peer proxy does not resolve",
            Watched::Own => return None,
            Watched::Domain { said } => {
                self.compare(at, said, &answer, names, ports);
                return None;
            }
        };
        let targets = answer.map_or_else(|_| Vec::new(), |targets| targets.to_vec());
        if targets.is_empty() {
            ports.event(what, None, watch.question.host.as_bytes());
        }
        Some((watch.whose, targets))
    }

    /// 40000: a name of the pool does not hold our own address, so that nobody finds us by it.
    fn compare(&mut self, at: usize, said: bool, answer: &Answer, names: &Names, ports: &mut Ports) {
        let own = self.all.iter().filter(|watch| watch.whose == Watched::Own);
        let own: Vec<SocketAddr> = own
            .filter_map(|watch| watch.last.as_ref()?.as_ref().ok())
            .flat_map(|targets| targets.iter().map(|target| target.address))
            .collect();
        let holds = match answer {
            Ok(targets) => targets.iter().any(|t| own.contains(&t.address) || names.is_own_address(t.address)),
            Err(Failure::NoSuchName | Failure::NoRecords) => false,
            // That nobody answers says nothing about what is published.
            Err(Failure::Unanswered | Failure::Bound) => return,
        };
        let watch = &mut self.all[at];
        if holds == said {
            let (level, what) = match holds {
                true => (Level::Info, "40000 cleared: the DNS list of the pool holds this proxy"),
                false => (Level::Warn, "40000 the DNS list of the pool does not hold this proxy"),
            };
            ports.tell(level, what, None, watch.question.host.as_bytes());
        }
        watch.whose = Watched::Domain { said: !holds };
    }
}

impl Watch {
    fn new(whose: Watched, host: &str, port: Option<u16>, transport: Transport) -> Self {
        let question = Question { host: host.into(), port, transport: Some(transport), secure: false };
        Self { whose, question, last: None }
    }
}

/// The names that this proxy advertises, and those of its pool. Without a resolver nothing is known of what is published.
fn of_the_pool(settings: &Settings) -> Vec<Watch> {
    let mut all = Vec::new();
    let shown = [Transport::Tls, Transport::Udp, Transport::Tcp];
    let shown = shown.into_iter().find(|by| settings.points.iter().any(|p| p.transport == *by));
    let Some(shown) = shown else { return all };
    if settings.dns.resolvers.is_empty() || settings.live.domains.is_empty() {
        return all;
    }
    for point in settings.points.iter().filter(|point| point.transport == shown) {
        if let Some(Host::Name(name)) = Host::parse(&point.advertised_host) {
            all.push(Watch::new(Watched::Own, &name, Some(point.advertised_port), shown));
        }
    }
    for domain in settings.live.domains.iter().filter(|domain| domain.parse::<IpAddr>().is_err()) {
        all.push(Watch::new(Watched::Domain { said: false }, domain, None, shown));
    }
    all
}
