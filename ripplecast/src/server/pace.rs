//! Limits how long a peer may keep plain HTTP waiting: for the rest of a request's body, and for reading a
//! response.
//!
//! Each has a budget of waiting time, like `body=30,MinRate=500` in Apache's mod_reqtimeout. The budget
//! starts full, is used up while the server waits for the peer, and is restored by each byte. A peer that
//! keeps to the minimum rate is never cut off, however long it takes. A peer that stalls is cut off when its
//! budget is used up, however fast it was before. Time in which the application works or has nothing to send
//! costs nothing.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use crate::engine::Permit;

/// The pace that a peer must keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Maximum waiting time; zero for no limit.
    pub(super) time: Duration,
    /// Bytes that restore one second; with zero, bytes restore nothing.
    pub(super) min_rate: u32,
}

struct Budget {
    pace: Pace,
    left: Duration,
    /// When the current wait began.
    since: Option<Instant>,
    /// Created at the first wait, which most connections never have.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Budget {
    fn full(pace: Pace) -> Self {
        Self { pace, left: pace.time, since: None, alarm: None }
    }

    /// Continues or starts a wait for the peer. Ready when the budget is used up.
    fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pace.time.is_zero() {
            return Poll::Pending;
        }
        if self.since.is_none() {
            let now = Instant::now();
            self.since = Some(now);
            match &mut self.alarm {
                Some(alarm) => alarm.as_mut().reset(now + self.left),
                None => self.alarm = Some(Box::pin(sleep_until(now + self.left))),
            }
        }
        self.alarm.as_mut().map_or(Poll::Pending, |alarm| alarm.as_mut().poll(cx))
    }

    /// Ends the wait after the peer has sent or taken `bytes`.
    fn progress(&mut self, bytes: usize) {
        if self.alarm.is_none() {
            return; // there was no wait so far, so the budget is full
        }
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let nanos = (bytes as u64).saturating_mul(1_000_000_000).checked_div(self.pace.min_rate.into());
        let earned = Duration::from_nanos(nanos.unwrap_or(0));
        self.left = self.left.saturating_add(earned).min(self.pace.time);
    }
}

/// A request body whose sender must keep pace while the application reads it.
pub(super) struct PacedBody<B> {
    /// Dropped if the sender is too slow: hyper then stops reading.
    body: Option<B>,
    budget: Budget,
    /// Set if the sender was too slow.
    late: Arc<AtomicBool>,
}

