//! The thread, its listener, and the bounds of each connection.
//!
//! When all places are taken, whoever has waited longest without having sent the head of its request gives way: who
//! only connects, token or not, must not keep probes and scrapes out.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;

use super::route::Router;
use super::{Source, Token, tls};
use crate::limits::{
    ADMIN_CONNECTION_MAX, ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_LEN_MAX, ADMIN_HEAD_MAX, ADMIN_QUESTIONS_MAX,
};

/// How long to wait after the system would not hand over a connection (no descriptor left): at once again would
/// only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// The address and port that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // The receiver is gone only when the thread has ended, and then there is nothing to stop.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened; to raise it again in a drop would abort.
            let _ = thread.join();
        }
    }
}

/// Serves HTTP on `listener` from a thread of its own until the result is dropped. With a token, every request
/// but those for `/`, `/healthz` and `/readyz` must carry it.
///
/// # Errors
/// When the listener cannot be made non-blocking, or the thread or its event loop cannot be made.
pub fn start<S: Source>(listener: TcpListener, source: S, token: Option<Token>) -> io::Result<Admin> {
    run(listener, source, token, None)
}

/// The same as HTTPS, with the certificates of a SIP port.
///
/// # Errors
/// As of [`start`].
pub fn start_tls<S: Source>(
    listener: TcpListener,
    source: S,
    token: Option<Token>,
    sip: &ServerConfig,
) -> io::Result<Admin> {
    let config = tls::like(sip).map_err(io::Error::other)?;
    run(listener, source, token, Some(config.into()))
}

fn run<S: Source>(
    listener: TcpListener,
    source: S,
    token: Option<Token>,
    tls: Option<TlsAcceptor>,
) -> io::Result<Admin> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // And one for what an answer can do without.
        .max_blocking_threads(ADMIN_QUESTIONS_MAX + 1)
        .thread_name("hawser-ask")
        .build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let (stop, stopped) = oneshot::channel();
    let router = Arc::new(Router::new(source, token));
    let thread = std::thread::Builder::new().name("hawser-admin".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, router, tls) => {}
                _ = stopped => {}
            }
        });
        // A question that a shard never answers must not hold up the end.
        runtime.shutdown_background();
    })?;
    Ok(Admin { address, stop: Some(stop), thread: Some(thread) })
}

async fn accept<S: Source>(listener: tokio::net::TcpListener, router: Arc<Router<S>>, tls: Option<TlsAcceptor>) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    let headless = Arc::new(Headless::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let free = Arc::clone(&places).try_acquire_owned();
        let place = match free {
            Ok(place) => place,
            Err(_) => {
                headless.oldest_gives_way();
                // Where all are being answered, further ones wait in the listener's queue, and each place is free
                // again after `ADMIN_CONNECTION_MAX` at the latest.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                place
            }
        };
        let (router, tls) = (Arc::clone(&router), tls.clone());
        let waits = headless.add();
        tokio::spawn(async move {
            let _place = place;
            let gives_way = Arc::clone(&waits.gives_way);
            let served = async {
                match tls {
                    None => serve(stream, &router, &waits).await,
                    Some(tls) => {
                        // A handshake has as long as a request's head.
                        if let Ok(Ok(stream)) = tokio::time::timeout(ADMIN_HEAD_MAX, tls.accept(stream)).await {
                            serve(stream, &router, &waits).await;
                        }
                    }
                }
            };
            tokio::select! {
                _ = tokio::time::timeout(ADMIN_CONNECTION_MAX, served) => {}
                () = gives_way.notified() => {}
            }
        });
    }
}

/// The connections whose request is still to come, the oldest first.
#[derive(Debug, Default)]
struct Headless(Mutex<VecDeque<Arc<Notify>>>);

impl Headless {
    fn add(self: &Arc<Self>) -> Waits {
        let gives_way = Arc::new(Notify::new());
        self.lock().push_back(Arc::clone(&gives_way));
        Waits { among: Arc::clone(self), gives_way }
    }

    fn oldest_gives_way(&self) {
        if let Some(oldest) = self.lock().pop_front() {
            oldest.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Notify>>> {
        // It is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among them.
#[derive(Debug)]
struct Waits {
    among: Arc<Headless>,
    gives_way: Arc<Notify>,
}

impl Waits {
    /// Its request is there.
    fn end(&self) {
        self.among.lock().retain(|other| !Arc::ptr_eq(other, &self.gives_way));
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers one request. What goes wrong on one of these connections is its client's matter; the answers are counted.
async fn serve<S: Source>(stream: impl AsyncRead + AsyncWrite + Unpin, router: &Arc<Router<S>>, waits: &Waits) {
    let service = service_fn(|request| {
        waits.end();
        let router = Arc::clone(router);
        async move { Ok::<_, std::convert::Infallible>(router.answer(&request).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEAD_MAX)
        .max_buf_size(ADMIN_HEAD_LEN_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
