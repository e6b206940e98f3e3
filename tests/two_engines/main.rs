//! The pure core under virtual time: engines and their mailboxes joined by a few dozen lines, and stories
//! that a phone and a SIP Server live through. At the end of each every table is empty.

#![allow(missing_docs, reason = "a test")]

mod abuse;
mod balancers;
mod bounds;
mod calls;
mod chaos_pair;
mod claims;
mod client_aor;
mod contacts;
mod devices;
mod failover;
mod halves;
mod hostile;
mod listeners;
mod live;
mod moves;
mod networks;
mod next_hop;
mod overload;
mod oversize;
mod peers;
mod record;
mod registration;
mod resolver;
mod room;
mod routes;
mod same_phone;
mod schemes;
mod seeds;
mod servers;
mod several_contacts;
mod stage;
mod talk;
mod target_chaos;
mod timers;
mod told;
mod torture;
mod transactions;
mod trust;
mod world;
