//! Reads from peers into the shard's one buffer, decodes in place, and passes messages to the callbacks.

use std::{
    io::{self, Read},
    net::Shutdown,
};

use super::{Phase, Shard, calls::Call};
use crate::{
    Close, CloseCode, Message,
    codec::{self, Event as Received, Opcode, Payload, ProtocolError, deflate::inflate},
    engine::{batch::Encoding, cork, node::ShardCounter, route::MessageKinds},
    id::Local,
    limits::{CROWDED_READ, MAILBOX_SHARE, READS_PER_TURN},
    log::limited,
};

impl Shard {
    /// Reads from the peer; with `to_end`, until the socket is empty, since no further event will come.
    ///
    /// Input often causes commands in the shard's mailbox. A peer whose input caused many is read again only once these
    /// have been processed, so that one peer can't fill the mailbox until no peer is read.
    pub(super) fn read(&mut self, who: Local, to_end: bool) {
        let slot = who.slot as usize;
        if self.peers[slot].again {
            self.shows_life(slot); // it has sent something, which is read in its turn
            return;
        }
        if self.is_waiting(slot) {
            self.peers[slot].unread_socket = true;
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut reads = 0;
        let before = self.handle.mailbox().waiting();
        loop {
            if self.is_input_paused(who) {
                self.peers[slot].unread_socket = true;
                break;
            }
            let waiting = self.handle.mailbox().waiting();
            let much = self.has_caused_much(before);
            if reads == READS_PER_TURN || much || !self.may_read() {
                self.shows_life(slot); // it has sent something, though it is not read yet
                self.peers[slot].again = true;
                let due = if much { self.taken_up + waiting as u64 } else { 0 };
                self.again.push_back((who, due));
                break;
            }
            reads += 1;
            let Some(wire) = self.delivery.wire(who.slot) else { break };
            let most = if waiting > MAILBOX_SHARE { CROWDED_READ } else { buffer.len() };
            match (&mut &*wire).read(&mut buffer[..most]) {
                Ok(0) => {
                    self.uncork(who);
                    self.input_ended(who);
                    break;
                }
                Ok(n) => {
                    self.shows_life(slot);
                    self.feed(who, &mut buffer[..n]);
                    if self.is_waiting(slot) {
                        self.peers[slot].unread_socket = true;
                        break;
                    }
                    if !self.delivery.is_open(who) || (n < most && !to_end && !self.has_caused_much(before)) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.finish(who, Close::new(CloseCode::ABNORMAL, ""));
                    break;
                }
            }
        }
        self.buffer = buffer;
        self.uncork(who);
    }

    /// Returns whether peers may be read: not from the moment the mailbox is crowded until all commands that wait
    /// then have been taken up.
    ///
    /// If reading resumed as soon as the mailbox is a little less crowded, it would stay crowded for as long as peers
    /// send: a reply finds commands waiting and becomes a command itself. All other commands would wait behind them.
    pub(super) fn may_read(&mut self) -> bool {
        let mailbox = self.handle.mailbox();
        if self.taken_up >= self.reads_from && mailbox.is_crowded() {
            self.reads_from = self.taken_up + mailbox.waiting() as u64;
        }
        self.taken_up >= self.reads_from
    }

    /// Returns whether the mailbox holds at least a share more than `before`.
    fn has_caused_much(&self, before: usize) -> bool {
        self.handle.mailbox().waiting() >= before + MAILBOX_SHARE
    }

    /// Returns whether the connection is closing and the peer has not read our close frame yet. Until it has, or the
    /// close times out, its input stays in the socket, so that a peer that only sends can't keep the connection open.
    pub(super) fn is_input_paused(&self, who: Local) -> bool {
        let closing = matches!(self.peers[who.slot as usize].phase, Phase::Closing | Phase::Draining);
        closing && self.delivery.is_open(who) && self.delivery.backlog(who.slot) > 0
    }

    /// Notes a sign of life: the peer sent something, or read some of its backlog.
    pub(super) fn shows_life(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        peer.since = self.now;
        peer.pinged = false;
    }

    /// Decodes input and calls the callbacks, until one of them has to wait.
    pub(super) fn feed(&mut self, who: Local, input: &mut [u8]) {
        let slot = who.slot as usize;
        let encoding = self.delivery.encoding(who.slot);
        if encoding.is_stream() {
            self.handle_stray(who, input);
            return;
        }
        let deflate = encoding == Encoding::Deflate;
        let max_message =
            self.endpoints[self.peers[slot].endpoint].as_ref().map_or(0, |e| e.route.max_message);
        let mut decoder = std::mem::take(&mut self.peers[slot].decoder);
        let mut message_ended = false;
        let mut at = 0;
        while at < input.len() && self.delivery.is_open(who) {
            match self.peers[slot].phase {
                Phase::Open | Phase::Closing => {}
                Phase::Ending if self.ending(slot) == Some(Phase::Closing) => {} // the peer's close frame is still accepted
                Phase::Ending | Phase::Draining | Phase::Finishing | Phase::Closed => break,
            }
            if self.is_waiting(slot) {
                self.pending(slot).unread.extend_from_slice(&input[at..]);
                break;
            }
            let decoded = if deflate {
                decoder.decode_deflate(&mut input[at..], max_message)
            } else {
                decoder.decode(&mut input[at..], max_message)
            };
            match decoded {
                Ok((n, event)) => {
                    at += n;
                    if let Some(event) = event {
                        message_ended |= matches!(
                            event,
                            Received::Text(_) | Received::Binary(_) | Received::Compressed { .. }
                        );
                        if self.delivery.is_tapped(who.slot) {
                            self.report_and_handle(who, event, max_message);
                        } else {
                            self.received(who, event, max_message);
                        }
                    }
                }
                Err(error) => {
                    self.protocol_error(who, &error);
                    break;
                }
            }
        }
        if !self.delivery.is_open(who) {
            return;
        }
        let now = self.now;
        let idle = decoder.is_idle();
        let peer = &mut self.peers[slot];
        if !idle || peer.pending.is_some() {
            let unread = peer.pending.as_ref().map_or(0, |pending| pending.unread.capacity());
            self.delivery.set_incoming(who.slot, decoder.held_bytes() + unread);
        }
        peer.decoder = decoder;
        if !idle {
            let pending = peer.pending.get_or_insert_default();
            if message_ended || pending.unfinished.is_none() {
                pending.unfinished = Some(now);
            }
        } else if let Some(pending) = &mut peer.pending {
            pending.unfinished = None;
        }
        self.free_pending(slot);
    }

    /// Ends an event stream whose client sends input behind its request: reading that endlessly would waste CPU. One
    /// line break is ignored, as in front of a request (RFC 9112, section 2.2).
    fn handle_stray(&mut self, who: Local, input: &[u8]) {
        let seen = &mut self.peers[who.slot as usize].stray;
        let line_break = &b"\r\n"[usize::from(*seen)..];
        if line_break.starts_with(input) {
            *seen += input.len() as u8;
            return;
        }
        self.handle.count(ShardCounter::ProtocolErrors, 1);
        limited!(DEBUG, "a client sent data on an event stream, which was ended");
        self.finish(who, Close::new(CloseCode::PROTOCOL, "an event stream takes no data"));
    }

    /// Handles one event of the codec.
    pub(super) fn received(&mut self, who: Local, event: Received<'_>, max_message: usize) {
        let closing = self.peers[who.slot as usize].phase != Phase::Open;
        match event {
            Received::Text(_) | Received::Binary(_) | Received::Compressed { .. } | Received::Ping(_)
                if closing => {}
            Received::Compressed { text, payload } => match inflated(text, &payload, max_message) {
                Ok(event) => self.received(who, event, max_message),
                Err(error) => self.protocol_error(who, &error),
            },
            Received::Text(_) if self.accepted_kinds(who) == MessageKinds::Binary => {
                self.unsupported(who, "this endpoint takes binary messages only");
            }
            Received::Binary(_) if self.accepted_kinds(who) == MessageKinds::Text => {
                self.unsupported(who, "this endpoint takes text messages only");
            }
            Received::Text(payload) => {
                self.handle.count(ShardCounter::Messages, 1);
                self.call(who, Call::Message(Message::from_checked_text(payload.into_bytes())));
            }
            Received::Binary(payload) => {
                self.handle.count(ShardCounter::Messages, 1);
                self.call(who, Call::Message(Message::binary(payload.into_bytes())));
            }
            Received::Ping(payload) => {
                self.uncork(who);
                codec::encode_frame(&mut self.control.bytes, Opcode::Pong, &payload);
                self.send_control(who);
            }
            Received::Pong(_) => {}
            Received::Close { code, reason } => {
                let code = code.map_or(CloseCode::NO_STATUS, CloseCode::from_peer);
                let close = Close::new(code, reason.into_owned());
                self.uncork(who);
                self.close_in_order(who, close, Phase::Finishing);
            }
        }
    }

    /// Reports an event to the connection's taps, then handles it.
    #[cold]
    fn report_and_handle(&mut self, who: Local, event: Received<'_>, max_message: usize) {
        self.delivery.report_received(who, &event);
        self.received(who, event, max_message);
    }

    /// Handles the end of the peer's input.
    pub(super) fn input_ended(&mut self, who: Local) {
        self.finish(who, Close::new(CloseCode::ABNORMAL, ""));
    }

    /// Handles a disconnect while a callback waits: the connection counts as closed at once, and earlier input is still
    /// handled.
    pub(super) fn hung_up(&mut self, who: Local) {
        let peer = &mut self.peers[who.slot as usize];
        if !std::mem::replace(&mut peer.hung_up, true) {
            self.mark_closed(who);
        }
    }

    /// Returns the kinds of messages that the connection's endpoint accepts.
    fn accepted_kinds(&self, who: Local) -> MessageKinds {
        let endpoint = &self.endpoints[self.peers[who.slot as usize].endpoint];
        endpoint.as_ref().map_or(MessageKinds::All, |endpoint| endpoint.route.accepts)
    }

    /// Closes a connection whose peer sent a kind of message that the endpoint doesn't accept.
    fn unsupported(&mut self, who: Local, reason: &'static str) {
        self.handle.count(ShardCounter::ProtocolErrors, 1);
        self.uncork(who);
        self.close_in_order(who, Close::new(CloseCode::UNSUPPORTED, reason), Phase::Draining);
    }

    pub(super) fn protocol_error(&mut self, who: Local, error: &ProtocolError) {
        self.handle.count(ShardCounter::ProtocolErrors, 1);
        limited!(DEBUG, code = error.code, reason = error.reason, "a peer broke the protocol");
        let close = Close::new(CloseCode::from_peer(error.code), error.reason);
        self.uncork(who);
        self.close_in_order(who, close, Phase::Draining);
    }

    /// Sends the frames that a callback pushed to its own connection, in one write.
    pub(super) fn uncork(&mut self, who: Local) {
        let mut frames = cork::take();
        if !frames.bytes.is_empty() && self.delivery.is_open(who) {
            self.delivery.send_encoded(who.slot, &mut frames);
        }
        cork::give_back(frames);
    }

    /// Writes the outbox, now that the socket takes more.
    pub(super) fn flush(&mut self, who: Local) {
        let before = self.delivery.backlog(who.slot);
        self.delivery.flush(who.slot);
        let backlog = self.delivery.backlog(who.slot);
        if backlog < before {
            // The full socket took more, so the peer has acknowledged some. Its answer to a ping is still far off if
            // the ping is at the end of a long backlog.
            self.shows_life(who.slot as usize);
        }
        let phase = self.peers[who.slot as usize].phase;
        if backlog == 0 {
            match phase {
                Phase::Finishing => self.finish_as_begun(who),
                Phase::Draining => self.shut_down_writing(who.slot),
                _ => {}
            }
            let slot = who.slot as usize;
            if phase != Phase::Open
                && self.delivery.is_open(who)
                && !self.is_waiting(slot)
                && self.peers[slot].unread_socket
            {
                self.peers[slot].unread_socket = false;
                self.read(who, true);
            }
        }
    }

    /// Shuts down our side of the socket, while we still read.
    pub(super) fn shut_down_writing(&self, slot: u32) {
        if let Some(wire) = self.delivery.wire(slot) {
            let _ = wire.shutdown(Shutdown::Write); // fails only if the socket is already closed
        }
    }
}

/// Inflates a compressed message.
fn inflated(text: bool, compressed: &[u8], max_message: usize) -> Result<Received<'static>, ProtocolError> {
    let bytes = inflate(compressed, max_message)?;
    match text {
        true if simdutf8::basic::from_utf8(&bytes).is_err() => Err(ProtocolError::INVALID_UTF8),
        true => Ok(Received::Text(Payload::Owned(bytes))),
        false => Ok(Received::Binary(Payload::Owned(bytes))),
    }
}
