//! Hawser among real parties: SIPp, baresip and linphonec as phones, SIPp and Kamailio as the SIP Server, stunnel4 and
//! OpenSSL's client for TLS, haproxy as a load balancer, dnsmasq for names, all on loopback and on ports chosen at run time. Every test starts its
//! own proxy on all cores and ends what it started.
//!
//! With `HAWSER_TEST_EDGE=kamailio` the same tests drive Kamailio's edge (`perf/kamailio/edge.cfg`) in Hawser's place:
//! when a test fails, this tells whether the test or Hawser is at fault. What only Hawser has (its settings, signals
//! and faults at start) is left out then.

mod balancers;
mod bans;
mod calls;
mod certificates;
mod client_aor;
mod demo;
mod device_calls;
mod devices;
mod differential;
mod dns;
mod driver;
mod failover;
mod framing;
mod harness;
mod http;
mod kamailio;
mod kamailio_pair;
mod key_log;
mod listeners;
mod made;
mod names;
mod operator;
mod options;
mod peer_tls;
mod pool_zone;
mod real_phones;
mod registration;
mod scenes;
mod settings;
mod soak;
mod startup;
