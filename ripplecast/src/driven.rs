//! A connection whose socket can't be taken: TLS, HTTP/2, a server of a kind of its own, an event stream in hyper.
//!
//! It is put beside a socket pair: the shard has one end and treats it like any socket, with the same outbox and the same
//! rules; the other end is driven by tokio. The price, measured, is in `docs/performance.md`.

use std::{
    io,
    net::TcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy},
    net::UnixStream,
    time::timeout,
};

/// Time that a peer has to close its side after we have closed ours.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes read from the shard at once, for an event stream's body.
const CHUNK: usize = 16 << 10;

/// A pair: the end for the shard, and the end for tokio.
fn pair() -> io::Result<(TcpStream, UnixStream)> {
    let (shard, driven) = StdUnixStream::pair()?;
    shard.set_nonblocking(true)?;
    driven.set_nonblocking(true)?;
    // Only reads, writes and shutdowns are done with it, which all stream sockets have.
    Ok((TcpStream::from(OwnedFd::from(shard)), UnixStream::from_std(driven)?))
}

/// Carries bytes between `stream` and the socket that is returned, in a task of its own, until both sides have closed.
pub(crate) fn drive(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<TcpStream> {
    let (shard, driven) = pair()?;
    tokio::spawn(async move {
        let (mut from_peer, mut to_peer) = tokio::io::split(stream);
        let (mut from_shard, mut to_shard) = driven.into_split();
        let out = async {
            let _ = copy(&mut from_shard, &mut to_peer).await; // an error is the end as well
            let _ = to_peer.shutdown().await;
        };
        let input = async {
            let _ = copy(&mut from_peer, &mut to_shard).await;
            let _ = to_shard.shutdown().await;
        };
        let (mut out, mut input) = (std::pin::pin!(out), std::pin::pin!(input));
        tokio::select! {
            () = &mut out => { let _ = timeout(LINGER, input).await; }
            () = &mut input => { let _ = timeout(LINGER, out).await; }
        }
    });
    Ok(shard)
}

/// A response body that yields what the shard writes to the socket that is returned. When the client goes, the body is
/// dropped, and the shard sees its socket closed.
pub(crate) fn body() -> io::Result<(TcpStream, axum::body::Body)> {
    let (shard, driven) = pair()?;
    let chunks = futures_util::stream::try_unfold(driven, |mut driven| async move {
        // The buffer is made when there is something to read, so that an idle stream holds none.
        driven.readable().await?;
        let mut chunk = Vec::with_capacity(CHUNK);
        if driven.read_buf(&mut chunk).await? == 0 {
            return Ok::<_, io::Error>(None);
        }
        Ok(Some((Bytes::from(chunk), driven)))
    });
    Ok((shard, axum::body::Body::from_stream(chunks)))
}
