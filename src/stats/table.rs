//! The table of metrics: each name once, with its help and one variant for each set of labels.
//!
//! To add one, add a row; where a reason has a type of its own, its constructor (`Counter::closed` and the like)
//! is an exhaustive match, so that the compiler asks for the row.

use super::Row;

macro_rules! metrics {
    (
        $(#[$doc:meta])* $kind:ident, $table:ident;
        $($name:literal, $help:literal: $($variant:ident { $($key:ident = $value:literal),* })*;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "the help text in the table says it")]
        pub enum $kind { $($($variant,)*)* }

        /// Name, help and labels, in the order of the variants.
        pub const $table: &[Row] = &[$($(
            Row { name: $name, help: $help, labels: &[$((stringify!($key), $value)),*] },
        )*)*];

        impl $kind {
            /// The row of this variant in the table.
            #[must_use]
            pub fn row(self) -> &'static Row {
                &$table[self as usize]
            }
        }
    };
}

metrics! {
/// A monotonic counter.
Counter, COUNTERS;

// Messages.

"hawser_requests_total", "Requests received, by the side that sent them, without retransmissions.":
    RequestServerInvite { side = "server", method = "INVITE" }
    RequestServerAck { side = "server", method = "ACK" }
    RequestServerBye { side = "server", method = "BYE" }
    RequestServerCancel { side = "server", method = "CANCEL" }
    RequestServerRegister { side = "server", method = "REGISTER" }
    RequestServerOptions { side = "server", method = "OPTIONS" }
    RequestServerPrack { side = "server", method = "PRACK" }
    RequestServerSubscribe { side = "server", method = "SUBSCRIBE" }
    RequestServerNotify { side = "server", method = "NOTIFY" }
    RequestServerPublish { side = "server", method = "PUBLISH" }
    RequestServerInfo { side = "server", method = "INFO" }
    RequestServerRefer { side = "server", method = "REFER" }
    RequestServerMessage { side = "server", method = "MESSAGE" }
    RequestServerUpdate { side = "server", method = "UPDATE" }
    RequestServerOther { side = "server", method = "other" }
    RequestEndpointInvite { side = "endpoint", method = "INVITE" }
    RequestEndpointAck { side = "endpoint", method = "ACK" }
    RequestEndpointBye { side = "endpoint", method = "BYE" }
    RequestEndpointCancel { side = "endpoint", method = "CANCEL" }
    RequestEndpointRegister { side = "endpoint", method = "REGISTER" }
    RequestEndpointOptions { side = "endpoint", method = "OPTIONS" }
    RequestEndpointPrack { side = "endpoint", method = "PRACK" }
    RequestEndpointSubscribe { side = "endpoint", method = "SUBSCRIBE" }
    RequestEndpointNotify { side = "endpoint", method = "NOTIFY" }
    RequestEndpointPublish { side = "endpoint", method = "PUBLISH" }
    RequestEndpointInfo { side = "endpoint", method = "INFO" }
    RequestEndpointRefer { side = "endpoint", method = "REFER" }
    RequestEndpointMessage { side = "endpoint", method = "MESSAGE" }
    RequestEndpointUpdate { side = "endpoint", method = "UPDATE" }
    RequestEndpointOther { side = "endpoint", method = "other" };

"hawser_responses_received_total", "Responses received, by the side that sent them.":
    ResponseFromServer1xx { side = "server", class = "1xx" }
    ResponseFromServer2xx { side = "server", class = "2xx" }
    ResponseFromServer3xx { side = "server", class = "3xx" }
    ResponseFromServer4xx { side = "server", class = "4xx" }
    ResponseFromServer5xx { side = "server", class = "5xx" }
    ResponseFromServer6xx { side = "server", class = "6xx" }
    ResponseFromEndpoint1xx { side = "endpoint", class = "1xx" }
    ResponseFromEndpoint2xx { side = "endpoint", class = "2xx" }
    ResponseFromEndpoint3xx { side = "endpoint", class = "3xx" }
    ResponseFromEndpoint4xx { side = "endpoint", class = "4xx" }
    ResponseFromEndpoint5xx { side = "endpoint", class = "5xx" }
    ResponseFromEndpoint6xx { side = "endpoint", class = "6xx" };

"hawser_responses_sent_total", "Responses passed on or made here, by the side that they went to, without retransmissions.":
    ResponseToServer1xx { side = "server", class = "1xx" }
    ResponseToServer2xx { side = "server", class = "2xx" }
    ResponseToServer3xx { side = "server", class = "3xx" }
    ResponseToServer4xx { side = "server", class = "4xx" }
    ResponseToServer5xx { side = "server", class = "5xx" }
    ResponseToServer6xx { side = "server", class = "6xx" }
    ResponseToEndpoint1xx { side = "endpoint", class = "1xx" }
    ResponseToEndpoint2xx { side = "endpoint", class = "2xx" }
    ResponseToEndpoint3xx { side = "endpoint", class = "3xx" }
    ResponseToEndpoint4xx { side = "endpoint", class = "4xx" }
    ResponseToEndpoint5xx { side = "endpoint", class = "5xx" }
    ResponseToEndpoint6xx { side = "endpoint", class = "6xx" };

"hawser_calls_total", "INVITEs outside a dialog, and how they ended; a call from phone to phone passes twice.":
    CallsBegun { event = "begun" }
    CallsAnswered { event = "answered" }
    CallsRejected { event = "rejected" }
    CallsCancelled { event = "cancelled" };

"hawser_retransmissions_absorbed_total", "Retransmissions that a transaction of ours took, by what was sent again.":
    AbsorbedRequest { message = "request" }
    AbsorbedResponse { message = "response" }
    AbsorbedAck { message = "ack" };

"hawser_retransmissions_sent_total", "Messages that a transaction of ours sent again.":
    ResentRequest { message = "request" }
    ResentResponse { message = "response" };

"hawser_responses_by_via_total", "Responses whose connection had gone, sent to where the Via of the server or peer proxy says that it is.":
    ResponseByVia {};

"hawser_messages_received_total", "SIP messages received, by transport.":
    MessagesInUdp { transport = "udp" }
    MessagesInTcp { transport = "tcp" }
    MessagesInTls { transport = "tls" };

"hawser_messages_sent_total", "SIP messages sent, by transport.":
    MessagesOutUdp { transport = "udp" }
    MessagesOutTcp { transport = "tcp" }
    MessagesOutTls { transport = "tls" };

"hawser_received_bytes_total", "Bytes received, by transport (TLS: of plaintext).":
    BytesInUdp { transport = "udp" }
    BytesInTcp { transport = "tcp" }
    BytesInTls { transport = "tls" };

"hawser_sent_bytes_total", "Bytes sent, by transport (TLS: of plaintext).":
    BytesOutUdp { transport = "udp" }
    BytesOutTcp { transport = "tcp" }
    BytesOutTls { transport = "tls" };

"hawser_keepalives_total", "Keep-alives answered: CRLFCRLF on a stream, a STUN binding request over UDP.":
    KeepalivePing { kind = "crlf" }
    KeepaliveStun { kind = "stun" };

"hawser_deliveries_total", "Requests sent towards an endpoint, by whether its flow was on the same shard.":
    DeliveredLocal { flow = "local" }
    DeliveredAcross { flow = "across" };

"hawser_service_checks_total", "OPTIONS to the proxy itself that were answered.":
    ServiceCheckServer200 { side = "server", code = "200" }
    ServiceCheckServer503 { side = "server", code = "503" }
    ServiceCheckEndpoint200 { side = "endpoint", code = "200" }
    ServiceCheckEndpoint503 { side = "endpoint", code = "503" };

"hawser_path_support_added_total", "REGISTERs that got Supported: path added, for their phone does not say it.":
    PathSupportAdded {};

"hawser_x_genesys_stripped_total", "Requests and responses that X-Genesys-Route was taken out of.":
    XGenesysStrippedServer { side = "server" }
    XGenesysStrippedEndpoint { side = "endpoint" };

// What could not be read.

"hawser_unparsable_dropped_total", "Messages dropped since they could not even be answered.":
    ScanStartLine { reason = "start_line" }
    ScanTruncated { reason = "truncated" }
    ScanTooLarge { reason = "too_large" }
    ScanTooManyFields { reason = "too_many_fields" }
    ScanUnanswerable { reason = "unanswerable" };

"hawser_faults_total", "Requests that were answered with 400, 414, 416, 505 or 513 for what is wrong in them.":
    FaultVersion { fault = "version" }
    FaultRequestLine { fault = "request_line" }
    FaultRequestUri { fault = "request_uri" }
    FaultScheme { fault = "scheme" }
    FaultHeaderSyntax { fault = "header_syntax" }
    FaultTooManyValues { fault = "too_many_values" }
    FaultViaSyntax { fault = "via_syntax" }
    FaultMissingTo { fault = "to_missing" }
    FaultToSyntax { fault = "to_syntax" }
    FaultDuplicateTo { fault = "to_duplicate" }
    FaultMissingFrom { fault = "from_missing" }
    FaultFromSyntax { fault = "from_syntax" }
    FaultDuplicateFrom { fault = "from_duplicate" }
    FaultMissingCallId { fault = "call_id_missing" }
    FaultCallIdSyntax { fault = "call_id_syntax" }
    FaultDuplicateCallId { fault = "call_id_duplicate" }
    FaultMissingCseq { fault = "cseq_missing" }
    FaultCseqSyntax { fault = "cseq_syntax" }
    FaultCseqMethod { fault = "cseq_method" }
    FaultDuplicateCseq { fault = "cseq_duplicate" }
    FaultMaxForwardsSyntax { fault = "max_forwards_syntax" }
    FaultDuplicateMaxForwards { fault = "max_forwards_duplicate" }
    FaultContentLengthSyntax { fault = "content_length_syntax" }
    FaultContentLengthConflict { fault = "content_length_conflict" }
    FaultContentLengthMissing { fault = "content_length_missing" }
    FaultContentLengthTooLarge { fault = "content_length_too_large" }
    FaultRouteSyntax { fault = "route_syntax" }
    FaultContactSyntax { fault = "contact_syntax" }
    FaultRequestUriTooLong { fault = "request_uri_too_long" }
    FaultRequestUriHost { fault = "request_uri_host" }
    FaultRequestUriPort { fault = "request_uri_port" }
    FaultRequestUriTransport { fault = "request_uri_transport" }
    FaultHeaderBlockTooLarge { fault = "header_block_too_large" }
    FaultMessageTooLarge { fault = "message_too_large" };

// What was refused.

"hawser_refusals_total", "Requests that Hawser itself answered with an error, by code and reason (for a malformed one: see hawser_faults_total).":
    Refused403ClientAor { code = "403", reason = "client_aor" }
    Refused403ForeignRoute { code = "403", reason = "foreign_route" }
    Refused403ForgedToken { code = "403", reason = "forged_token" }
    Refused403WrongListener { code = "403", reason = "wrong_listener" }
    Refused408TimerB { code = "408", reason = "timer_b" }
    Refused408TimerC { code = "408", reason = "timer_c" }
    Refused420ProxyRequire { code = "420", reason = "proxy_require" }
    Refused430FlowGone { code = "430", reason = "flow_gone" }
    Refused430FlowLost { code = "430", reason = "flow_lost" }
    Refused480FlowGone { code = "480", reason = "flow_gone" }
    Refused480FlowLost { code = "480", reason = "flow_lost" }
    Refused480Grace { code = "480", reason = "grace" }
    Refused440Breadth { code = "440", reason = "breadth" }
    Refused480NotBound { code = "480", reason = "not_bound" }
    Refused481Cancel { code = "481", reason = "cancel" }
    Refused482Loop { code = "482", reason = "loop" }
    Refused483Hops { code = "483", reason = "hops" }
    Refused500Endpoint503 { code = "500", reason = "endpoint_503" }
    Refused503OverloadRegister { code = "503", reason = "overload_register" }
    Refused503OverloadDialog { code = "503", reason = "overload_dialog" }
    Refused503OverloadKnown { code = "503", reason = "overload_known" }
    Refused503DialogRate { code = "503", reason = "dialog_rate" }
    Refused503Mailbox { code = "503", reason = "mailbox" }
    Refused503Transactions { code = "503", reason = "transactions" }
    Refused502Certificate { code = "502", reason = "certificate" }
    Refused503ServerConnect { code = "503", reason = "server_connect" }
    Refused503NoSuchName { code = "503", reason = "no_such_name" }
    Refused503NameUnanswered { code = "503", reason = "name_unanswered" }
    Refused503NoTarget { code = "503", reason = "no_target" }
    Refused503Draining { code = "503", reason = "draining" }
    Refused503Unsendable { code = "503", reason = "unsendable" }
    Refused513Oversize { code = "513", reason = "oversize" };

"hawser_failovers_total", "Requests that went on to the next server or target, by why the one before would not do.":
    FailoverUnavailable { reason = "503" }
    FailoverConnection { reason = "connection" }
    FailoverTimeout { reason = "timeout" }
    FailoverVerdict { reason = "verdict" };

"hawser_tokens_other_boot_total", "Authentic tokens of another start or another member of the pool.":
    TokenOtherBoot {};

"hawser_responses_dropped_total", "Responses dropped, by reason.":
    ResponseStray { reason = "stray" }
    ResponseForeignVia { reason = "foreign_via" }
    ResponseElsewhere { reason = "elsewhere" }
    ResponseConnectionGone { reason = "connection_gone" }
    ResponseUnsendable { reason = "unsendable" }
    ResponseTooLarge { reason = "too_large" }
    ResponseMailbox { reason = "mailbox" };

"hawser_acks_dropped_total", "ACKs dropped, by reason: nothing may answer them.":
    AckFlowGone { reason = "flow_gone" }
    AckRefused { reason = "refused" }
    AckMailbox { reason = "mailbox" };

"hawser_udp_oversize_total", "Requests that would have passed 1,300 bytes over UDP, by what became of them.":
    OversizeTcp { action = "tcp" }
    OversizeUdp { action = "udp" }
    OversizeReject { action = "reject" };

// Registrations.

"hawser_registrations_total", "What became of bindings.":
    BindingBound { event = "bound" }
    BindingRefreshed { event = "refreshed" }
    BindingMoved { event = "moved" }
    BindingRemoved { event = "removed" }
    BindingExpired { event = "expired" }
    BindingFlowLost { event = "flow_lost" };

"hawser_flows_total", "Flows that got their first binding, and flows that lost their last or were closed.":
    FlowOpened { event = "opened" }
    FlowClosed { event = "closed" };

"hawser_home_resolves_total", "Questions to a binding's home shard where the phone is, by the answer.":
    ResolvedFound { answer = "found" }
    ResolvedMoved { answer = "moved" }
    ResolvedMissing { answer = "missing" };

"hawser_flow_grace_total", "In-dialog requests that waited for their phone to come back.":
    GraceBegun { event = "begun" }
    GraceRescued { event = "rescued" }
    GraceFailed { event = "failed" };

// Transactions.

"hawser_timers_fired_total", "Timers of transactions that fired and did more than forget one.":
    TimerA { timer = "A" }
    TimerB { timer = "B" }
    TimerC { timer = "C" }
    TimerE { timer = "E" }
    TimerF { timer = "F" }
    TimerG { timer = "G" }
    TimerH { timer = "H" }
    TimerTrying { timer = "trying" };

// Connections.

"hawser_connections_opened_total", "Connections that became ready for SIP.":
    AcceptedTcp { direction = "in", transport = "tcp" }
    AcceptedTls { direction = "in", transport = "tls" }
    OpenedTcp { direction = "out", transport = "tcp" }
    OpenedTls { direction = "out", transport = "tls" };

"hawser_connections_refused_total", "Connections closed as soon as they were accepted.":
    AcceptRefusedConnections { reason = "connections" }
    AcceptRefusedSource { reason = "source" }
    AcceptRefusedShutOut { reason = "shut_out" }
    AcceptRefusedDraining { reason = "draining" };

"hawser_proxy_headers_total", "PROXY headers of load balancers, by what they say: whose connection or datagram it is, or that the balancer speaks for itself (LOCAL, UNKNOWN).":
    ProxyHeaderSource { says = "source" }
    ProxyHeaderNobody { says = "nobody" };

"hawser_proxy_header_faults_total", "Connections and datagrams let go for a PROXY header, by reason: none where one is due, one that is none, one that does not come, or one where none is due.":
    ProxyHeaderMissing { reason = "missing" }
    ProxyHeaderMalformed { reason = "malformed" }
    ProxyHeaderTooLong { reason = "too_long" }
    ProxyHeaderTimeout { reason = "timeout" }
    ProxyHeaderEnded { reason = "ended" }
    ProxyHeaderGaveWay { reason = "gave_way" }
    ProxyHeaderUnexpected { reason = "unexpected" };

"hawser_connections_closed_total", "Connections closed, by reason.":
    ClosedPeer { reason = "peer" }
    ClosedReset { reason = "reset" }
    ClosedDead { reason = "dead" }
    ClosedError { reason = "error" }
    ClosedHandshake { reason = "handshake" }
    ClosedHandshakeTimeout { reason = "handshake_timeout" }
    ClosedTlsFault { reason = "tls_fault" }
    ClosedFirstMessageTimeout { reason = "first_message_timeout" }
    ClosedSlowMessage { reason = "slow_message" }
    ClosedIdle { reason = "idle" }
    ClosedFraming { reason = "framing" }
    ClosedSendQueueFull { reason = "send_queue_full" }
    ClosedSendStalled { reason = "send_stalled" }
    ClosedSendSlow { reason = "send_slow" }
    ClosedHalfClosed { reason = "half_closed" }
    ClosedPings { reason = "pings" }
    ClosedShutOut { reason = "shut_out" }
    ClosedPanic { reason = "panic" };

"hawser_abuse_failures_total", "Failures over streams that were held against the address that they came from, by kind: connections that came to nothing, malformed messages, requests that got 403, refused REGISTERs.":
    AbuseConnection { kind = "connection" }
    AbuseGarbage { kind = "garbage" }
    AbuseRefused { kind = "refused" }
    AbuseRegister { kind = "register" };

"hawser_abuse_verdicts_total", "Addresses that were slowed or shut out for their failures, and those of which that came to an end.":
    AbuseSlowed { verdict = "slowed" }
    AbuseShutOut { verdict = "shut_out" }
    AbuseFree { verdict = "free" };

"hawser_connect_failures_total", "Connections that could not be opened, by reason.":
    ConnectRefused { reason = "refused" }
    ConnectUnreachable { reason = "unreachable" }
    ConnectTimeout { reason = "timeout" }
    ConnectResources { reason = "resources" }
    ConnectTls { reason = "tls" };

"hawser_server_switches_total", "Times that the other SIP Server of a pair was made the active one, by reason.":
    ServerSwitchRequest { reason = "request" }
    ServerSwitchTookCall { reason = "took_call" }
    ServerSwitchPinned { reason = "pinned" }
    ServerSwitchStatus { reason = "status" }
    ServerSwitchSilent { reason = "silent" }
    ServerSwitchReset { reason = "reset" }
    ServerSwitchRefused { reason = "refused" }
    ServerSwitchUnreachable { reason = "unreachable" }
    ServerSwitchConnectTimeout { reason = "connect_timeout" }
    ServerSwitchTls { reason = "tls" }
    ServerSwitchDns { reason = "dns" }
    ServerSwitchOther { reason = "other" };

"hawser_server_pings_total", "OPTIONS of ours to SIP Servers, by what became of them: a 2xx, another final response, silence, or no way to send.":
    ServerPingAnswered { outcome = "answered" }
    ServerPingOther { outcome = "other" }
    ServerPingSilent { outcome = "silent" }
    ServerPingLost { outcome = "lost" };

"hawser_tls_handshakes_total", "TLS handshakes that succeeded.":
    HandshakeServerFull { side = "server", kind = "full" }
    HandshakeServerResumed { side = "server", kind = "resumed" }
    HandshakeEndpointFull { side = "endpoint", kind = "full" }
    HandshakeEndpointResumed { side = "endpoint", kind = "resumed" };

"hawser_tls_handshakes_put_off_total", "Steps of TLS handshakes that had to wait in an overload.":
    HandshakesPutOff {};

"hawser_tls_versions_total", "TLS handshakes that succeeded, by protocol version.":
    TlsVersion12 { version = "1.2" }
    TlsVersion13 { version = "1.3" };

"hawser_tls_ciphers_total", "TLS handshakes that succeeded, by cipher suite.":
    TlsCipher13Aes256 { cipher = "TLS13_AES_256_GCM_SHA384" }
    TlsCipher13Aes128 { cipher = "TLS13_AES_128_GCM_SHA256" }
    TlsCipher13Chacha20 { cipher = "TLS13_CHACHA20_POLY1305_SHA256" }
    TlsCipherEcdsaAes256 { cipher = "ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" }
    TlsCipherEcdsaAes128 { cipher = "ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" }
    TlsCipherEcdsaChacha20 { cipher = "ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" }
    TlsCipherRsaAes256 { cipher = "ECDHE_RSA_WITH_AES_256_GCM_SHA384" }
    TlsCipherRsaAes128 { cipher = "ECDHE_RSA_WITH_AES_128_GCM_SHA256" }
    TlsCipherRsaChacha20 { cipher = "ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" };

"hawser_tls_key_log_lost_total", "Lines of key-log-file that could not be written.":
    TlsKeyLogLost {};

"hawser_tls_handshake_failures_total", "TLS handshakes that failed, by side and reason.":
    HandshakeServerNone { side = "server", reason = "none" }
    HandshakeServerExpired { side = "server", reason = "expired" }
    HandshakeServerNotYetValid { side = "server", reason = "not_yet_valid" }
    HandshakeServerUnknownCa { side = "server", reason = "unknown_ca" }
    HandshakeServerSelfSigned { side = "server", reason = "self_signed" }
    HandshakeServerRevoked { side = "server", reason = "revoked" }
    HandshakeServerUsage { side = "server", reason = "usage" }
    HandshakeServerName { side = "server", reason = "name" }
    HandshakeServerSignature { side = "server", reason = "signature" }
    HandshakeServerVersion { side = "server", reason = "version" }
    HandshakeServerCipher { side = "server", reason = "cipher" }
    HandshakeServerAlpn { side = "server", reason = "alpn" }
    HandshakeServerTimeout { side = "server", reason = "timeout" }
    HandshakeServerReset { side = "server", reason = "reset" }
    HandshakeServerProtocol { side = "server", reason = "protocol" }
    HandshakeEndpointNone { side = "endpoint", reason = "none" }
    HandshakeEndpointExpired { side = "endpoint", reason = "expired" }
    HandshakeEndpointNotYetValid { side = "endpoint", reason = "not_yet_valid" }
    HandshakeEndpointUnknownCa { side = "endpoint", reason = "unknown_ca" }
    HandshakeEndpointSelfSigned { side = "endpoint", reason = "self_signed" }
    HandshakeEndpointRevoked { side = "endpoint", reason = "revoked" }
    HandshakeEndpointUsage { side = "endpoint", reason = "usage" }
    HandshakeEndpointName { side = "endpoint", reason = "name" }
    HandshakeEndpointSignature { side = "endpoint", reason = "signature" }
    HandshakeEndpointVersion { side = "endpoint", reason = "version" }
    HandshakeEndpointCipher { side = "endpoint", reason = "cipher" }
    HandshakeEndpointAlpn { side = "endpoint", reason = "alpn" }
    HandshakeEndpointTimeout { side = "endpoint", reason = "timeout" }
    HandshakeEndpointReset { side = "endpoint", reason = "reset" }
    HandshakeEndpointProtocol { side = "endpoint", reason = "protocol" };

"hawser_datagrams_dropped_total", "Datagrams that could not be sent, by reason.":
    DatagramSocketFull { reason = "socket_full" }
    DatagramUnreachable { reason = "unreachable" }
    DatagramTooLarge { reason = "too_large" }
    DatagramSendError { reason = "send_error" };

"hawser_datagrams_lost_total", "Datagrams that came and that the system dropped before they were read: the socket's buffer was full (net.core.rmem_max).":
    DatagramsLost {};

"hawser_accept_errors_total", "Times that the system refused to hand over a new connection (descriptors, memory).":
    AcceptError {};

// Names.

"hawser_dns_asked_total", "Questions where a name's servers are, by what answered: the cache, expired records while no resolver answers, or the resolvers.":
    DnsAskedCache { from = "cache" }
    DnsAskedStale { from = "stale" }
    DnsAskedResolvers { from = "resolvers" };
"hawser_dns_lookups_total", "Names whose servers were looked for, by what came of it.":
    DnsNameFound { result = "found" }
    DnsNameNoSuchName { result = "no_such_name" }
    DnsNameNoRecords { result = "no_records" }
    DnsNameUnanswered { result = "unanswered" }
    DnsNameBound { result = "bound" };
"hawser_dns_queries_total", "DNS questions sent, by type and with those that were sent again.":
    DnsQueryA { type = "A" }
    DnsQueryAaaa { type = "AAAA" }
    DnsQuerySrv { type = "SRV" }
    DnsQueryNaptr { type = "NAPTR" };
"hawser_dns_answers_total", "DNS answers, by what they say.":
    DnsAnswerRecords { says = "records" }
    DnsAnswerNoSuchName { says = "no_such_name" }
    DnsAnswerNoRecords { says = "no_records" }
    DnsAnswerTruncated { says = "truncated" }
    DnsAnswerNoEdns { says = "no_edns" }
    DnsAnswerFailure { says = "failure" }
    DnsAnswerRefused { says = "refused" }
    DnsAnswerLame { says = "lame" };
"hawser_dns_ignored_total", "DNS answers that do not belong to their question, by what is wrong with them.":
    DnsIgnoredMalformed { reason = "malformed" }
    DnsIgnoredSource { reason = "source" }
    DnsIgnoredId { reason = "id" }
    DnsIgnoredQuestion { reason = "question" };
"hawser_dns_timeouts_total", "DNS questions that a resolver did not answer in time.":
    DnsTimeout {};
"hawser_dns_socket_errors_total", "DNS questions that could not be sent, or were refused by the resolver's host.":
    DnsSocketError {};
"hawser_dns_tcp_fallbacks_total", "DNS questions asked again over TCP, for the answer was too long for UDP.":
    DnsTcpFallback {};

// Bounds (the constants of `limits`, by name).

"hawser_limit_hits_total", "Times that a bound was reached, by its name in limits.":
    LimitMessageLen { limit = "message_len" }
    LimitHeaderBlockLen { limit = "header_block_len" }
    LimitFields { limit = "fields" }
    LimitValues { limit = "values" }
    LimitUriLen { limit = "uri_len" }
    LimitHandshake { limit = "handshake" }
    LimitFirstMessage { limit = "first_message" }
    LimitMessageBegun { limit = "message_begun" }
    LimitSendQueueLen { limit = "send_queue_len" }
    LimitSendStall { limit = "send_stall" }
    LimitSendAge { limit = "send_age" }
    LimitHalfClosed { limit = "half_closed" }
    LimitPingsPerRead { limit = "pings_per_read" }
    LimitIdleUnregistered { limit = "idle_unregistered" }
    LimitProxyHeaderLen { limit = "proxy_header_len" }
    LimitProxyHeader { limit = "proxy_header" }
    LimitProxyHeadersAwaitedCount { limit = "proxy_headers_awaited_count" }
    LimitUnregisteredPerSource { limit = "unregistered_per_source" }
    LimitAbuseSourcesCount { limit = "abuse_sources_count" }
    LimitMailboxCount { limit = "mailbox_count" }
    LimitMailboxNewWorkCount { limit = "mailbox_new_work_count" }
    LimitConnections { limit = "connections" }
    LimitTransactions { limit = "transactions" }
    LimitTransactionLen { limit = "transaction_len" }
    LimitBindings { limit = "bindings" }
    LimitBindingsPerAor { limit = "bindings_per_aor" }
    LimitBindingsPerFlow { limit = "bindings_per_flow" }
    LimitWaitersPerBinding { limit = "waiters_per_binding" }
    LimitContacts { limit = "contacts" }
    LimitFlowAttempts { limit = "flow_attempts" }
    LimitStrangerAnswerFactor { limit = "stranger_answer_factor" }
    LimitHomeAnswer { limit = "home_answer" }
    LimitLinksCount { limit = "links_count" }
    LimitTargetsCount { limit = "targets_count" }
    LimitNameAnswer { limit = "name_answer" }
    LimitDatagramsWaitingCount { limit = "datagrams_waiting_count" }
    LimitHandshakesCount { limit = "handshakes_count" }
    LimitHandshakesPerSource { limit = "handshakes_per_source" }
    LimitHandshakesParkedCount { limit = "handshakes_parked_count" }
    LimitDnsLookup { limit = "dns_lookup" }
    LimitDnsName { limit = "dns_name" }
    LimitDnsAliases { limit = "dns_aliases" }
    LimitDnsRecords { limit = "dns_records" }
    LimitDnsTargets { limit = "dns_targets" }
    LimitDnsSetsCount { limit = "dns_sets_count" }
    LimitDnsNamesCount { limit = "dns_names_count" }
    LimitDnsWaitersCount { limit = "dns_waiters_count" }
    LimitDnsLookupsCount { limit = "dns_lookups_count" }
    LimitDnsBlockedCount { limit = "dns_blocked_count" };

// Shards.

"hawser_placed_total", "Messages passed to the shard that placement names.":
    Placed {};
"hawser_mail_sent_total", "Mails sent to other shards.":
    MailSent {};
"hawser_mail_received_total", "Mails received from other shards.":
    MailReceived {};
"hawser_mail_wakes_total", "Times that a sleeping shard was woken for mail.":
    MailWakes {};
"hawser_mail_refused_total", "Mails that found the mailbox full.":
    MailRefused {};
"hawser_mail_waited_total", "Changes to the directory that had to wait for room in a mailbox.":
    MailWaited {};
"hawser_shard_passes_total", "Passes of the loop over all that was ready.":
    Passes {};
"hawser_shard_stalls_nudged_total", "Stalls of an executor of io_uring that the watchdog ended.":
    StallsNudged {};
"hawser_panics_total", "Panics caught while a message was handled.":
    Panics {};
"hawser_log_suppressed_total", "Log lines left out to keep their rate bounded.":
    LogSuppressed {};
}

