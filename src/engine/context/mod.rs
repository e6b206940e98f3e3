//! Response contexts (RFC 3261 §16.2, §16.7): what the proxy core knows of one request on its way, from its arrival until
//! the last of its transactions has ended.
//!
//! Owns: its server transaction, its client transactions (one that counts, and those that were given up for another
//! target), its target set, its timers, and what may have to be sent again. Must not touch: where a phone is, which
//! connections there are, other contexts. What it needs of them it asks for with an [`Action`], and is told with an
//! [`Event`]; [`Turn::on`] takes one of these and says what follows. What it may use of the rest of the
//! engine is what every part may: `Env` and `Ports`.
//!
//! ```text
//!  Begin --> locating (Seek..) --> pending (Send) --final response--> answered --> Absorber --> end
//!                ^  next target / flow lost |
//!                +--------------------------+
//! ```
//!
//! `server` is the half towards who asked, `client` the half towards the target, `target` the choice of the next one;
//! `build` makes bytes.

mod absorber;
mod build;
mod client;
mod event;
mod server;
mod state;
mod table;
mod target;
mod turn;

pub use absorber::Absorber;
pub use build::{ContactOf, plan, response, tag_of};
pub use event::{Action, Answer, Event, Named, Registered, Saw, Seek, Way, Which, Why};
pub use state::{Asked, Request, ResponseContext, Seeking, TargetSet, TxnTimer};
pub use table::{Contexts, Slot, txn_of_waiter, waiter_of};
pub use turn::{Actions, Turn};

impl Turn<'_> {
    /// What happens to a context, and what follows: the only way in.
    pub fn on(mut self, event: Event<'_>) {
        match event {
            Event::Begin(target) => self.begin(target),
            Event::Repeated => self.on_repeated(),
            Event::Ack => self.on_ack(),
            Event::Cancelled(reasons) => self.on_cancelled(reasons),
            Event::Timer { timer, alternative } => self.on_timer(timer, alternative),
            Event::Response { answer, which, alternative } => self.on_response(answer, which, alternative),
            Event::Bound { code, bytes } => self.answer(code, bytes),

            Event::Asked { seeking, wait } => self.on_asked(seeking, wait),
            Event::Found(way) => self.send(&way),
            Event::FlowGone(flow) => self.locate(flow),
            Event::Registered { found, or } => self.on_registered(found, or),
            Event::Located { way, still } => self.on_located(way, still),
            Event::Beyond(target) => self.on_beyond(target),
            Event::Connected { way, binding } => self.on_connected(&way, binding),
            Event::Device(hop) => self.aim_at_device(hop),
            Event::NotConnected(hop) => self.on_not_connected(hop),
            Event::ConnectedElsewhere(found) => self.on_connected_elsewhere(found),
            Event::Server { found, passed_over } => self.on_server(found, passed_over),
            Event::Peer { peer, all } => self.on_peer(peer, all),
            Event::Named(named) => self.on_named(named),
            Event::Hop(found) => self.on_hop(found),
            Event::HopElsewhere { hop, found } => self.on_hop_elsewhere(hop, found),
            Event::Reopened { way, failure } => self.on_reopened(way, failure),
            Event::Large { way, flow } => self.on_large(way, flow),

            Event::NotSent { flow, again } => self.on_not_sent(flow, again),
            Event::NotSentElsewhere { flow, left } => self.on_not_sent_elsewhere(flow, left),
            Event::Moved(way) => self.move_to(&way),
            Event::RegistrationOver => self.on_registration_over(),
            Event::ServerIsBy(flow) => self.on_server_is_by(flow),
            Event::ConnectionGone(failure) => self.on_lost(failure),
            Event::NoRoom => self.on_no_room(),
            Event::Unsendable(fault) => self.on_unsendable(fault),
            Event::TargetOut(why) => self.fail_over(why),
        }
    }

    fn on_timer(&mut self, timer: TxnTimer, alternative: bool) {
        self.spend(timer);
        match timer {
            TxnTimer::ServerRetransmit => self.on_server_retransmit(),
            TxnTimer::ServerDeadline => self.on_server_deadline(),
            TxnTimer::ClientRetransmit => self.on_client_retransmit(),
            TxnTimer::ClientDeadline => self.on_client_deadline(alternative),
            TxnTimer::CancelRetransmit | TxnTimer::CancelDeadline => self.on_cancel_timer(timer),
            TxnTimer::Trying => self.on_trying(),
            TxnTimer::TimerC => self.on_timer_c(),
            TxnTimer::Location => self.on_location_timer(),
            // Nothing was waiting but the context's end.
            TxnTimer::Earlier => {}
        }
    }
}
