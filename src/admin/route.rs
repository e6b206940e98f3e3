//! Which answer a request gets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use super::control::{self, Action, percent_decoded};
use super::metrics::{self, Format, Scrape};
use super::process::Process;
use super::{Access, Readiness, Source, page, stats, upstreams};
use crate::limits::{ADMIN_ANSWER_MAX, ADMIN_QUESTIONS_MAX};
use crate::server_pool::{Member, PinFault};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// What a request gets.
pub type Answer = Response<Full<Bytes>>;

/// The source, with a bound on how many may ask it at once.
pub struct Router<S> {
    source: Arc<S>,
    access: Access,
    questions: Arc<Semaphore>,
    /// Answers so far by status; only this thread takes the lock, and never across an await.
    answers: Mutex<BTreeMap<u16, u64>>,
}

impl<S: Source> Router<S> {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(source: S, access: Access) -> Self {
        Self {
            source: Arc::new(source),
            access,
            questions: Arc::new(Semaphore::new(ADMIN_QUESTIONS_MAX)),
            answers: Mutex::default(),
        }
    }

    /// Answers one request; its body, if any, is not read.
    pub async fn answer<B>(&self, request: &Request<B>) -> Answer {
        self.counted(self.route(request).await)
    }

    /// Answers a request for which there is no place.
    pub(super) fn busy(&self) -> Answer {
        self.counted(plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being answered\n"))
    }

    fn counted(&self, answer: Answer) -> Answer {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry(answer.status().as_u16()).or_default() += 1;
        answer
    }

    async fn route<B>(&self, request: &Request<B>) -> Answer {
        let path = request.uri().path();
        if let Some((pair, action)) = control::of_path(path) {
            return self.control(request, pair, action).await;
        }
        if path == "/unban" {
            return self.unban(request).await;
        }
        if !matches!(path, "/" | "/metrics" | "/stats" | "/servers" | "/where" | "/bans" | "/healthz" | "/readyz") {
            let pages = "no such page: / /metrics /stats /servers /where /bans /healthz /readyz\n";
            return plain(StatusCode::NOT_FOUND, pages);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let answer = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            return with(answer, ALLOW, "GET, HEAD");
        }
        // The page holds no numbers, and probes seldom carry a token and learn one word.
        if !matches!(path, "/" | "/healthz" | "/readyz")
            && let Some(refused) = self.refused(request.headers())
        {
            return refused;
        }
        match path {
            "/" => with(answer(StatusCode::OK, HTML, page::PAGE), CONTENT_SECURITY_POLICY, page::POLICY),
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                self.metrics(Format::asked(accept)).await
            }
            "/stats" => self.stats().await,
            "/servers" => self.servers().await,
            "/bans" => self.bans().await,
            "/where" => self.bindings(request.uri().query()).await,
            "/healthz" => self.health(),
            _ => self.readiness(),
        }
    }

    /// Why this request gets no numbers and changes nothing, if so.
    fn refused(&self, headers: &HeaderMap) -> Option<Answer> {
        if !self.access.has_token(headers) {
            let answer = plain(StatusCode::UNAUTHORIZED, "a bearer token is needed\n");
            return Some(with(answer, WWW_AUTHENTICATE, "Bearer realm=\"hawser\""));
        }
        // RFC 9110 §15.5.20.
        let stranger = "Host is no address, and no name of this proxy (domains, external-address, advertise)\n";
        (!self.access.is_meant(headers)).then(|| plain(StatusCode::MISDIRECTED_REQUEST, stranger))
    }

    /// Why this request changes nothing, if so.
    fn refused_change<B>(&self, request: &Request<B>) -> Option<Answer> {
        if *request.method() != Method::POST {
            return Some(with(fault(StatusCode::METHOD_NOT_ALLOWED, "POST"), ALLOW, "POST"));
        }
        let is_own = self.access.is_own(request.headers());
        let foreign = || fault(StatusCode::FORBIDDEN, "a page of another origin may not ask for this");
        self.refused(request.headers()).or_else(|| (!is_own).then(foreign))
    }

    /// Lets an address in again.
    async fn unban<B>(&self, request: &Request<B>) -> Answer {
        if let Some(refused) = self.refused_change(request) {
            return refused;
        }
        let Some(address) = control::address_of(request.uri().query().unwrap_or_default()) else {
            return fault(StatusCode::BAD_REQUEST, "which? /unban?address=192.0.2.1");
        };
        match self.ask(move |source| source.unban(address)).await.flatten() {
            Some(true) => answer(StatusCode::OK, JSON, json!({ "address": address.to_string() }).to_string()),
            Some(false) => fault(StatusCode::NOT_FOUND, "it is not shut out"),
            None => no_answer(),
        }
    }

    async fn bans(&self) -> Answer {
        match self.ask(Source::bans).await.flatten() {
            Some(bans) => answer(StatusCode::OK, JSON, stats::bans(&bans).to_string()),
            None => no_answer(),
        }
    }

    /// Pins and releases. Answers are JSON, with `error` when nothing was done.
    async fn control<B>(&self, request: &Request<B>, pair: &str, action: Action) -> Answer {
        if let Some(refused) = self.refused_change(request) {
            return refused;
        }
        let Some(pair) = percent_decoded(pair) else {
            return fault(StatusCode::BAD_REQUEST, "the name of the pair is not well escaped");
        };
        let member = match (action, control::member_of(request.uri().query())) {
            (Action::Pin, None) => return fault(StatusCode::BAD_REQUEST, "which? member=primary or member=backup"),
            (Action::Pin, member) => member,
            (Action::Release, _) => None,
        };
        let name = pair.clone();
        match self.ask(move |source| source.pin(&name, member)).await.flatten() {
            Some(Ok(())) => {
                answer(StatusCode::OK, JSON, json!({ "name": pair, "pinned": member.map(Member::name) }).to_string())
            }
            Some(Err(PinFault::Pair)) => fault(StatusCode::NOT_FOUND, "there is no pair of this name"),
            Some(Err(PinFault::Member)) => fault(StatusCode::NOT_FOUND, "the pair has no backup"),
            None => no_answer(),
        }
    }

