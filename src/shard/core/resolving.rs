//! DNS questions in the air: each has its socket, which is closed when the engine is done with it.
//!
//! Must not touch: what is asked, and what an answer says.

use std::net::SocketAddr;

use super::{Core, hand};
use crate::dns::Input as Dns;
use crate::dns::socket::Asked;
use crate::driver::Driver;
use crate::engine::Input;

impl<D: Driver> Core<D> {
    /// Asks a resolver.
    pub(super) fn ask(&mut self, exchange: u32, to: SocketAddr, tcp: bool, question: &[u8]) {
        match self.driver.ask(exchange, to, tcp, question) {
            Ok(asked) => drop(self.resolving.live.insert(exchange, asked)),
            Err(_) => drop(self.input(Input::Dns(Dns::Failed { exchange }))),
        }
    }

    /// The socket of an exchange is ready.
    pub(super) fn on_question(&mut self, exchange: u32) {
        let now = self.driver.now();
        let mut panicked = None;
        let Self { resolving, engine, dirty, .. } = self;
        let Some(asked) = resolving.live.get_mut(&exchange) else { return };
        *dirty = true;
        let went = asked.proceed(|from, bytes| {
            if panicked.is_none() {
                panicked = hand(engine, Input::Dns(Dns::Answer { exchange, from, bytes }), now).err();
            }
        });
        if let Some(panic) = panicked {
            self.on_panic(panic.as_ref());
        }
        match went {
            Ok(more) => self.resolving.put_down(exchange, more),
            Err(_) => {
                self.resolving.end(exchange);
                self.input(Input::Dns(Dns::Failed { exchange }));
            }
        }
    }

    /// Reads those on that the turn before has left something of.
    pub(super) fn hear_left(&mut self) {
        for exchange in std::mem::take(&mut self.resolving.left) {
            self.on_question(exchange);
        }
    }
}
