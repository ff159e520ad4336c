//! A connection whose socket can't be taken: TLS, a server of a kind of its own, an event stream in hyper.
//!
//! It is put beside a socket pair: the shard has one end and treats it like any socket, with the same outbox and the same
//! rules; the other end is driven by tokio. The price, measured, is in `docs/tls.md` and `docs/performance.md`.

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

/// Time that a peer has to close its side after we have closed ours, and the other way round.
const LINGER: Duration = Duration::from_secs(5);
/// Time that a peer has to take what was sent before its shard let go of it: what the socket pair and TLS hold, some
/// 300 KiB, on a poor link.
const FAREWELL: Duration = Duration::from_secs(30);
/// How often it is asked whether the shard has let go of a peer that takes nothing.
const STALL_CHECK: Duration = Duration::from_secs(5);
/// Bytes read at once, from either side; the most that a TLS record holds.
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
///
/// Backlog stays where it belongs: a chunk is read only when the one before it is written, so what a slow peer does not
/// take fills the socket pair and then its outbox, and what a busy shard does not take stays with the peer.
pub(crate) fn drive(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<TcpStream> {
    let (shard, driven) = pair()?;
    tokio::spawn(async move {
        let mut stream = pin!(stream);
        let mut carrier = Carrier { shard: driven, out: Way::default(), input: Way::default(), limit: None };
        std::future::poll_fn(|cx| carrier.poll(cx, stream.as_mut())).await;
    });
    Ok(shard)
}

/// Carries bytes between a peer's stream and its shard.
struct Carrier {
    /// The other end of it is the shard's.
    shard: UnixStream,
    /// From the shard to the peer.
    out: Way,
    /// From the peer to the shard.
    input: Way,
    /// The time limit, while there is one. An idle connection has none.
    limit: Option<Limit>,
}

/// A time limit.
struct Limit {
    /// What it is for.
    kind: LimitKind,
    /// Ready when it is over.
    over: Pin<Box<Sleep>>,
}

/// What a time limit is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LimitKind {
    /// The peer takes nothing: see now and then whether the shard has let go of it.
    StallCheck,
    /// The shard has let go of a peer that takes nothing.
    Farewell,
    /// One side has closed.
    Linger,
}

impl Limit {
    /// A limit that begins now.
    fn begin(kind: LimitKind) -> Self {
        let time = match kind {
            LimitKind::StallCheck => STALL_CHECK,
            LimitKind::Farewell => FAREWELL,
            LimitKind::Linger => LINGER,
        };
        Self { kind, over: Box::pin(sleep(time)) }
    }

    /// Whether the shard has been found to have let go.
    fn is_farewell(&self) -> bool {
        self.kind == LimitKind::Farewell
    }
}

impl Carrier {
    /// Carries what can be carried; ready when it is over.
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
            let gone =
                self.input.stage == Stage::Discarding || self.limit.as_ref().is_some_and(Limit::is_farewell);
            let kind = match (ended, self.out.is_blocked()) {
                (true, _) => LimitKind::Linger,
                (false, true) if gone => LimitKind::Farewell,
                (false, true) => LimitKind::StallCheck,
                (false, false) => {
                    self.limit = None;
                    return Poll::Pending;
                }
            };
            let running = self.limit.take().filter(|limit| limit.kind == kind);
            let limit = self.limit.insert(running.unwrap_or_else(|| Limit::begin(kind)));
            ready!(limit.over.as_mut().poll(cx));
            if kind != LimitKind::StallCheck {
                return Poll::Ready(());
            }
            self.limit = is_gone(&self.shard).then(|| Limit::begin(LimitKind::Farewell));
        }
    }
}

/// Whether the other end of the pair is closed. What it has written before may still be there to be read.
fn is_gone(shard: &UnixStream) -> bool {
    let ready = shard.ready(Interest::WRITABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_ok_and(Ready::is_write_closed))
}

/// One of the two ways of a connection.
#[derive(Default)]
struct Way {
    /// How far it has come.
    stage: Stage,
    /// Read, and not yet taken by the other side. Mostly empty: a chunk goes from the stack of one into the other.
    waiting: Bytes,
    /// Something was written since the last flush.
    unflushed: bool,
}