metrics! {
/// A value of this moment. All are counts, so that the sum over shards means something.
Gauge, GAUGES;

"hawser_connections", "Connections that are open, by transport.":
    ConnectionsTcp { transport = "tcp" }
    ConnectionsTls { transport = "tls" };
"hawser_connections_unregistered", "Connections that are open and hold no binding.":
    ConnectionsUnregistered {};
"hawser_connections_limit", "Connections that the shards may hold.":
    ConnectionsLimit {};
"hawser_tls_handshakes_in_progress", "TLS handshakes begun and not finished.":
    HandshakesInProgress {};
"hawser_tls_handshakes_waiting", "Connections whose source address has as many handshakes in the air as it may have, or whose PROXY header came while there were as many as may be: they wait for their turn.":
    HandshakesParked {};
"hawser_proxy_headers_awaited", "Connections of load balancers whose PROXY header has not come.":
    ProxyHeadersAwaited {};
"hawser_abuse_addresses", "Addresses that only fail, and what is done about it.":
    AbuseSlowed { verdict = "slowed" }
    AbuseShutOut { verdict = "shut_out" };
"hawser_registered_flows", "Flows that hold at least one binding, by transport.":
    RegisteredFlowsUdp { transport = "udp" }
    RegisteredFlowsTcp { transport = "tcp" }
    RegisteredFlowsTls { transport = "tls" };
"hawser_udp_flows", "UDP flows that are remembered.":
    UdpFlows {};
"hawser_bindings", "Bindings in the directory, by the shard that is their home.":
    Bindings {};
"hawser_transactions", "Transactions that are not at their end.":
    TransactionsServer { kind = "server" }
    TransactionsClient { kind = "client" };
"hawser_transactions_limit", "Transactions that the shards may hold.":
    TransactionsLimit {};
"hawser_transactions_bytes", "Bytes that transactions hold, messages and state; new requests are refused from 8 KiB for each of hawser_transactions_limit on.":
    TransactionsBytes {};
"hawser_contexts_waiting", "Requests that wait, by what for: the phone to come back, or a binding's home shard to say where it is.":
    ContextsGrace { wait = "grace" }
    ContextsHome { wait = "home" };
"hawser_timers", "Timers that run.":
    Timers {};
"hawser_dns_names", "Names whose servers are known, and names that are asked for.":
    DnsNamesKnown { state = "known" }
    DnsNamesAsking { state = "asking" };
"hawser_dns_waiting", "Requests that wait for a name.":
    DnsWaiting {};
"hawser_mailbox_length", "Mails that wait for the shard.":
    MailboxLength {};
"hawser_send_queue_bytes", "Bytes that wait to be sent on connections.":
    SendQueueBytes {};
"hawser_draining", "1 while no new work is taken.":
    Draining {};
}
