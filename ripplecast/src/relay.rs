//! Relays a connection whose socket can't be handed off: TLS, a custom server, an event stream in hyper.
//!
//! The relay uses a socket pair. The shard holds one end and treats it like any socket, with the same outbox
//! and the same rules; a tokio task serves the other end. `docs/tls.md` and `docs/performance.md` have the
//! measured cost.

use std::{
    io,
    mem::MaybeUninit,
    net::TcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf, Ready},
    net::UnixStream,
    time::{Sleep, sleep},
};

/// Time for the peer to close its side after we have closed ours, and vice versa.
const LINGER: Duration = Duration::from_secs(5);
/// Time for the peer to read what was sent before its shard closed the socket: what the socket pair and TLS
/// hold, some 300 KiB, on a poor connection.
const FAREWELL: Duration = Duration::from_secs(30);
/// Interval of checks whether the shard has dropped a stalled peer.
const STALL_CHECK: Duration = Duration::from_secs(5);
/// Bytes per read, from either side: the maximum of a TLS record.
const CHUNK: usize = 16 << 10;

/// Creates a socket pair: the shard's end and tokio's end.
fn pair() -> io::Result<(TcpStream, UnixStream)> {
    let (shard, near) = StdUnixStream::pair()?;
    shard.set_nonblocking(true)?;
    near.set_nonblocking(true)?;
    // Only reads, writes and shutdowns are used, which all stream sockets support.
    Ok((TcpStream::from(OwnedFd::from(shard)), UnixStream::from_std(near)?))
}

/// Relays bytes between `stream` and the returned socket, in its own task, until both sides have closed.
///
/// A chunk is read only after the previous one has been written, so backpressure works in both directions:
/// what a slow peer does not read fills the socket pair and then its outbox, and what a busy shard does not
/// read stays with the peer.
pub(crate) fn relay(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<TcpStream> {
    let (shard, near) = pair()?;
    tokio::spawn(async move {
        let mut stream = pin!(stream);
        let mut relay = Relay {
            shard: near,
            out: RelayDirection::default(),
            input: RelayDirection::default(),
            deadline: None,
        };
        std::future::poll_fn(|cx| relay.poll(cx, stream.as_mut())).await;
    });
    Ok(shard)
}

/// Relays bytes between a peer's stream and its shard.
struct Relay {
    /// The relay's end of the socket pair.
    shard: UnixStream,
    /// From the shard to the peer.
    out: RelayDirection,
    /// From the peer to the shard.
    input: RelayDirection,
    /// An idle connection has no time limit.
    deadline: Option<Deadline>,
}

/// A time limit that has begun.
struct Deadline {
    kind: DeadlineKind,
    over: Pin<Box<Sleep>>,
}

/// The purpose of a time limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DeadlineKind {
    /// The peer reads nothing: check regularly whether the shard has dropped it.
    StallCheck,
    /// The shard has dropped a peer that reads nothing.
    Farewell,
    /// One side has closed.
    Linger,
}

impl Deadline {
    /// Starts a limit now.
    fn begin(kind: DeadlineKind) -> Self {
        let time = match kind {
            DeadlineKind::StallCheck => STALL_CHECK,
            DeadlineKind::Farewell => FAREWELL,
            DeadlineKind::Linger => LINGER,
        };
        Self { kind, over: Box::pin(sleep(time)) }
    }

    /// Returns whether the shard is known to have dropped the peer.
    fn is_farewell(&self) -> bool {
        self.kind == DeadlineKind::Farewell
    }
}