/// How far a way has come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// It carries bytes.
    #[default]
    Carrying,
    /// Its reader has gone. What comes is read and forgotten: a socket that is closed with unread bytes resets its
    /// peer, which may then never see what was sent to it last.
    Discarding,
    /// No more comes, and the reader is being told.
    Closing,
    /// It is over.
    Closed,
}

impl Way {
    /// Carries what can be carried; ready when no more will come.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut impl AsyncRead>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<()> {
        loop {
            match self.stage {
                Stage::Carrying if !self.waiting.is_empty() => {
                    match ready!(to.as_mut().poll_write(cx, &self.waiting)) {
                        Ok(0) | Err(_) => self.discard(),
                        Ok(written) => {
                            self.waiting.advance(written);
                            self.unflushed = true;
                        }
                    }
                }
                Stage::Carrying | Stage::Discarding => {
                    // On the stack, so that nothing is held while nothing comes.
                    let mut space = [MaybeUninit::uninit(); CHUNK];
                    let mut chunk = ReadBuf::uninit(&mut space);
                    match from.as_mut().poll_read(cx, &mut chunk) {
                        Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                            self.pass_on(cx, chunk.filled(), to.as_mut());
                        }
                        Poll::Ready(_) => self.stage = Stage::Closing, // an error is the end as well
                        Poll::Pending => {
                            if self.unflushed {
                                self.unflushed = to.as_mut().poll_flush(cx).is_pending();
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Stage::Closing => {
                    let _ = ready!(to.as_mut().poll_shutdown(cx)); // whoever has gone needs no telling
                    self.stage = Stage::Closed;
                }
                Stage::Closed => return Poll::Ready(()),
            }
        }
    }

    /// Writes a chunk; what is not taken at once waits.
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

    /// The reader has gone.
    fn discard(&mut self) {
        *self = Self { stage: Stage::Discarding, ..Self::default() };
    }

    /// Whether its reader has not taken everything.
    fn is_blocked(&self) -> bool {
        self.unflushed || !self.waiting.is_empty() || self.stage == Stage::Closing
    }
}

/// A response body that yields `first`, and then what the shard writes. The shard receives its socket when the body is
/// polled for more than `first`; a body that never is costs no socket. When the client disconnects, the body is
/// dropped, and the shard sees its socket closed.
pub(crate) fn body(first: Bytes, start: impl FnOnce(TcpStream) + Send + 'static) -> axum::body::Body {
    let chunks = futures_util::stream::try_unfold(Source::Unread(first, start), |source| async move {
        let mut driven = match source {
            Source::Unread(first, start) => return Ok(Some((first, Source::Unasked(start)))),
            Source::Unasked(start) => {
                let (shard, driven) = pair()?;
                start(shard);
                driven
            }
            Source::Open(driven) => driven,
        };
        // The buffer is made when there is something to read, so that an idle stream holds none.
        driven.readable().await?;
        let mut chunk = Vec::with_capacity(CHUNK);
        if driven.read_buf(&mut chunk).await? == 0 {
            return Ok::<_, io::Error>(None);
        }
        Ok(Some((Bytes::from(chunk), Source::Open(driven))))
    });
    axum::body::Body::from_stream(chunks)
}

/// Where a body's bytes come from.
enum Source<F> {
    /// Not polled yet: the first frame, and what gives the shard its socket.
    Unread(Bytes, F),
    /// Not polled after the first frame; this gives the shard its socket.
    Unasked(F),
    /// The other end of the shard's socket.
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

    /// A stream that tells, by letting go of what it holds, when the task that drives it has ended.
    struct Watched(DuplexStream, #[expect(dead_code, reason = "it is watched")] Arc<()>);

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

    /// The shard's socket, the peer's end, and what is there as long as the task between them.
    fn driven() -> (TcpStream, DuplexStream, Weak<()>) {
        let (peer, stream) = duplex(1000);
        let task = Arc::new(());
        let watched = Arc::downgrade(&task);
        (drive(Watched(stream, task)).unwrap(), peer, watched)
    }

    /// Lets the other task do all that it can do now: the clock stands until nobody has anything to do.
    async fn settle() {
        sleep(Duration::from_millis(1)).await;
    }

    /// The time until the task has ended.
    async fn time_to_end(task: &Weak<()>) -> Duration {
        let begin = Instant::now();
        while task.upgrade().is_some() {
            assert!(begin.elapsed() < Duration::from_secs(600), "it does not end");
            sleep(Duration::from_millis(100)).await;
        }
        begin.elapsed()
    }

    /// Bytes of which each is where it belongs.
    fn pattern(len: usize) -> Vec<u8> {
        (0..=250).cycle().take(len).collect()
    }

    /// Writes to the shard's socket until nothing more goes in, also after a while.
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

    /// Reads all that is there for the shard.
    fn take(shard: &mut TcpStream) -> Vec<u8> {
        let (mut got, mut buffer) = (Vec::new(), [0; 5000]);
        while let Ok(read @ 1..) = shard.read(&mut buffer) {
            got.extend_from_slice(&buffer[..read]);
        }
        got
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_slow_peer_does_not_take_waits_with_the_shard() {
        let (mut shard, mut peer, task) = driven();
        let sent = pattern(8 << 20);
        let taken = fill(&mut shard, &sent).await;
        assert!(taken < 1 << 20, "{taken} bytes are held for a peer that takes nothing");
        // As long as the shard holds on to it, so do we.
        sleep(Duration::from_secs(3600)).await;
        assert!(task.upgrade().is_some());
        let mut got = vec![0; taken];
        peer.read_exact(&mut got).await.unwrap();
        assert!(got == sent[..taken]);
        // It goes on as if nothing had been.
        settle().await;
        assert_eq!(shard.write(b"more").unwrap(), 4);
        peer.read_exact(&mut got[..4]).await.unwrap();
        assert_eq!(&got[..4], b"more");
        drop((shard, peer));
        assert!(time_to_end(&task).await < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_busy_shard_does_not_take_waits_with_the_peer() {
        let (mut shard, mut peer, task) = driven();
        let sent = pattern(4 << 20);
        let mut written = 0;
        while let Ok(more) = tokio::time::timeout(Duration::from_secs(60), peer.write(&sent[written..])).await
        {
            written += more.unwrap();
        }
        assert!(written < 1 << 20, "{written} bytes are held for a shard that takes nothing");
        let mut got = Vec::new();
        while got.len() < written {
            got.extend(take(&mut shard));
            settle().await;
        }
        assert!(got == sent[..written]);
        // The peer's end reaches the shard, behind what it has sent.
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
    async fn a_peer_that_takes_nothing_is_cut_off_some_time_after_its_shard_has_let_go() {
        let (mut shard, peer, task) = driven();
        fill(&mut shard, &pattern(8 << 20)).await;
        sleep(Duration::from_secs(77)).await;
        drop(shard);
        let time = time_to_end(&task).await;
        assert!(time >= FAREWELL && time <= FAREWELL + STALL_CHECK + Duration::from_secs(1), "{time:?}");
        drop(peer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_only_slow_gets_everything_after_its_shard_has_let_go() {
        let (mut shard, mut peer, task) = driven();
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
        // It has not closed its side, and is given some time for it.
        let time = time_to_end(&task).await;
        assert!(time >= LINGER / 2 && time <= LINGER + Duration::from_secs(1), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_the_shard_has_let_go_is_read_and_forgotten() {
        let (mut shard, mut peer, task) = driven();
        assert_eq!(shard.write(b"bye").unwrap(), 3);
        drop(shard);
        // Far more than the stream holds: it must be read, or this would wait for ever.
        peer.write_all(&pattern(1 << 20)).await.unwrap();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"bye");
        assert!(task.upgrade().is_some(), "it waits for the peer's end");
        drop(peer);
        assert!(time_to_end(&task).await < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_lost_is_noticed_by_the_shard() {
        let (mut shard, peer, task) = driven();
        fill(&mut shard, &pattern(8 << 20)).await;
        drop(peer);
        settle().await;
        assert_eq!(shard.read(&mut [0; 8]).unwrap(), 0);
        drop(shard);
        assert!(time_to_end(&task).await <= LINGER + Duration::from_secs(1));
    }
}