    async fn metrics(&self, format: Format) -> Answer {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect();
        let asked = self.ask(move |source| {
            let mut snapshots = source.snapshots();
            snapshots.sort_by_key(|snapshot| snapshot.shard);
            let (about, readiness) = (source.about(), source.readiness());
            let scrape = Scrape { about, readiness, snapshots, process: Process::read(), answers };
            metrics::encode(scrape, format).ok()
        });
        match asked.await.flatten() {
            Some(text) => answer(StatusCode::OK, format.content_type(), text),
            None => no_answer(),
        }
    }

    async fn stats(&self) -> Answer {
        let asked = self.ask(|source| {
            let mut snapshots = source.snapshots();
            snapshots.sort_by_key(|snapshot| snapshot.shard);
            stats::stats(&source.about(), &source.readiness(), &snapshots).to_string()
        });
        match asked.await {
            Some(text) => answer(StatusCode::OK, JSON, text),
            None => no_answer(),
        }
    }

    async fn bindings(&self, query: Option<&str>) -> Answer {
        let Some(aor) = query.and_then(aor_of) else {
            return plain(StatusCode::BAD_REQUEST, "which? /where?aor=sip:alice@example.com\n");
        };
        match self.ask(move |source| source.locate(&aor)).await.flatten() {
            Some(located) => {
                let status = if located.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
                answer(status, JSON, stats::bindings(&located).to_string())
            }
            None => no_answer(),
        }
    }

    /// Whether a request is a probe, which costs no shard anything and is answered at once.
    pub(super) fn is_probe<B>(request: &Request<B>) -> bool {
        matches!(request.uri().path(), "/healthz" | "/readyz")
    }

    fn health(&self) -> Answer {
        match self.source.running() {
            (running, all) if running >= all => plain(StatusCode::OK, "ok\n"),
            (running, all) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{running} of {all} shards run\n")),
        }
    }

    fn readiness(&self) -> Answer {
        let (status, text) = match self.source.readiness() {
            Readiness::Ready => (StatusCode::OK, "ready".to_owned()),
            Readiness::Not(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        };
        // Whether a server answers makes no proxy more ready than another one.
        let pairs = upstreams::summary(self.source.pairs_answering());
        plain(status, format!("{text}\n{pairs}\n"))
    }

    async fn servers(&self) -> Answer {
        match self.ask(Source::pairs).await.flatten() {
            Some(pairs) => answer(StatusCode::OK, JSON, upstreams::pairs(&pairs).to_string()),
            None => no_answer(),
        }
    }

    /// Asks the source on a thread where it may block. `None` when the answer takes too long, when too many
    /// wait already, or when the question panicked.
    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&S) -> T + Send + 'static) -> Option<T> {
        let place = Arc::clone(&self.questions).try_acquire_owned().ok()?;
        let source = Arc::clone(&self.source);
        let asked = tokio::task::spawn_blocking(move || {
            // Held until the question has really ended: one that hangs keeps its place after its asker has gone.
            let _place = place;
            question(&source)
        });
        tokio::time::timeout(ADMIN_ANSWER_MAX, asked).await.ok()?.ok()
    }
}

fn no_answer() -> Answer {
    plain(StatusCode::SERVICE_UNAVAILABLE, "a shard did not answer in time\n")
}

/// Why nothing was done.
fn fault(status: StatusCode, what: &str) -> Answer {
    answer(status, JSON, json!({ "error": what }).to_string())
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, TEXT, text)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let answer = with(answer, CONTENT_TYPE, content_type);
    let answer = with(answer, CACHE_CONTROL, "no-store");
    with(answer, X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

/// The `aor` parameter of a query as a SIP URI: `sip:` is added when it has no scheme. A plus sign is one (it
/// begins telephone numbers), not a space.
fn aor_of(query: &str) -> Option<String> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix("aor="))?;
    let aor = percent_decoded(raw)?;
    if aor.is_empty() || aor.chars().any(char::is_control) {
        return None;
    }
    let scheme = ["sip:", "sips:", "tel:"]
        .into_iter()
        .find(|scheme| aor.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    // Schemes compare without regard to case (RFC 3261 §19.1.4); one spelling is passed on.
    Some(match scheme {
        Some(scheme) => format!("{scheme}{}", &aor[scheme.len()..]),
        None => format!("sip:{aor}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aor_is_taken_with_and_without_its_scheme() {
        for query in ["aor=sip:alice@example.com", "aor=alice@example.com", "x=1&aor=sip%3Aalice%40example.com"] {
            assert_eq!(aor_of(query).as_deref(), Some("sip:alice@example.com"), "{query}");
        }
        assert_eq!(aor_of("aor=SIPS:alice@example.com").as_deref(), Some("sips:alice@example.com"));
        assert_eq!(aor_of("aor=+4930123@example.com").as_deref(), Some("sip:+4930123@example.com"));
        assert_eq!(aor_of("aor=[2001:db8::1]").as_deref(), Some("sip:[2001:db8::1]"));
    }

    #[test]
    fn what_is_no_aor_is_refused() {
        for query in ["", "aor=", "aor", "who=alice", "aor=%4", "aor=%zz", "aor=a%0d%0ab", "aor=%ff"] {
            assert_eq!(aor_of(query), None, "{query}");
        }
    }
}