impl Relay {
    /// Relays what is available. Ready when both sides have closed or a limit has expired.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut (impl AsyncRead + AsyncWrite)>,
    ) -> Poll<()> {
        let out = self.out.poll(cx, Pin::new(&mut self.shard), stream.as_mut()).is_ready();
        let input = self.input.poll(cx, stream, Pin::new(&mut self.shard)).is_ready();
        if out && input {
            return Poll::Ready(());
        }
        let ended = out || input || self.out.stage == Stage::Discarding;
        loop {
            let gone = self.input.stage == Stage::Discarding
                || self.deadline.as_ref().is_some_and(Deadline::is_farewell);
            let kind = match (ended, self.out.is_blocked()) {
                (true, _) => DeadlineKind::Linger,
                (false, true) if gone => DeadlineKind::Farewell,
                (false, true) => DeadlineKind::StallCheck,
                (false, false) => {
                    self.deadline = None;
                    return Poll::Pending;
                }
            };
            let running = self.deadline.take().filter(|deadline| deadline.kind == kind);
            let deadline = self.deadline.insert(running.unwrap_or_else(|| Deadline::begin(kind)));
            ready!(deadline.over.as_mut().poll(cx));
            if kind != DeadlineKind::StallCheck {
                return Poll::Ready(());
            }
            self.deadline = is_gone(&self.shard).then(|| Deadline::begin(DeadlineKind::Farewell));
        }
    }
}

/// Returns whether the other end of the pair is closed. Bytes written before may still be unread.
fn is_gone(shard: &UnixStream) -> bool {
    let ready = shard.ready(Interest::WRITABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_ok_and(Ready::is_write_closed))
}

/// One direction of a connection.
#[derive(Default)]
struct RelayDirection {
    stage: Stage,
    /// Bytes read but not yet written. Usually empty: chunks are written from the stack.
    waiting: Bytes,
    /// Whether something was written since the last flush.
    unflushed: bool,
}

/// The stage of a direction.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Relays bytes.
    #[default]
    Relaying,
    /// The reader has disconnected. Further bytes are read and discarded, because closing a socket with
    /// unread bytes resets the connection, and the peer might then lose what was sent last.
    Discarding,
    /// The end was reached and is being passed to the reader.
    Closing,
    /// Done.
    Closed,
}

