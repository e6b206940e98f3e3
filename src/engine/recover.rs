//! What a panic has cut short (the shell catches it; DESIGN.md, Shards and the channel between them).
//!
//! A response context is taken out of its slot while it is worked on, so that a panic takes it along. Between two calls of the
//! engine no slot is empty: those that are found so belong to such contexts, and all that leads to them is let go. Who
//! asked hears nothing, and asks again.

use super::Engine;
use super::context::waiter_of;
use super::ports::Timer;

impl Engine {
    /// To be called after a panic inside the engine, before anything else. Walks over all contexts.
    pub fn recover(&mut self) {
        let lost = self.contexts.recover();
        if lost.is_empty() {
            return;
        }
        self.ports.wheel.cancel_where(|timer| matches!(timer, Timer::Context(id, _) if lost.contains(id)));
        for id in &lost {
            self.dns.give_up(waiter_of(*id));
            self.event("a transaction was lost: its handling panicked", None, b"");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::clock::Time;
    use crate::config::Server;
    use crate::config::engine::{Point, Settings};
    use crate::engine::{Input, Output};
    use crate::ids::{PointId, Transport};

    fn engine() -> Engine {
        let bind: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
        let (advertised_host, advertised_port) = (bind.ip().to_string(), bind.port());
        let point = Point { transport: Transport::Udp, bind, advertised_host, advertised_port, side: None };
        let server = Server::at("sips1", "192.0.2.2:5060".parse().expect("an address"), Transport::Udp);
        Engine::new(Settings::plain(vec![point], vec![server]), Time(0))
    }

    fn invite(engine: &mut Engine) -> usize {
        let text = "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bK1\r\n\
                    From: <sip:a@example.com>;tag=a\r\nTo: <sip:bob@example.com>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\
                    Content-Length: 0\r\n\r\n";
        let from = "192.0.2.9:5060".parse().expect("an address");
        engine.handle(
            Input::Datagram { point: PointId(0), from, bytes: text.as_bytes(), waited: std::time::Duration::ZERO },
            Time(0),
        );
        let sent = std::iter::from_fn(|| engine.poll_output());
        sent.filter(|output| matches!(output, Output::Datagram { bytes, .. } if bytes.starts_with(b"INVITE "))).count()
    }

    #[test]
    fn a_context_that_a_panic_took_along_leaves_no_slot_no_key_and_no_timer() {
        let mut engine = engine();
        let timers = engine.ports.wheel.len();
        assert_eq!(invite(&mut engine), 1);
        assert!(engine.ports.wheel.len() > timers);
        let (id, _) = engine.contexts.iter().next().expect("one");
        let slot = engine.contexts.take(id).expect("there");
        engine.kept.take(&slot);
        drop(slot);
        assert_eq!(invite(&mut engine), 0, "it is taken for a repetition");
        engine.recover();
        assert!(engine.is_quiet());
        assert_eq!(engine.ports.wheel.len(), timers);
        assert_eq!(invite(&mut engine), 1, "asked again, it begins anew");
        engine.recover();
        assert_eq!(engine.contexts.len(), 1, "what is whole stays");
    }
}
