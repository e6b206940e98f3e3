//! Two URIs, each a part of the input.

use hawser::sip::uri::{equivalent, host_eq};
use hawser::sip::{Host, Span, Uri, UriError};

use super::parts::texts;

/// See the module.
pub fn check(data: &[u8]) {
    let all: Vec<&[u8]> = texts(data).take(2).collect();
    let parsed: Vec<(&[u8], Uri)> = all.iter().filter_map(|text| Some((*text, one(text)?))).collect();
    if let [(a_buf, a), (b_buf, b)] = &parsed[..] {
        let same = equivalent(a, a_buf, b, b_buf);
        assert_eq!(same, equivalent(b, b_buf, a, a_buf), "equivalence is symmetric");
        if same && a.scheme.is_sip() {
            assert_eq!((a.port, a.scheme), (b.port, b.scheme));
            assert!(host_eq(&a.host, a_buf, &written(&b.host, b_buf)), "equivalent URIs have one host");
        }
    }
}

fn written(host: &Host, buf: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    host.write(buf, &mut out);
    out
}

/// One URI, and what can be asked of it.
fn one(text: &[u8]) -> Option<Uri> {
    // A span holds what a header block does.
    let text = &text[..text.len().min(usize::from(u16::MAX))];
    let span = Span::new(0, text.len());
    let read = Uri::parse(text, span);
    let is_dirty = text.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || matches!(byte, b'<' | b'>' | b'"'));
    if let Ok(uri) = &read {
        assert!(!is_dirty, "a URI with a character that none may have");
        moved(text, uri);
    }
    if read != Err(UriError::Character) && !is_dirty {
        assert_eq!(Uri::parse_checked(text, span), read);
    }
    let uri = read.ok()?;
    lies_inside(text, &uri);
    assert!(equivalent(&uri, text, &uri, text), "a URI is not itself");
    if uri.scheme.is_sip() {
        let host = written(&uri.host, text);
        assert!(host_eq(&uri.host, text, &host), "a host is not itself");
        let again = Host::parse(&host, Span::new(0, host.len())).expect("a host that we have written");
        assert_eq!(written(&again, &host), host, "written twice it differs");
        canonical(text, &uri);
        let _ = (uri.transport(text), uri.has_lr(text));
        if let Some(Host::Name(name)) = uri.host_to_ask(text) {
            assert!(usize::from(name.end) <= text.len() && !name.is_empty());
        }
    }
    Some(uri)
}

/// It is read the same behind something else.
fn moved(text: &[u8], uri: &Uri) {
    let before = b"To: <";
    if text.len() + before.len() + 1 > usize::from(u16::MAX) {
        return;
    }
    let buf = [before, text, b">"].concat();
    let end = before.len() + text.len();
    let there = Uri::parse(&buf, Span::new(before.len(), end)).expect("it is a URI anywhere");
    let parts = |uri: &Uri, buf: &[u8]| {
        [uri.all, uri.user, uri.password, uri.host_span, uri.params, uri.headers].map(|span| span.of(buf).to_vec())
    };
    assert_eq!((parts(&there, &buf), there.port), (parts(uri, text), uri.port), "its place changes what it says");
}

fn lies_inside(text: &[u8], uri: &Uri) {
    let mut last = 0;
    for span in [uri.user, uri.password, uri.host_span, uri.params, uri.headers] {
        assert!(span.start <= span.end && usize::from(span.end) <= text.len());
        if !span.is_empty() {
            assert!(span.start >= last, "its parts stand in another order");
            last = span.end;
        }
    }
    assert!(uri.port != Some(0));
}

/// The canonical form of what has no escapes is its own.
fn canonical(text: &[u8], uri: &Uri) {
    let mut aor = Vec::new();
    uri.write_aor(text, &mut aor);
    if text.contains(&b'%') {
        return;
    }
    let again = Uri::parse(&aor, Span::new(0, aor.len())).expect("a canonical URI is one");
    let mut twice = Vec::new();
    again.write_aor(&aor, &mut twice);
    // A default port of sips is not one of sip.
    if again.port.is_none() || again.port == uri.port {
        assert_eq!(twice == aor, !(uri.port == Some(5060) && uri.scheme == hawser::sip::Scheme::Sips), "{aor:?}");
    }
}
