//! Timeouts: one coarse sweep over all connections, instead of a timer for each.

use std::time::Duration;

use super::{Phase, Shard};
use crate::{
    Close, CloseCode,
    codec::{self, Opcode},
    engine::{batch::Tag, route::Route},
    id::Local,
    limits::{CLOSE_TIMEOUT, HANDLER_GRACE, HURRIED_GRACE, SHUTDOWN_CLOSE_TIMEOUT, SWEEP_PER_TURN},
};

/// Returns a fraction of `time` for each slot, spread evenly over all slots: multiples of the golden ratio modulo 1.
pub(super) fn share(slot: usize, time: Duration) -> Duration {
    const GOLDEN: u32 = 0x9E37_79B9; // 2^32 times the golden ratio's fraction
    time.mul_f64(f64::from((slot as u32).wrapping_mul(GOLDEN)) / f64::from(u32::MAX))
}

impl Shard {
    /// Checks for silent peers, unfinished messages and unanswered close frames: a few slots per turn, and every slot once
    /// per tick.
    pub(super) fn sweep(&mut self) {
        if self.sweep_at == usize::MAX {
            if self.now.since(self.swept) < self.sweep_interval {
                return;
            }
            self.swept = self.now;
            self.sweep_at = 0;
        }
        let end = (self.sweep_at + SWEEP_PER_TURN).min(self.peers.len());
        for slot in self.sweep_at..end {
            self.check_peer(slot);
        }
        self.sweep_at = if end == self.peers.len() { usize::MAX } else { end };
        self.close_faulty();
    }

    pub(super) fn check_peer(&mut self, slot: usize) {
        let peer = &self.peers[slot];
        let waiting = peer.pending.as_ref().and_then(|pending| pending.waiting.as_ref());
        if let (Some(waiting), Some(since)) = (waiting, self.stopping) {
            // `on_close` itself has a little longer than the callback before it.
            let grace = match (self.node.is_hurried(), peer.phase == Phase::Closed) {
                (true, false) => Duration::ZERO,
                (true, true) => HURRIED_GRACE,
                (false, false) => HANDLER_GRACE,
                (false, true) => HANDLER_GRACE * 3 / 2,
            };
            if self.now.since(since) >= grace {
                waiting.abort();
            }
        }
        let Some(who) = self.delivery.current(slot as u32) else { return };
        if let Some((_, since)) = peer.pending.as_ref().and_then(|pending| pending.closing.as_ref()) {
            let limit = if self.stopping.is_some() { SHUTDOWN_CLOSE_TIMEOUT } else { CLOSE_TIMEOUT };
            if self.now.since(*since) >= limit {
                self.finish_as_begun(who);
            }
            return;
        }
        if waiting.is_some() {
            return; // its timers are paused
        }
        let Some(endpoint) = &self.endpoints[peer.endpoint] else { return };
        let route = endpoint.route.clone();
        let unfinished = peer.pending.as_ref().and_then(|pending| pending.unfinished);
        if unfinished.is_some_and(|begun| self.now.since(begun) >= route.message_timeout) {
            let close = Close::new(CloseCode::POLICY, "a message was left unfinished for too long");
            self.begin_close(who, close, Phase::Draining);
            return;
        }
        let silence = Silence { time: self.now.since(peer.since), pinged: peer.pinged };
        match silence.needs(slot, &route, self.sweep_interval) {
            Needs::Nothing => {}
            Needs::Ping => self.ping(who),
            Needs::End => self.close_if_dead(who),
        }
    }

    fn ping(&mut self, who: Local) {
        let peer = &mut self.peers[who.slot as usize];
        peer.since = self.now;
        let encoding = self.delivery.encoding(who.slot);
        if encoding.is_stream() {
            // An SSE comment: if the peer does not acknowledge it, the kernel reports an error.
            encoding.encode_raw(b":\n\n", &mut self.control.bytes);
        } else {
            peer.pinged = true;
            codec::encode_frame(&mut self.control.bytes, Opcode::Ping, b"");
        }
        self.send_control(who);
    }

    /// Closes a connection whose peer was pinged and has shown no sign of life for the pong time-out, unless its socket
    /// holds unread input, or has space again for a backlog: this process may have been suspended or overloaded. A
    /// crowded shard does not read, so it decides at the next sweep.
    fn close_if_dead(&mut self, who: Local) {
        if !self.may_read() {
            return;
        }
        self.read(who, false);
        if self.delivery.is_open(who) {
            self.flush(who);
        }
        if self.delivery.is_open(who) && self.peers[who.slot as usize].pinged {
            self.finish(who, Close::new(CloseCode::ABNORMAL, "the peer did not answer a ping"));
        }
    }

