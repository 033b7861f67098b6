//! Whom clients want to reach: one of the well-behaved ones alone, and those that attackers ask for.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::good;

/// Its server accepts, reads, and says nothing.
pub(crate) const SILENT: &str = "silent.test";
/// Its server sends without end.
pub(crate) const POURING: &str = "pouring.test";

/// Running servers; they stop when dropped.
pub(crate) struct Upstreams {
    addresses: [(&'static str, SocketAddr); 3],
    _running: [oneshot::Sender<()>; 3],
}

impl Upstreams {
    pub(crate) fn start() -> Self {
        let (good, good_runs) = serve(echo);
        let (silent, silent_runs) = serve(listen);
        let (pouring, pouring_runs) = serve(pour);
        Self {
            addresses: [(good::NAME, good), (SILENT, silent), (POURING, pouring)],
            _running: [good_runs, silent_runs, pouring_runs],
        }
    }

    /// What leads to them, with all defaults but what `added` says.
    pub(crate) fn configuration(&self, added: &str) -> String {
        let routes = self.addresses.map(|(name, _)| format!("  - {{ server_names: [{name}], upstream: {name} }}\n"));
        let upstreams = self.addresses.map(|(name, address)| format!("  {name}: {{ endpoints: [\"{address}\"] }}\n"));
        format!(
            "workers: 2\nlisteners: [{{ address: \"127.0.0.1:0\", name: gate }}]\nroutes:\n{}upstreams:\n{}{added}\n",
            routes.concat(),
            upstreams.concat()
        )
    }
}

/// A server with a thread of its own.
fn serve<F>(script: fn(TcpStream) -> F) -> (SocketAddr, oneshot::Sender<()>)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (running, stopped) = oneshot::channel();
    thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let accept = async {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    tokio::spawn(script(stream));
                }
            };
            tokio::select! {
                () = accept => {}
                _ = stopped => {}
            }
        });
    });
    (address, running)
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; 4096];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            read => stream.write_all(&bytes[..read]).await?,
        }
    }
}

/// Holds on after the client's FIN until its connection breaks: it never sends one.
async fn listen(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; 4096];
    while stream.read(&mut bytes).await? > 0 {}
    stream.ready(tokio::io::Interest::ERROR).await?;
    Ok(())
}

async fn pour(mut stream: TcpStream) -> std::io::Result<()> {
    let bytes = vec![7; 64 * 1024];
    loop {
        stream.write_all(&bytes).await?;
    }
}
