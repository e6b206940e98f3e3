//! The thread, its listener, and the bounds of each connection.
//!
//! A connection begins at the door. A probe is answered there; any other request is let in to one of the places for
//! answers, or gets 503. When the door is full, of the address with the most connections there the one gives way that has
//! stood there longest: who only connects must not keep others out, and who asks for much or reads slowly, token or not,
//! must not keep probes out.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
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
use super::{Access, Source, tls};
use crate::limits::{
    ADMIN_ANSWERS_MAX, ADMIN_CONNECTION_MAX, ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_LEN_MAX, ADMIN_HEAD_MAX,
    ADMIN_QUESTIONS_MAX,
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

/// Serves HTTP on `listener` from a thread of its own until the result is dropped. Every request but those for `/`,
/// `/healthz` and `/readyz` must have what `access` asks for.
///
/// # Errors
/// When the listener cannot be made non-blocking, or the thread or its event loop cannot be made.
pub fn start<S: Source>(listener: TcpListener, source: S, access: Access) -> io::Result<Admin> {
    run(listener, source, Access { tls: false, ..access }, None)
}

/// The HTTP port as HTTPS, with the certificates of a SIP port.
///
/// # Errors
/// As of [`start`].
pub fn start_tls<S: Source>(listener: TcpListener, source: S, access: Access, sip: &ServerConfig) -> io::Result<Admin> {
    let config = tls::like(sip).map_err(io::Error::other)?;
    run(listener, source, Access { tls: true, ..access }, Some(config.into()))
}

fn run<S: Source>(listener: TcpListener, source: S, access: Access, tls: Option<TlsAcceptor>) -> io::Result<Admin> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(ADMIN_QUESTIONS_MAX)
        .thread_name("hawser-ask")
        .build()?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let (stop, stopped) = oneshot::channel();
    let router = Arc::new(Router::new(source, access));
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
    let door = Arc::new(Door::default());
    let answers = Arc::new(Semaphore::new(ADMIN_ANSWERS_MAX));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, tls, answers) = (Arc::clone(&router), tls.clone(), Arc::clone(&answers));
        let at_door = door.come(peer.ip());
        tokio::spawn(async move {
            let gives_way = Arc::clone(&at_door.gives_way);
            let served = async {
                match tls {
                    None => serve(stream, &router, &at_door, &answers).await,
                    Some(tls) => {
                        // A handshake has as long as a request's head.
                        if let Ok(Ok(stream)) = tokio::time::timeout(ADMIN_HEAD_MAX, tls.accept(stream)).await {
                            serve(stream, &router, &at_door, &answers).await;
                        }
                    }
                }
            };
            tokio::select! {
                _ = tokio::time::timeout(ADMIN_CONNECTION_MAX, served) => {}
                () = gives_way.notified() => {}
            }
        });
        // What it has sent already is read before others come: however many do, none gives way unheard.
        tokio::task::yield_now().await;
    }
}

/// The connections whose request is still to come or is a probe, the oldest first.
#[derive(Debug, Default)]
struct Door(Mutex<VecDeque<(IpAddr, Arc<Notify>)>>);

impl Door {
    /// One more comes; if there is no place, the oldest of the address that has the most gives way.
    fn come(self: &Arc<Self>, from: IpAddr) -> AtDoor {
        let gives_way = Arc::new(Notify::new());
        let mut all = self.lock();
        all.push_back((from, Arc::clone(&gives_way)));
        if all.len() > ADMIN_CONNECTIONS_MAX {
            let of_address = |at: usize| all.iter().filter(|(from, _)| *from == all[at].0).count();
            let at = (0..all.len()).max_by_key(|at| (of_address(*at), Reverse(*at)));
            at.and_then(|at| all.remove(at)).into_iter().for_each(|(_, oldest)| oldest.notify_one());
        }
        drop(all);
        AtDoor { door: Arc::clone(self), gives_way }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(IpAddr, Arc<Notify>)>> {
        // What the lock guards is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place there.
#[derive(Debug)]
struct AtDoor {
    door: Arc<Door>,
    gives_way: Arc<Notify>,
}

impl AtDoor {
    /// A connection is let in, or ends.
    fn leave(&self) {
        self.door.lock().retain(|(_, other)| !Arc::ptr_eq(other, &self.gives_way));
    }
}

impl Drop for AtDoor {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Answers one request. What goes wrong on one of these connections is its client's matter; the answers are counted.
async fn serve<S: Source>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: &Arc<Router<S>>,
    at_door: &AtDoor,
    answers: &Arc<Semaphore>,
) {
    // Kept until the answer has been read: who reads slowly takes one of these places, and never a probe's.
    let place = OnceLock::new();
    let service = service_fn(|request| {
        let is_let_in = Router::<S>::is_probe(&request) || {
            let free = Arc::clone(answers).try_acquire_owned().ok();
            free.is_some_and(|free| {
                at_door.leave();
                place.set(free).is_ok()
            })
        };
        let router = Arc::clone(router);
        async move {
            Ok::<_, std::convert::Infallible>(if is_let_in { router.answer(&request).await } else { router.busy() })
        }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEAD_MAX)
        .max_buf_size(ADMIN_HEAD_LEN_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::super::tests::fake;
    use super::*;

    #[test]
    fn a_request_without_a_place_gets_503_and_a_probe_needs_none() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let router = Arc::new(Router::new(fake(), Access::default()));
        for (path, line) in [("/stats", "HTTP/1.1 503 "), ("/healthz", "HTTP/1.1 200 "), ("/readyz", "HTTP/1.1 200 ")] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            client.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).unwrap();
            runtime.block_on(async {
                let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                let door = Arc::new(Door::default());
                serve(stream, &router, &door.come(IpAddr::from([127, 0, 0, 1])), &Arc::new(Semaphore::new(0))).await;
                assert!(door.lock().is_empty());
            });
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(line), "{path}: {answer}");
        }
    }

    #[test]
    fn the_oldest_of_the_address_with_the_most_gives_way_at_a_full_door() {
        let door = Arc::new(Door::default());
        let probe = door.come(IpAddr::from([192, 0, 2, 1]));
        let all: Vec<_> = (0..ADMIN_CONNECTIONS_MAX).map(|_| door.come(IpAddr::from([192, 0, 2, 9]))).collect();
        assert_eq!(door.lock().len(), ADMIN_CONNECTIONS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // One that must go on hears nothing.
        runtime.block_on(async {
            all[0].gives_way.notified().await;
            let others = std::future::poll_fn(|cx| {
                let mut stays = [&probe, &all[1]].into_iter();
                let all_stay = stays.all(|one| std::pin::pin!(one.gives_way.notified()).poll(cx).is_pending());
                std::task::Poll::Ready(all_stay)
            });
            assert!(others.await);
        });
        drop((probe, all));
        assert!(door.lock().is_empty());
    }
}
