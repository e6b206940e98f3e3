//! The same messages through Hawser and through Kamailio, between the same two parties: what arrives is the same, but
//! for what [`table`] explains. The messages are in `messages/`; with `HAWSER_PRINT=1` the test prints each as it
//! arrived by Hawser.

mod arrived;
mod corpus;
mod parties;
mod run;
mod table;

use std::collections::{BTreeSet, HashSet};
use std::net::{SocketAddr, UdpSocket};

use self::arrived::Arrived;
use self::run::{Case, Run};
use self::table::{OWN_ANSWERS, Pair, ROWS};
use crate::harness::Scratch;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};

/// Messages of the corpus.
const MESSAGES_MIN: usize = 500;
/// Faults that a failure prints whole.
const FAULTS_SHOWN: usize = 40;

/// One difference, or a message that did not arrive.
struct Compared<'a> {
    run: &'a Run,
    used: BTreeSet<&'static str>,
    faults: Vec<String>,
    seen: HashSet<String>,
    messages: usize,
}

impl Compared<'_> {
    fn add(&mut self, case: &Case<'_>) {
        let [hawser, kamailio] = &case.passages;
        for (by, passage) in [("Hawser", hawser), ("Kamailio", kamailio)] {
            if by == "Kamailio" && self.is_explained(case) {
                continue;
            }
            if let Some(refusal) = &passage.refusal {
                self.faults.push(format!("{}: {by} answers itself:\n{refusal}", case.name()));
            } else if passage.request.is_none() || passage.answers.len() < case.exchange.answers.len() {
                let arrived = passage.answers.len() + usize::from(passage.request.is_some());
                self.faults.push(format!("{}: only {arrived} messages arrive by {by}", case.name()));
            }
        }
        let requests = hawser.request.iter().zip(&kamailio.request);
        let answers = hawser.answers.iter().zip(&kamailio.answers);
        for ((hawser, kamailio), body) in requests.chain(answers).zip(&case.bodies) {
            self.compare(case, hawser, kamailio, body);
        }
    }

    /// Whether Kamailio's refusal is one that the table has.
    fn is_explained(&mut self, case: &Case<'_>) -> bool {
        let [_, kamailio] = &case.passages;
        let sent = case.exchange.answers.get(kamailio.answers.len()).map(|(status, _)| status.as_str());
        let made = kamailio.refusal.as_ref().and_then(Arrived::status);
        let row = OWN_ANSWERS.iter().find(|row| {
            sent.is_some_and(|sent| sent.starts_with(row.sent)) && made.is_some_and(|made| made == row.made)
        });
        row.is_some_and(|row| {
            self.used.insert(row.what);
            true
        })
    }

    fn compare(&mut self, case: &Case<'_>, hawser: &Arrived, kamailio: &Arrived, body: &[u8]) {
        self.messages += 1;
        if std::env::var_os("HAWSER_PRINT").is_some() {
            println!("{}\n{hawser}", case.name());
        }
        let mut pair = Pair { hawser: self.run.disguise(0, hawser), kamailio: self.run.disguise(1, kamailio) };
        for row in ROWS {
            if (row.settle)(&mut pair) {
                self.used.insert(row.what);
            }
        }
        if pair.hawser != pair.kamailio {
            self.faults.push(format!("{}:\n{}", case.name(), differences(&pair)));
        }
        if hawser.body != body {
            self.faults.push(format!("{}: its body came as another", case.name()));
        }
        if !self.seen.insert(substance(hawser)) {
            self.faults.push(format!("{}: it stands there twice:\n{hawser}", case.name()));
        }
    }
}

/// What either message has and the other has not, or not there.
fn differences(pair: &Pair) -> String {
    let text = |message: &Arrived| message.to_string().lines().map(str::to_owned).collect::<Vec<_>>();
    let (hawser, kamailio) = (text(&pair.hawser), text(&pair.kamailio));
    let alone = |one: &[String], other: &[String]| {
        one.iter().filter(|line| !other.contains(line)).map(|line| format!("{line}\n")).collect::<String>()
    };
    let (by_hawser, by_kamailio) = (alone(&hawser, &kamailio), alone(&kamailio, &hawser));
    if by_hawser.is_empty() && by_kamailio.is_empty() {
        return format!("  by Hawser in this order\n{}  by Kamailio in this\n{}", pair.hawser, pair.kamailio);
    }
    format!("  in {}\n  by Hawser alone\n{by_hawser}  by Kamailio alone\n{by_kamailio}", pair.hawser.first_line)
}

/// A message without what is made anew for each: names of transactions, calls and dialogs.
fn substance(message: &Arrived) -> String {
    let is_made = |name: &str| ["Via", "v", "Call-ID", "i", "CSeq", "Record-Route", "Path"].contains(&name);
    let mut text = message.first_line.clone();
    for field in message.fields.iter().filter(|field| !is_made(field.name.trim())) {
        text += &format!("\n{}:{}", field.name, field.value.split(";tag=").next().unwrap_or_default());
    }
    text + &String::from_utf8_lossy(&message.body)
}

#[test]
fn what_arrives_by_hawser_is_what_arrives_by_kamailio() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("differential");
    let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let server_port = server.local_addr().expect("it is bound").port();
    let settings = || Settings { server_port, ..Settings::new(&scratch) };
    let (hawser, kamailio) = (Proxy::start(&scratch, settings()), Proxy::start_kamailio(&scratch, settings()));
    let proxies = [&hawser, &kamailio].map(|proxy| SocketAddr::from(([127, 0, 0, 1], proxy.settings.sip_port)));

    let makes = corpus::makes();
    let mut run = Run::start(parties::Parties::new(server, proxies), proxies);
    let cases = run.play(&makes);

    let (used, seen) = (BTreeSet::new(), HashSet::new());
    let mut compared = Compared { run: &run, used, faults: Vec::new(), seen, messages: 0 };
    cases.iter().for_each(|case| compared.add(case));
    let Compared { used, mut faults, messages, .. } = compared;
    let rows = ROWS.iter().map(|row| (row.what, row.why)).chain(OWN_ANSWERS.iter().map(|row| (row.what, row.why)));
    let idle = rows.filter(|(what, _)| !used.contains(what));
    faults.extend(idle.map(|(what, why)| format!("no message needs the row \"{what}\" ({why})")));
    for fault in faults.iter().take(FAULTS_SHOWN) {
        eprintln!("{fault}");
    }
    assert!(faults.is_empty(), "{} faults in {messages} messages", faults.len());
    assert!(messages >= MESSAGES_MIN, "{messages} messages are too few");
    println!("{messages} messages of {} makes", makes.len());
}