impl RelayDirection {
    /// Relays what is available. Ready when no more bytes will arrive.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<()> {
        loop {
            match self.stage {
                Stage::Relaying if !self.waiting.is_empty() => {
                    match ready!(to.as_mut().poll_write(cx, &self.waiting)) {
                        Ok(0) | Err(_) => self.discard(),
                        Ok(written) => {
                            self.waiting.advance(written);
                            self.unflushed = true;
                        }
                    }
                }
                Stage::Relaying | Stage::Discarding => {
                    // On the stack, so that an idle connection holds no buffer.
                    let mut space = [MaybeUninit::uninit(); CHUNK];
                    let mut chunk = ReadBuf::uninit(&mut space);
                    match from.as_mut().poll_read(cx, &mut chunk) {
                        Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                            self.pass_on(cx, chunk.filled(), to.as_mut());
                        }
                        Poll::Ready(_) => self.stage = Stage::Closing, // an error ends the direction, too
                        Poll::Pending => {
                            if self.unflushed {
                                self.unflushed = to.as_mut().poll_flush(cx).is_pending();
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Stage::Closing => {
                    let _ = ready!(to.as_mut().poll_shutdown(cx)); // fails only if the reader has disconnected
                    self.stage = Stage::Closed;
                }
                Stage::Closed => return Poll::Ready(()),
            }
        }
    }

    /// Writes a chunk and keeps what can't be written at once.
    fn pass_on(&mut self, cx: &mut Context<'_>, chunk: &[u8], to: Pin<&mut impl AsyncWrite>) {
        if self.stage == Stage::Discarding {
            return;
        }
        match to.poll_write(cx, chunk) {
            Poll::Ready(Ok(0) | Err(_)) => self.discard(),
            Poll::Ready(Ok(written)) => {
                self.waiting = Bytes::copy_from_slice(&chunk[written..]);
                self.unflushed = true;
            }
            Poll::Pending => self.waiting = Bytes::copy_from_slice(chunk),
        }
    }

    /// Discards everything from now on, after the reader has disconnected.
    fn discard(&mut self) {
        *self = Self { stage: Stage::Discarding, ..Self::default() };
    }

    /// Returns whether bytes are waiting for the reader.
    fn is_blocked(&self) -> bool {
        self.unflushed || !self.waiting.is_empty() || self.stage == Stage::Closing
    }
}

/// Returns a response body that yields `first` and then what the shard writes. The shard receives its socket
/// when the body is polled again after `first`; a body that is not costs no socket. When the client
/// disconnects, the body is dropped, and the shard sees its socket closed.
pub(crate) fn body(first: Bytes, start: impl FnOnce(TcpStream) + Send + 'static) -> axum::body::Body {
    let chunks = futures_util::stream::try_unfold(BodyState::Unread(first, start), |state| async move {
        let mut near = match state {
            BodyState::Unread(first, start) => return Ok(Some((first, BodyState::Unasked(start)))),
            BodyState::Unasked(start) => {
                let (shard, near) = pair()?;
                start(shard);
                near
            }
            BodyState::Open(near) => near,
        };
        // The buffer is allocated when there is something to read, so that an idle stream holds none.
        near.readable().await?;
        let mut chunk = Vec::with_capacity(CHUNK);
        if near.read_buf(&mut chunk).await? == 0 {
            return Ok::<_, io::Error>(None);
        }
        Ok(Some((Bytes::from(chunk), BodyState::Open(near))))
    });
    axum::body::Body::from_stream(chunks)
}

/// The source of a body's bytes.
enum BodyState<F> {
    /// Not polled yet: the first bytes, and the function that passes the socket to the shard.
    Unread(Bytes, F),
    /// Polled once: the function that passes the socket to the shard.
    Unasked(F),
    /// The relay's end of the socket pair.
    Open(UnixStream),
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        sync::{Arc, Weak},
    };

    use tokio::{
        io::{AsyncWriteExt as _, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;

    /// A stream that drops its `Arc` when the task that relays it has ended.
    struct Watched(DuplexStream, #[expect(dead_code, reason = "only its lifetime matters")] Arc<()>);

    impl AsyncRead for Watched {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            to: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, to)
        }
    }

    impl AsyncWrite for Watched {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Returns the shard's socket, the peer's end, and a reference that is valid while the task between them
    /// runs.
    fn relayed() -> (TcpStream, DuplexStream, Weak<()>) {
        let (peer, stream) = duplex(1000);
        let task = Arc::new(());
        let watched = Arc::downgrade(&task);
        (relay(Watched(stream, task)).unwrap(), peer, watched)
    }

    /// Lets the other task run until it has nothing to do: only then does the paused clock advance.
    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    /// Waits until the task has ended and returns how long it took.
    async fn time_to_end(task: &Weak<()>) -> Duration {
        let begin = Instant::now();
        while task.upgrade().is_some() {
            assert!(begin.elapsed() < Duration::from_secs(600), "the task did not end");
            sleep(Duration::from_millis(100)).await;
        }
        begin.elapsed()
    }

    /// Returns bytes whose order can be verified.
    fn pattern(len: usize) -> Vec<u8> {
        (0..=250).cycle().take(len).collect()
    }

    /// Writes to the shard's socket until it accepts no more, even after a pause.
    async fn fill(shard: &mut TcpStream, bytes: &[u8]) -> usize {
        let mut written = 0;
        loop {
            match shard.write(&bytes[written..]) {
                Ok(more) => written += more,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    settle().await;
                    match shard.write(&bytes[written..]) {
                        Ok(more) => written += more,
                        Err(_) => return written,
                    }
                }
            }
        }
    }

    /// Reads everything available to the shard.
    fn take(shard: &mut TcpStream) -> Vec<u8> {
        let (mut got, mut buffer) = (Vec::new(), [0; 5000]);
        while let Ok(read @ 1..) = shard.read(&mut buffer) {
            got.extend_from_slice(&buffer[..read]);
        }
        got
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_for_a_slow_peer_wait_in_the_shard() {
        let (mut shard, mut peer, task) = relayed();
        let sent = pattern(8 << 20);
        let taken = fill(&mut shard, &sent).await;
        assert!(taken < 1 << 20, "{taken} bytes are held for a peer that reads nothing");
        // The relay runs as long as the shard keeps the connection.
        sleep(Duration::from_secs(3600)).await;
        assert!(task.upgrade().is_some());
        let mut got = vec![0; taken];
        peer.read_exact(&mut got).await.unwrap();
        assert!(got == sent[..taken]);
        // The connection continues as if nothing had happened.
        settle().await;
        assert_eq!(shard.write(b"more").unwrap(), 4);
        peer.read_exact(&mut got[..4]).await.unwrap();
        assert_eq!(&got[..4], b"more");
        drop((shard, peer));
        assert!(time_to_end(&task).await < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_for_a_busy_shard_wait_at_the_peer() {
        let (mut shard, mut peer, task) = relayed();
        let sent = pattern(4 << 20);
        let mut written = 0;
        while let Ok(more) = tokio::time::timeout(Duration::from_secs(60), peer.write(&sent[written..])).await
        {
            written += more.unwrap();
        }
        assert!(written < 1 << 20, "{written} bytes are held for a shard that reads nothing");
        let mut got = Vec::new();
        while got.len() < written {
            got.extend(take(&mut shard));
            settle().await;
        }
        assert!(got == sent[..written]);
        // The peer's end reaches the shard after what it has sent.
        peer.write_all(b"last").await.unwrap();
        drop(peer);
        settle().await;
        let mut end = [0; 8];
        assert_eq!(shard.read(&mut end).unwrap(), 4);
        assert_eq!(shard.read(&mut end).unwrap(), 0);
        drop(shard);
        assert!(time_to_end(&task).await < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_cut_off_after_its_shard_has_dropped_it() {
        let (mut shard, peer, task) = relayed();
        fill(&mut shard, &pattern(8 << 20)).await;
        sleep(Duration::from_secs(77)).await;
        drop(shard);
        let time = time_to_end(&task).await;
        assert!(time >= FAREWELL && time <= FAREWELL + STALL_CHECK + Duration::from_secs(1), "{time:?}");
        drop(peer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_receives_everything_after_its_shard_has_dropped_it() {
        let (mut shard, mut peer, task) = relayed();
        let sent = pattern(8 << 20);
        let taken = fill(&mut shard, &sent).await;
        drop(shard);
        let mut got = Vec::new();
        let mut chunk = vec![0; taken / 100];
        while let Ok(read @ 1..) = peer.read(&mut chunk).await {
            got.extend_from_slice(&chunk[..read]);
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(got.len(), taken);
        assert!(got == sent[..taken]);
        // The peer has not closed its side and has some time to do so.
        let time = time_to_end(&task).await;
        assert!(time >= LINGER / 2 && time <= LINGER + Duration::from_secs(1), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_arrive_after_the_shard_has_dropped_the_peer_are_discarded() {
        let (mut shard, mut peer, task) = relayed();
        assert_eq!(shard.write(b"bye").unwrap(), 3);
        drop(shard);
        // Far more than the stream holds: unless it is read, this waits forever.
        peer.write_all(&pattern(1 << 20)).await.unwrap();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"bye");
        assert!(task.upgrade().is_some(), "the task waits for the peer's end");
        drop(peer);
        assert!(time_to_end(&task).await < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shard_detects_a_lost_peer() {
        let (mut shard, peer, task) = relayed();
        fill(&mut shard, &pattern(8 << 20)).await;
        drop(peer);
        settle().await;
        assert_eq!(shard.read(&mut [0; 8]).unwrap(), 0);
        drop(shard);
        assert!(time_to_end(&task).await <= LINGER + Duration::from_secs(1));
    }
}
