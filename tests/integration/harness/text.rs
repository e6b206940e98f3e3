//! SIP messages as text: what a party reads out of one, and what it answers.

/// A header field's first value.
pub fn field<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    fields(message, name).first().copied()
}

/// The values of a header field, in order, whole lines.
pub fn fields<'m>(message: &'m str, name: &str) -> Vec<&'m str> {
    message.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

/// The status line of a response, the request line of a request.
pub fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or_default()
}

/// A response as the receiver of a request makes it, with this tag where the request has none, and further lines.
pub fn answer(request: &str, status: &str, tag: &str, more: &str) -> String {
    let mut answer = format!("SIP/2.0 {status}\r\n");
    for name in ["Via", "Record-Route", "Path", "From", "To", "Call-ID", "CSeq"] {
        for value in fields(request, name) {
            let tag = if name == "To" && !value.contains("tag=") { format!(";tag={tag}") } else { String::new() };
            answer += &format!("{name}: {value}{tag}\r\n");
        }
    }
    answer + more + "Content-Length: 0\r\n\r\n"
}

/// A service check over TLS to the proxy at this port of 127.0.0.1.
pub fn service_check(port: u16, id: &str) -> String {
    format!(
        "OPTIONS sip:127.0.0.1:{port};transport=tls SIP/2.0\r\n\
         Via: SIP/2.0/TLS 127.0.0.1:9;rport;branch=z9hG4bK{id}\r\n\
         From: <sip:probe@example.com>;tag=1\r\nTo: <sip:127.0.0.1:{port};transport=tls>\r\n\
         Call-ID: {id}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
    )
}
