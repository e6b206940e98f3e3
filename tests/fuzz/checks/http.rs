//! A request to the HTTP port. Input: flags, then as lines the request's method and target, Host, Origin and Accept.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hawser::abuse::{self, BanRow};
use hawser::admin::route::Router;
use hawser::admin::{About, Access, Readiness, Source, TlsFiles, Token};
use hawser::engine::Located;
use hawser::server_pool::{Member, PinFault};
use hawser::stats::{PairRow, Snapshot};
use hyper::body::Body as _;
use hyper::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request};

use super::parts::Front;

/// Who is asked, and what for.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Question>>>);

#[derive(Debug)]
enum Question {
    Where(String),
    Pin(String, Option<Member>),
    Unban,
    Numbers,
}

impl Asked {
    fn note(&self, question: Question) {
        self.0.lock().expect("no check panics with it").push(question);
    }
}

impl Source for Asked {
    fn snapshots(&self) -> Vec<Snapshot> {
        self.note(Question::Numbers);
        vec![Snapshot::default()]
    }

    fn locate(&self, aor: &str) -> Option<Vec<Located>> {
        self.note(Question::Where(aor.to_owned()));
        Some(Vec::new())
    }

    fn pairs(&self) -> Option<Vec<PairRow>> {
        self.note(Question::Numbers);
        Some(Vec::new())
    }

    fn pin(&self, pair: &str, member: Option<Member>) -> Option<Result<(), PinFault>> {
        self.note(Question::Pin(pair.to_owned(), member));
        Some(Ok(()))
    }

    fn bans(&self) -> Option<Vec<BanRow>> {
        self.note(Question::Numbers);
        Some(Vec::new())
    }

    fn unban(&self, address: abuse::Source) -> Option<bool> {
        self.note(Question::Unban);
        Some(address.ip().is_ipv4())
    }

    fn running(&self) -> (usize, usize) {
        (1, 1)
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn pairs_answering(&self) -> Option<(usize, usize)> {
        None
    }

    fn about(&self) -> About {
        About {
            version: "0".to_owned(),
            uptime: Duration::ZERO,
            driver: "epoll".to_owned(),
            shards: 1,
            listeners: Vec::new(),
            server: "sips1".to_owned(),
            sticky: "path".to_owned(),
            tls_files: TlsFiles::default(),
            log_lost: 0,
        }
    }
}

const TOKEN: &str = "s3cret-of-the-operator";

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let flags = front.byte();
    let mut lines = front.0.split(|byte| *byte == b'\n');
    let (first, host) = (lines.next().unwrap_or_default(), lines.next());
    let (origin, accept) = (lines.next(), lines.next());
    let (method, target) = first.split_at(memchr(first));
    let mut request = Request::builder().method(method).uri(target.get(1..).unwrap_or_default());
    for (name, value) in [(HOST, host), (ORIGIN, origin), (ACCEPT, accept)] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            request = request.header(name, value);
        }
    }
    let (needs_token, shows_token) = (flags & 1 != 0, flags & 2 != 0);
    if shows_token {
        request = request.header(AUTHORIZATION, format!("Bearer {TOKEN}"));
    }
    let Ok(request) = request.body(()) else { return };
    let token = needs_token.then(|| Token::new(TOKEN)).flatten();
    let asked = Asked::default();
    let access = Access { token, names: vec!["proxy.example.com".to_owned()], tls: flags & 4 != 0 };
    let router = Router::new(asked.clone(), access);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let answer = runtime.block_on(router.answer(&request));
    let status = answer.status().as_u16();
    assert!(matches!(status, 200 | 400 | 401 | 403 | 404 | 405 | 421), "{status}");
    assert_eq!(answer.headers().get(CACHE_CONTROL).map(|value| value.as_bytes()), Some(&b"no-store"[..]));
    assert!(answer.headers().contains_key(X_CONTENT_TYPE_OPTIONS));
    assert!(answer.body().size_hint().exact().is_some_and(|len| len < 1 << 20));
    let asked = asked.0.lock().expect("no check panics with it");
    assert!(asked.is_empty() || !needs_token || shows_token, "asked without the token: {asked:?}");
    assert!(asked.is_empty() || status == 200 || status == 404, "{status} after {asked:?}");
    asked.iter().for_each(|question| is_fair(question, &request));
}

/// Where the first space is, or the end.
fn memchr(line: &[u8]) -> usize {
    line.iter().position(|byte| *byte == b' ').unwrap_or(line.len())
}

/// Only POST changes anything, and what goes on to the shards is clean.
fn is_fair(question: &Question, request: &Request<()>) {
    if matches!(question, Question::Pin(..) | Question::Unban) {
        assert_eq!(*request.method(), Method::POST);
        assert!(request.headers().get(ORIGIN).is_none_or(|origin| origin.as_bytes().starts_with(b"http")));
    }
    match question {
        Question::Unban => assert_eq!(request.uri().path(), "/unban"),
        Question::Pin(pair, member) => {
            assert!(request.uri().path().ends_with(if member.is_some() { "/pin" } else { "/release" }), "{pair}");
        }
        Question::Where(aor) => {
            assert!(matches!(*request.method(), Method::GET | Method::HEAD));
            assert!(!aor.chars().any(char::is_control), "{aor:?}");
            assert!(["sip:", "sips:", "tel:"].iter().any(|scheme| aor.starts_with(scheme)), "{aor:?}");
        }
        Question::Numbers => assert!(matches!(*request.method(), Method::GET | Method::HEAD)),
    }
}