    /// Sends the frames in `control`.
    pub(super) fn send_control(&mut self, who: Local) {
        self.control.end(Tag::default());
        self.delivery.send_encoded(who.slot, &mut self.control);
        self.control.clear();
    }
}

/// How long a peer has shown no sign of life.
#[derive(Clone, Copy)]
struct Silence {
    /// Since the ping, if it was pinged.
    time: Duration,
    pinged: bool,
}

/// The action for a silent peer.
#[derive(PartialEq, Eq, Debug)]
enum Needs {
    Nothing,
    Ping,
    End,
}

impl Silence {
    /// Decides on the action in this sweep.
    ///
    /// A ping is sent after the interval, less an eighth of it for some: connections that were opened at once, or whose
    /// peers all answered the same broadcast, are not all pinged at once. No ping is late: one that is due before the
    /// next sweep is sent in this one.
    fn needs(self, slot: usize, route: &Route, sweep_interval: Duration) -> Needs {
        match (self.pinged, route.pong_timeout, route.ping_interval) {
            (true, Some(timeout), _) if self.time >= timeout => Needs::End,
            (true, Some(_), _) | (_, _, None) => Needs::Nothing,
            (_, _, Some(interval)) if self.time + sweep_interval > interval - share(slot, interval / 8) => {
                Needs::Ping
            }
            _ => Needs::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        sync::Arc,
        time::Instant,
    };

    use bytes::Bytes;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::{
        Connection, Message,
        engine::{
            admission::Admissions,
            batch::Encoding,
            budget::MemoryBudget,
            command::Command,
            mailbox::Mailbox,
            new_connection::NewConnection,
            node::Node,
            outbox::{OutboxPolicy, Overflow},
            room::Setup,
            route::{EndpointPath, MessageKinds},
        },
        limits::{COMMANDS_PER_TURN, MAILBOX_CROWDED, MESSAGE_TIMEOUT, PING_INTERVAL, PONG_TIMEOUT, TICK},
        ws::{self, callbacks},
    };

    fn node() -> Arc<Node> {
        Node::new(1, 1, Admissions::new(1, 1, 64), MemoryBudget::new(1 << 30, 1), Setup::default())
    }

    /// An endpoint with the default times.
    fn route(node: &Node) -> Route {
        let handler = Arc::new(ws::handlers().on_message(async |_: Connection, _: Message| {}));
        Route {
            id: 0,
            path: EndpointPath::default(),
            accepts: MessageKinds::All,
            max_message: 0,
            message_timeout: MESSAGE_TIMEOUT,
            ping_interval: Some(PING_INTERVAL),
            pong_timeout: Some(PONG_TIMEOUT),
            policy: OutboxPolicy {
                outbox: 1 << 30,
                overflow: Overflow::Disconnect,
                compress_above: usize::MAX,
            },
            callbacks: callbacks(node, handler),
        }
    }

    /// A shard without an event loop, with one connection that was pinged.
    struct Pinged {
        shard: Shard,
        who: Local,
        peer: TcpStream,
        _runtime: Runtime,
    }

    impl Pinged {
        fn new() -> Self {
            let runtime = Builder::new_current_thread().build().unwrap();
            let node = node();
            let mut shard = Shard::new(0, &node, runtime.handle().clone()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (wire, _) = listener.accept().unwrap();
            wire.set_nonblocking(true).unwrap();
            shard.open(NewConnection {
                wire,
                rest: Bytes::new(),
                preface: Bytes::new(),
                encoding: Encoding::WebSocket,
                route: Arc::new(route(&node)),
                permit: node.admissions().admit(None).unwrap(),
                states: Vec::new(),
            });
            let who = shard.delivery.current(0).unwrap();
            shard.peers[0].pinged = true;
            Self { shard, who, peer, _runtime: runtime }
        }

        /// Waits until the socket has space, without the shard's knowledge.
        fn wait_for_space(&mut self) {
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut events = Vec::new();
            while !events.iter().any(|event: &crate::engine::poller::Readiness| event.writable) {
                assert!(Instant::now() < deadline, "the socket has no space");
                self.shard.poller.poll(Duration::from_millis(100), &mut events);
            }
        }
    }

    #[test]
    fn a_peer_that_has_read_its_backlog_is_alive() {
        const LEN: usize = 32 << 20; // more than sockets hold
        let mut pinged = Pinged::new();
        pinged.wait_for_space(); // that of a new socket
        pinged.shard.delivery.push(pinged.who, &Message::binary(vec![0; LEN]), None);
        let backlog = pinged.shard.delivery.backlog(0);
        assert!(backlog > 0);
        pinged.peer.read_exact(&mut vec![0; 10 + LEN - backlog]).unwrap(); // a header of 10 bytes
        pinged.wait_for_space();
        pinged.shard.close_if_dead(pinged.who);
        assert!(pinged.shard.delivery.is_open(pinged.who));
        assert!(!pinged.shard.peers[0].pinged, "its progress is a sign of life");
    }

    /// A crowded shard reads nothing, so it can't tell whether a peer is dead or alive.
    #[test]
    fn a_crowded_shard_judges_no_peer() {
        let Pinged { mut shard, who, peer: _peer, _runtime } = Pinged::new();
        let closed = Local { generation: who.generation + 1, ..who };
        for _ in 0..MAILBOX_CROWDED {
            shard
                .handle
                .mailbox()
                .post(Command::Close { who: closed, close: Close::new(CloseCode::NORMAL, "") });
        }
        shard.close_if_dead(who);
        assert!(shard.delivery.is_open(who), "a peer was mistaken for dead");
        assert!(shard.peers[0].pinged, "a peer was mistaken for alive");
        while !shard.may_read() {
            shard.take_commands();
        }
        shard.close_if_dead(who);
        assert!(!shard.delivery.is_open(who), "a dead peer is closed once it can be read");
    }

    /// Reading peers as soon as the shard is a little less crowded would keep it crowded, and everyone else would wait
    /// behind the commands.
    #[test]
    fn a_crowded_shard_reads_peers_when_all_that_waited_is_taken_up() {
        let Pinged { mut shard, who, peer: _peer, _runtime } = Pinged::new();
        let closed = Local { generation: who.generation + 1, ..who };
        let close = |mailbox: &Mailbox<_>| {
            mailbox.post(Command::Close { who: closed, close: Close::new(CloseCode::NORMAL, "") });
        };
        (0..MAILBOX_CROWDED).for_each(|_| close(shard.handle.mailbox()));
        assert!(!shard.may_read());
        shard.take_commands();
        assert!(!shard.handle.mailbox().is_crowded() && !shard.may_read(), "peers are read too early");
        close(shard.handle.mailbox()); // later commands are not waited for
        for _ in 1..MAILBOX_CROWDED / COMMANDS_PER_TURN {
            assert!(!shard.may_read());
            shard.take_commands();
        }
        assert!(shard.may_read());
    }

    /// Otherwise a new connection, for example, would wait for all peers that are ready.
    #[test]
    fn commands_are_taken_up_before_each_peer_is_read() {
        let Pinged { mut shard, who, mut peer, _runtime } = Pinged::new();
        peer.write_all(b"\x81\x80\0\0\0\0").unwrap();
        shard.handle.mailbox().post(Command::Push { to: who, message: Message::text("first"), of: None });
        shard.again.push_back((who, 0));
        shard.peers[0].again = true;
        shard.read_again();
        assert!(shard.handle.mailbox().is_quiet());
        let mut first = [0; 7];
        peer.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"\x81\x05first");
    }

    /// By the defaults, with a sweep each second, a dead peer is noticed within 36 s, and a live one has 10 s to
    /// answer.
    #[test]
    fn a_dead_peer_is_noticed_within_36_seconds() {
        let route = route(&node());
        for slot in 0..1000 {
            // The peer's last sign of life came this many milliseconds before the next sweep.
            for before_sweep in [1, 500, 1000] {
                let (mut at, mut since, mut pinged) = (before_sweep, 0, None);
                loop {
                    let time = Duration::from_millis(at - since);
                    match (Silence { time, pinged: pinged.is_some() }).needs(slot, &route, TICK) {
                        Needs::Nothing => {}
                        Needs::Ping => {
                            assert_eq!(pinged.replace(at), None, "one ping is enough");
                            assert!((20_000..=25_000).contains(&at), "slot {slot} was pinged after {at} ms");
                            since = at;
                        }
                        Needs::End => break,
                    }
                    at += 1000;
                }
                assert!(
                    at <= 36_000 && at - pinged.unwrap() >= 10_000,
                    "slot {slot} was closed after {at} ms"
                );
            }
        }
    }

    /// Consecutive slots have shares that are far apart, however many slots there are.
    #[test]
    fn shares_are_spread_evenly() {
        const SECOND: Duration = Duration::from_secs(1);
        for first in [0, 12_345, (1 << 24) - 1000] {
            let mut tenths = [0; 10];
            for slot in first..first + 1000 {
                let share = share(slot, SECOND);
                assert!(share <= SECOND);
                tenths[(share.as_millis() / 100).min(9) as usize] += 1;
            }
            assert!(tenths.iter().all(|count| (98..=102).contains(count)), "{tenths:?}");
        }
    }
}
