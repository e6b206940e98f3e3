//! Every bound by name, with its unit last (DESIGN.md, Bounds). Nothing here is read from a setting.

use std::time::Duration;

/// A message on a stream or in a datagram.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Start line and header fields.
pub const HEADER_BLOCK_LEN_MAX: usize = 32 * 1024;
/// Header fields in a message.
pub const FIELDS_MAX: usize = 256;
/// Via or Route values in a message.
pub const VALUES_MAX: usize = 70;
/// A URI.
pub const URI_LEN_MAX: usize = 2 * 1024;
/// A TLS handshake, from accept or connect.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A file with certificates, keys, revocation lists or a secret; the lists of large CAs have some tens of MiB.
pub const TLS_FILE_LEN_MAX: u64 = 64 * 1024 * 1024;
/// From the moment that a connection is ready until its first whole message.
pub const FIRST_MESSAGE_MAX: Duration = Duration::from_secs(30);
/// From the first byte of a message to its last.
pub const MESSAGE_BEGUN_MAX: Duration = Duration::from_secs(30);
/// What may wait to be sent on one connection.
pub const SEND_QUEUE_LEN_MAX: usize = 256 * 1024;
/// What may wait on a connection that we opened to a SIP Server: when one dies, all that waited for it moves to its
/// partner at once, over a connection that may still have to be opened.
pub const SERVER_SEND_QUEUE_LEN_MAX: usize = 16 * 1024 * 1024;
/// While the peer acknowledges nothing of what it was sent, though its system is there.
pub const SEND_STALL_MAX: Duration = Duration::from_secs(10);
/// Until what the system holds for a peer is acknowledged, however slowly: 64*T1 (RFC 3261 §17.1.1.1).
pub const SEND_AGE_MAX: Duration = Duration::from_secs(32);
/// A connection whose peer has closed its half, while answers are owed over it: 64*T1, when no transaction waits any more
/// but a ringing INVITE.
pub const HALF_CLOSED_MAX: Duration = Duration::from_secs(32);
/// CRLFCRLF in one read of a connection; a phone sends one in half a minute or less often (RFC 5626 §4.4.1).
pub const PINGS_PER_READ_MAX: usize = 16;
/// Connections whose progress is looked at before others have their turn.
pub const LOOKS_PER_PASS_MAX: usize = 512;
/// Without a message and without a binding.
pub const IDLE_UNREGISTERED_MAX: Duration = Duration::from_secs(120);
/// A PROXY header of a load balancer, with all that it says beside addresses (TLVs).
pub const PROXY_HEADER_LEN_MAX: usize = 1_024;
/// From the start of a load balancer's connection until its PROXY header is whole.
pub const PROXY_HEADER_MAX: Duration = Duration::from_secs(5);
/// Connections of a shard whose PROXY header is awaited; then the oldest of the balancer that has the most gives way.
pub const PROXY_HEADERS_AWAITED_COUNT_MAX: usize = 1_024;
/// Connections without a binding from one source address, unless `[[network]]` says otherwise for it.
pub const UNREGISTERED_PER_SOURCE_MAX: u32 = 1_024;
/// Points from which on an address that only fails is slowed: see `abuse`.
pub const ABUSE_SLOWED_FROM: u32 = 60;
/// Points from which on it is shut out, and beyond which it gets none.
pub const ABUSE_SHUT_OUT_FROM: u32 = 300;
/// From the moment that it is slowed until it may be shut out: the time for a shard to say that it holds a binding.
pub const ABUSE_SLOWED_LEAST: Duration = Duration::from_secs(5);
/// TLS handshakes in the air of a shard that an address has while it is slowed.
pub const ABUSE_HANDSHAKES_MAX: usize = 4;
/// Addresses that a process remembers failures of; then the quarter with the least guilt is forgotten.
pub const ABUSE_SOURCES_COUNT_MAX: usize = 4_096;
/// Addresses of record that are known to have been refused to one address, so that each counts once; no fewer than it takes
/// to be shut out.
pub const ABUSE_AORS_COUNT_MAX: usize = 16;
/// For how long an address is shut out the first time; each further time for twice as long.
pub const BAN_TIME: Duration = Duration::from_secs(600);
/// The longest that it is.
pub const BAN_TIME_MAX: Duration = Duration::from_secs(24 * 3_600);
/// After it was shut out, the next time is the first again.
pub const BAN_REMEMBERED: Duration = Duration::from_secs(24 * 3_600);
/// What a transaction is taken to hold: two messages and its state. `transactions_max` is found by it, and is a bound on
/// memory only as long as all transactions together hold no more than so much for each that there may be: from then on
/// new requests are refused.
pub const TRANSACTION_LEN: usize = 8 * 1024;
/// For how long a message may have waited for its turn before new work gives way: that of a request outside a dialog.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_millis(25);
/// The same for a TLS handshake in an overload.
pub const HANDSHAKE_WAIT_MAX: Duration = Duration::from_millis(10);
/// The same for a REGISTER of who has no binding.
pub const REGISTER_WAIT_MAX: Duration = Duration::from_millis(15);
/// The same for a request in a dialog, and a REGISTER of who has a binding.
pub const KNOWN_WAIT_MAX: Duration = Duration::from_millis(150);
/// From one step of a handshake to the next in an overload: who has lost its connection can be reached by nobody until it
/// has another, so they go on, at a cost of a few hundredths of a core.
pub const HANDSHAKE_TRICKLE_EVERY: Duration = Duration::from_millis(5);
/// For how long all messages have to wait too long before that is an overload.
pub const OVERLOAD_STANDS: Duration = Duration::from_millis(100);
/// A message that has waited so long is one by itself. What a stall of less leaves behind is soon worked off, and refused to
/// nobody.
pub const OVERLOAD_AT_ONCE: Duration = Duration::from_secs(1);
/// For how long none may, before it is over.
pub const OVERLOAD_QUIET: Duration = Duration::from_secs(1);
/// By how much dialogs may begin earlier than at the even rate of `overload-ctrl-dialog-rate`.
pub const DIALOG_RATE_BURST: Duration = Duration::from_millis(100);
/// Mails that wait for one shard from one other.
pub const MAILBOX_COUNT_MAX: usize = 16 * 1024;
/// From so many mails on, new requests are refused where they landed.
pub const MAILBOX_NEW_WORK_COUNT_MAX: usize = MAILBOX_COUNT_MAX / 4 * 3;
/// Pairs of SIP Servers, and other sites' proxies: so many of each, whose number has eight bits.
pub const PEERS_MAX: usize = 64;
/// Different set-ups of TLS for single peers; a set-up's number has 16 bits.
pub const TLS_SETUPS_MAX: usize = 1_024;
/// Listeners, each with up to three listening points; a point's number has eight bits in a flow token.
pub const LISTENERS_MAX: usize = 64;
/// Networks with shares of their own; each new connection looks for its own among them.
pub const NETWORKS_MAX: usize = 256;
/// Bindings of one AOR.
pub const BINDINGS_PER_AOR_MAX: usize = 128;
/// Bindings of one flow; a gateway or a session border controller registers many.
pub const BINDINGS_PER_FLOW_MAX: usize = 1_024;
/// Requests, ACKs and responses that wait for one phone to come back; a gateway has one binding for many calls.
pub const WAITERS_PER_BINDING_MAX: usize = 1_024;
/// Connections of a shard beyond `connections_max` that only servers, and our own to them, may use.
pub const SERVER_CONNECTIONS_RESERVE: usize = 16;
/// Contacts in one REGISTER.
pub const CONTACTS_MAX: usize = 16;
/// The longest that a binding is kept without a refresh, whatever the registrar grants.
pub const REGISTRATION_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// After our own 100 to an INVITE, how long its SIP Server may say nothing before it is checked.
pub const SERVER_DOUBT_AFTER: Duration = Duration::from_millis(850);
/// How long a requester hears nothing before it gets a 100 (RFC 3261 §17.2.1 allows 200 ms).
pub const TRYING_AFTER: Duration = Duration::from_millis(150);
/// How long an INVITE whose flow was lost under way waits for its phone (RFC 5626 §5.3.1: 430 within 2 s).
pub const INVITE_LOST_MAX: Duration = Duration::from_millis(1_800);
/// Flows that one request is tried on while its phone keeps moving.
pub const FLOW_ATTEMPTS_MAX: u8 = 8;
/// Beyond its wait, how long an answer from a binding's home is waited for.
pub const HOME_ANSWER_MAX: Duration = Duration::from_secs(1);
/// How many times as long as its request an answer over UDP may be whose receiver nothing is known of: its address may be
/// somebody else's (RFC 9000 §8.1 has the same bound).
pub const STRANGER_ANSWER_FACTOR_MAX: usize = 3;
/// The size from which a request over UDP counts as too large (RFC 3261 §18.1.1).
pub const UDP_REQUEST_LEN_MAX: usize = 1_300;
/// What a datagram can carry: 65,535 bytes less the headers of UDP and IPv4.
pub const UDP_DATAGRAM_LEN_MAX: usize = 65_507;
/// After a failed attempt to reach a server, peer or device, the first pause before the next.
pub const LINK_RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest such pause; each failure doubles it.
pub const LINK_RETRY_MAX: Duration = Duration::from_secs(8);
/// Servers, peers and devices that a shard remembers its connections to.
pub const LINKS_COUNT_MAX: usize = 16 * 1024;
/// Targets that one request is tried at.
pub const TARGETS_COUNT_MAX: usize = 8;
/// How long a request waits for a name to be resolved.
pub const NAME_ANSWER_MAX: Duration = Duration::from_secs(6);
/// How often the names of servers and peers are looked at again; their records say how long they are fresh.
pub const NAMES_AGAIN: Duration = Duration::from_secs(2);
/// How often the names of the pool are compared with the proxy's own addresses.
pub const POOL_CHECK_EVERY: Duration = Duration::from_secs(60);
/// Shards of a process.
pub const SHARDS_MAX: usize = 64;
/// Connections to the HTTP port whose request is still to come, or is a probe; for more, the oldest of the address with
/// the most of them gives way.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// HTTP requests besides probes that are answered at once; more get 503.
pub const ADMIN_ANSWERS_MAX: usize = 64;
/// A shard that has not run for so long does not: the watchdog wakes an idle one ten times in it.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(2);
/// The head of an HTTP request.
pub const ADMIN_HEAD_LEN_MAX: usize = 8 * 1024;
/// From the start of an HTTP connection until the head of its request is there.
pub const ADMIN_HEAD_MAX: Duration = Duration::from_secs(5);
/// An HTTP connection as a whole: one request, one answer.
pub const ADMIN_CONNECTION_MAX: Duration = Duration::from_secs(30);
/// How long an HTTP request waits for the shards' answers before it is answered with 503. Longer than the second
/// that `shard::Handle` gives them, so that a scrape shows the shards that did answer.
pub const ADMIN_ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// Questions to the shards that may wait for their answers at once.
pub const ADMIN_QUESTIONS_MAX: usize = 8;
/// Lines of one metric whose labels come from settings, DNS or Request-URIs. Those that come last are left out.
pub const ADMIN_LABEL_SETS_MAX: usize = 512;
/// Datagrams that wait for room in one UDP socket.
pub const DATAGRAMS_WAITING_COUNT_MAX: usize = 1_024;
/// Read from one connection before others have their turn.
pub const READ_LEN_MAX: usize = 16 * 1024;
/// Reads from one connection before others have their turn.
pub const READS_PER_PASS_MAX: usize = 4;
/// Reads of a pass from phones' connections that have more to say than one read takes; 16 KiB of large messages cost about
/// 0.1 ms.
pub const BULK_READS_PER_PASS_MAX: usize = 32;
/// Connections that are accepted in a row before others have their turn.
pub const ACCEPTS_IN_A_ROW_MAX: usize = 32;
/// Batches of datagrams from one socket before others have their turn.
pub const BATCHES_PER_PASS_MAX: usize = 4;
/// Steps of TLS handshakes for each pass of a shard: one costs about 0.1 ms of cryptography.
pub const HANDSHAKE_STEPS_PER_PASS_MAX: usize = 16;
/// TLS handshakes in the air of one shard; more wait to be accepted, and those that stall give way.
pub const HANDSHAKES_COUNT_MAX: usize = 256;
/// Of those, from one source address, unless `[[network]]` says otherwise for it; more of it wait apart, and the oldest of
/// that source gives way. Many phones may share an address.
pub const HANDSHAKES_PER_SOURCE_MAX: usize = HANDSHAKES_COUNT_MAX / 4 * 3;
/// Connections of a shard that wait for their source's turn to shake hands; then the newest of the source that has the
/// most is let go.
pub const HANDSHAKES_PARKED_COUNT_MAX: usize = 4_096;
/// From our FIN until a connection is closed for good, so that the peer can read what came before it.
pub const LINGER_MAX: Duration = Duration::from_secs(2);
/// Mails that are handled before others have their turn.
pub const MAILS_PER_PASS_MAX: usize = 256;
/// Questions of plain threads (snapshots, `where`, pins) that wait for one shard. Orders have places of their own.
pub const CONTROLS_COUNT_MAX: usize = 64;
/// Log lines of one kind and source network for each second of a shard; the rest is counted and told in a summary.
pub const LOG_LINES_PER_SECOND_MAX: u32 = 5;
/// Log lines of a kind over all networks; as many again are for networks that have had none for a while.
pub const LOG_LINES_OF_KIND_PER_SECOND_MAX: u32 = 50;
/// Kinds and networks that a shard tells apart for that; further ones count as one.
pub const LOG_SOURCES_COUNT_MAX: usize = 4_096;
/// Log lines that wait for stderr; more are lost, counted and told.
pub const LOG_QUEUE_COUNT_MAX: usize = 8_192;
/// How long a process that ends waits for stderr to take them.
pub const LOG_FLUSH_MAX: Duration = Duration::from_secs(1);
/// Panics of one shard within `PANIC_WINDOW` that take it out of service.
pub const PANICS_COUNT_MAX: usize = 16;
/// See `PANICS_COUNT_MAX`.
pub const PANIC_WINDOW: Duration = Duration::from_secs(10);
/// How long a start waits for ports that are still held: the system lets go of a dead process's io_uring sockets late.
pub const PORT_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a stopping process waits for what is in flight.
pub const DRAIN_MAX: Duration = Duration::from_secs(5);
/// One try of a DNS question at one resolver.
pub const DNS_TRY_MAX: Duration = Duration::from_millis(1_500);
/// A DNS question over all its tries.
pub const DNS_LOOKUP_MAX: Duration = Duration::from_secs(5);
/// A name with all the DNS questions that it takes, until those who wait are told that nobody answers.
pub const DNS_NAME_MAX: Duration = Duration::from_secs(5);
/// How long a request waits for fresh records while expired ones are at hand (RFC 8767 §5).
pub const DNS_STALE_AFTER: Duration = Duration::from_millis(500);
/// A DNS question that no resolver has answered is not asked again before this (RFC 2308 §7).
pub const DNS_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Records are not kept for longer, whatever their TTL says.
pub const DNS_TTL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// An answer that there are no records is not kept for longer (RFC 2308 §5).
pub const DNS_TTL_NEGATIVE_MAX: Duration = Duration::from_secs(300);
/// Anything is kept for so long, so that a TTL of 0 does not make each request ask.
pub const DNS_TTL_LEAST: Duration = Duration::from_secs(1);
/// A DNS message over UDP, as resolvers are told (RFC 6891 §6.2.5).
pub const DNS_DATAGRAM_LEN_MAX: usize = 1_232;
/// CNAME records from a name to its records.
pub const DNS_ALIASES_MAX: usize = 8;
/// Records of one name and type that are used.
pub const DNS_RECORDS_MAX: usize = 64;
/// Servers of one name.
pub const DNS_TARGETS_MAX: usize = 64;
/// Names and types whose records a shard keeps; past it, those that expire first give way.
pub const DNS_SETS_COUNT_MAX: usize = 4_096;
/// Names whose servers a shard keeps, and those that are asked for.
pub const DNS_NAMES_COUNT_MAX: usize = 1_024;
/// Requests of a shard that wait for names.
pub const DNS_WAITERS_COUNT_MAX: usize = 4_096;
/// DNS questions that wait for their turn.
pub const DNS_LOOKUPS_COUNT_MAX: usize = 512;
/// DNS questions of a shard in the air, each with its socket.
pub const DNS_EXCHANGES_COUNT_MAX: usize = 32;
/// How long a target that did not answer comes last (RFC 3263 §4.3).
pub const DNS_BLOCK_TIME: Duration = Duration::from_secs(30);
/// Targets that come last.
pub const DNS_BLOCKED_COUNT_MAX: usize = 1_024;
