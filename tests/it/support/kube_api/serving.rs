//! The running half of the stand-in: one thread that accepts, speaks TLS and HTTP, and names the client.

use super::{SeenRequest, State, answers};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The server's thread; dropping it closes the listener and every connection before it returns.
pub(super) struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    pub(super) fn start(listener: TcpListener, tls: Arc<ServerConfig>, state: Arc<Mutex<State>>) -> Self {
        listener.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, TlsAcceptor::from(tls), state) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed by its thread; the test fails by what it then misses.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, state: Arc<Mutex<State>>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            match tls.accept(client).await {
                Ok(client) => serve(client, &state).await,
                Err(error) => eprintln!("Kubernetes API: no TLS with a client: {error}"),
            }
        });
    }
}

/// One connection; its errors are the client going away, which is its right.
async fn serve(client: TlsStream<TcpStream>, state: &Mutex<State>) {
    let session = client.get_ref().1;
    let user = session.peer_certificates().and_then(|chain| common_name(&chain[0])).unwrap_or_default();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(|request| {
        let response = answer(&request, &user, &mut state.lock().unwrap());
        async { Ok::<_, Infallible>(response) }
    });
    let client = TokioIo::new(client);
    let _ = if http2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(client, service).await
    } else {
        http1::Builder::new().serve_connection(client, service).await
    };
}

/// Records and answers in one go: who waited for a request can rely on its answer having begun.
fn answer(request: &Request<Incoming>, user: &str, state: &mut State) -> Response<Chunks> {
    state.requests.push(SeenRequest {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
        user: user.to_owned(),
        version: request.version(),
    });
    answers::answer(request, state)
}

/// A response body: what comes through a channel until its last sender goes.
pub(super) struct Chunks(pub(super) mpsc::UnboundedReceiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The subject's common name. In X.509 the subject stands behind the issuer, so the last common name is the one.
fn common_name(certificate: &[u8]) -> Option<String> {
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03]; // OID 2.5.4.3
    let end = certificate.windows(COMMON_NAME.len()).rposition(|window| window == COMMON_NAME)? + COMMON_NAME.len();
    let (&[_tag, length], text) = certificate[end..].split_first_chunk()?; // 64 characters at most: a length of one byte
    String::from_utf8(text.get(..usize::from(length))?.to_vec()).ok()
}