impl<B> PacedBody<B> {
    pub(super) fn new(body: B, pace: Pace, late: Arc<AtomicBool>) -> Self {
        Self { body: Some(body), budget: Budget::full(pace), late }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for PacedBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, budget, late } = &mut *self;
        let Some(inner) = body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            budget.progress(data.map_or(0, Bytes::len));
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(budget.poll_spent(cx));
        *body = None;
        late.store(true, Relaxed);
        Poll::Ready(Some(Err("the request body arrived too slowly".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// A response body that holds its request's place in the limit of its address until all of it has been
/// written. Each piece holds the place too, because hyper drops a body as soon as it has the last piece.
pub(super) struct PlacedBody<B> {
    body: B,
    place: Arc<Permit>,
}

impl<B> PlacedBody<B> {
    pub(super) fn new(body: B, place: Permit) -> Self {
        Self { body, place: Arc::new(place) }
    }
}

/// A piece of a [`PlacedBody`].
struct BodyPiece {
    data: Bytes,
    _place: Arc<Permit>,
}

impl AsRef<[u8]> for BodyPiece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for PlacedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else { return Poll::Ready(None) };
        let held = |data| Bytes::from_owner(BodyPiece { data, _place: Arc::clone(&self.place) });
        Poll::Ready(Some(frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The transport of a [`Paced`] stream.
pub(super) trait PacedSocket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the drop reset the connection, so that the kernel does not keep data that the peer never reads.
    fn reset_on_drop(&self);
}

impl PacedSocket for TcpStream {
    fn reset_on_drop(&self) {
        let _ = socket2::SockRef::from(self).set_linger(Some(Duration::ZERO)); // fails only if the peer has disconnected
    }
}

/// A stream whose peer must keep pace in reading.
pub(super) struct Paced<S> {
    stream: S,
    budget: Budget,
    /// Set while other limits apply: after an upgrade, and for our own event streams.
    free: Arc<AtomicBool>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace, free: Arc<AtomicBool>) -> Self {
        Self { stream, budget: Budget::full(pace), free }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: PacedSocket> Paced<S> {
    /// Fails a write that the peer keeps waiting for too long. `bytes` returns how many bytes the peer has
    /// taken.
    fn keep<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = done {
            self.budget.progress(done.as_ref().map_or(0, bytes));
            return Poll::Ready(done);
        }
        if self.free.load(Relaxed) {
            self.budget = Budget::full(self.budget.pace);
            return Poll::Pending;
        }
        ready!(self.budget.poll_spent(cx));
        self.stream.reset_on_drop();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads the response too slowly")))
    }
}

impl<S: PacedSocket> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: PacedSocket> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.keep(cx, done, |&written| written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.keep(cx, done, |&written| written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.keep(cx, done, |_| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.keep(cx, done, |_| 0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::{sleep, timeout},
    };

    use super::*;

    const PACE: Pace = Pace { time: Duration::from_secs(30), min_rate: 500 };

    /// Number of connections to be reset.
    static RESETS: AtomicUsize = AtomicUsize::new(0);

    impl PacedSocket for DuplexStream {
        fn reset_on_drop(&self) {
            RESETS.fetch_add(1, Relaxed);
        }
    }

    /// Sends a body in pieces of `bytes` every `every`, and reads it. Returns how long that took and whether
    /// all of it arrived.
    async fn send(pace: Pace, pieces: usize, bytes: usize, every: Duration) -> (Duration, bool) {
        let stream = futures_util::stream::unfold(0, move |piece| async move {
            if piece == pieces {
                return None;
            }
            sleep(every).await;
            Some((Ok::<_, io::Error>(Frame::data(Bytes::from(vec![b'x'; bytes]))), piece + 1))
        });
        let late = Arc::new(AtomicBool::new(false));
        let begin = Instant::now();
        let body = PacedBody::new(StreamBody::new(Box::pin(stream)), pace, Arc::clone(&late));
        let read = body.collect().await;
        assert_eq!(read.is_err(), late.load(Relaxed));
        (begin.elapsed(), read.is_ok_and(|all| all.to_bytes().len() == pieces * bytes))
    }

    /// Awaits something that takes half a minute, with a deadline far beyond.
    async fn ends<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(600), future).await.expect("it hangs")
    }

    /// Returns whether `time` is about `seconds`.
    fn is_about(time: Duration, seconds: u64) -> bool {
        (time.as_secs_f64() - seconds as f64).abs() < 0.5
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_hours_at_the_minimum_rate_and_half_a_minute_below_it() {
        let second = Duration::from_secs(1);
        assert!(send(PACE, 7200, 505, second).await.1);
        assert!(send(PACE, 100, 12_600, 25 * second).await.1, "in large pieces");
        let (time, whole) = send(PACE, 100, 1, 10 * second).await;
        assert!(!whole && is_about(time, 30), "{time:?}");
        let (time, whole) = send(PACE, 1, 1, 3600 * second).await;
        assert!(!whole && is_about(time, 30), "{time:?}");
        // At half the rate, half of the waiting time is restored.
        let (time, whole) = send(PACE, 1000, 250, second).await;
        assert!(!whole && time >= 59 * second && time <= 61 * second, "{time:?}");
        let (time, whole) = send(Pace { min_rate: 0, ..PACE }, 40, 1000, second).await;
        assert!(!whole && is_about(time, 30), "{time:?}: in all");
        let off = Pace { time: Duration::ZERO, ..PACE };
        assert!(send(off, 2, 1, 3600 * second).await.1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_start_does_not_allow_a_longer_stall() {
        assert!(send(PACE, 2, 1 << 20, Duration::from_secs(29)).await.1);
        let (sender, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
        let mut body = PacedBody::new(StreamBody::new(pieces_of(pieces)), PACE, Arc::default());
        for _ in 0..100 {
            let (sent, got) = tokio::join!(sender.send(Bytes::from(vec![b'x'; 1 << 20])), body.frame());
            sent.unwrap();
            got.unwrap().unwrap();
        }
        let begin = Instant::now();
        assert!(ends(body.frame()).await.unwrap().is_err());
        assert!(is_about(begin.elapsed(), 30));
        assert!(body.frame().await.is_none());
    }

    /// Returns a stream of the pieces received from a channel.
    fn pieces_of(
        pieces: tokio::sync::mpsc::Receiver<Bytes>,
    ) -> Pin<Box<impl futures_util::Stream<Item = io::Result<Frame<Bytes>>>>> {
        Box::pin(futures_util::stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((Ok(Frame::data(piece)), pieces))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_pauses_reading_does_not_cut_off_the_sender() {
        let (sender, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
        let mut body = PacedBody::new(StreamBody::new(pieces_of(pieces)), PACE, Arc::default());
        for _ in 0..3 {
            sleep(Duration::from_secs(3600)).await;
            sender.send(Bytes::from_static(b"x")).await.unwrap();
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    /// Returns a stream that buffers 1,000 bytes, and its peer.
    fn stream(free: &Arc<AtomicBool>) -> (Paced<DuplexStream>, DuplexStream) {
        let (ours, peer) = duplex(1000);
        (Paced::new(ours, PACE, Arc::clone(free)), peer)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_read_for_hours_at_the_minimum_rate_and_is_cut_off_when_it_stops() {
        let (mut ours, mut peer) = stream(&Arc::default());
        let writer = tokio::spawn(async move {
            let sent = ours.write_all(&vec![b'x'; 10 << 20]).await;
            (ours, sent)
        });
        let mut chunk = [0; 500];
        for _ in 0..7200 {
            sleep(Duration::from_secs(1)).await;
            ends(peer.read_exact(&mut chunk)).await.unwrap();
        }
        let (begin, before) = (Instant::now(), RESETS.load(Relaxed));
        let (_ours, sent) = ends(writer).await.unwrap();
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() <= Duration::from_secs(31), "{:?}", begin.elapsed());
        assert!(RESETS.load(Relaxed) > before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_byte_by_byte_is_cut_off_and_a_slow_application_is_not() {
        let (mut ours, mut peer) = stream(&Arc::default());
        for _ in 0..3 {
            sleep(Duration::from_secs(3600)).await;
            ours.write_all(b"a slow application").await.unwrap();
            ours.flush().await.unwrap();
            peer.read_exact(&mut [0; 18]).await.unwrap();
        }
        let begin = Instant::now();
        let drips = tokio::spawn(async move {
            loop {
                sleep(Duration::from_secs(10)).await;
                if peer.read_u8().await.is_err() {
                    return;
                }
            }
        });
        let sent = ends(ours.write_all(&vec![b'x'; 10 << 20])).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() <= Duration::from_secs(31), "{:?}", begin.elapsed());
        drop(ours);
        drips.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_stream_may_wait_for_any_time() {
        let free = Arc::new(AtomicBool::new(true));
        let (mut ours, mut peer) = stream(&free);
        let writer = tokio::spawn(async move {
            let sent = ours.write_all(&[b'x'; 1500]).await;
            (ours, sent)
        });
        sleep(Duration::from_secs(3600)).await;
        ends(peer.read_exact(&mut [0; 1500])).await.unwrap();
        let (mut ours, sent) = writer.await.unwrap();
        sent.unwrap();
        // The next response has the full time again.
        free.store(false, Relaxed);
        let begin = Instant::now();
        assert!(ends(ours.write_all(&[b'x'; 1500])).await.is_err());
        assert!(is_about(begin.elapsed(), 30));
    }
}
