//! The resolver's sockets, timers and tasks on tokio. hickory-resolver has its own, but brings tokio's threaded runtime
//! along with it, and with that compiled in every socket is larger, those of idle connections too.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

/// The runtime that polls the resolver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokio;

type BoxFuture<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl RuntimeProvider for Tokio {
    type Handle = Self;
    type Timer = Self;
    type Udp = Datagrams;
    type Tcp = Stream;

    fn create_handle(&self) -> Self {
        *self
    }

    fn connect_tcp(&self, server: SocketAddr, own: Option<SocketAddr>, limit: Option<Duration>) -> BoxFuture<Stream> {
        Box::pin(async move {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(own) = own {
                socket.bind(own)?;
            }
            socket.set_nodelay(true)?;
            let connected = timeout(limit.unwrap_or(Duration::MAX), socket.connect(server)).await??;
            Ok(Stream(connected))
        })
    }

    fn bind_udp(&self, own: SocketAddr, _: SocketAddr) -> BoxFuture<Datagrams> {
        Box::pin(async move { UdpSocket::bind(own).await.map(Datagrams) })
    }
}

impl Spawn for Tokio {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(future);
    }
}

#[async_trait]
impl Time for Tokio {
    async fn delay_for(duration: Duration) {
        sleep(duration).await;
    }

    async fn timeout<F: 'static + Future + Send>(duration: Duration, future: F) -> io::Result<F::Output> {
        Ok(timeout(duration, future).await?)
    }
}

pub(super) struct Datagrams(UdpSocket);

impl DnsUdpSocket for Datagrams {
    type Time = Tokio;

    fn poll_recv_from(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let source = ready!(self.0.poll_recv_from(context, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), source)))
    }

    fn poll_send_to(&self, context: &mut Context<'_>, bytes: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(context, bytes, to)
    }
}

pub(super) struct Stream(TcpStream);

impl DnsTcpStream for Stream {
    type Time = Tokio;
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
