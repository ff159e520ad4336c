//! A shard's delivery, side by side with the naive model.

use super::*;

/// A shard's delivery and mailbox, side by side with the naive model.
pub(super) struct DeliveryWorld {
    pub(super) delivery: Delivery<FakeSocket>,
    pub(super) mailbox: Arc<Mailbox<Command<FakeSocket>>>,
    pub(super) _registry: Arc<Registry<FakeSocket>>,
    pub(super) rooms: Vec<Arc<RoomCore<FakeSocket>>>,
    /// By room: the number of messages pushed.
    pub(super) pushed: [u64; ROOMS],
    /// By room: the offset of the last message that was broadcast here.
    pub(super) broadcast: [u64; ROOMS],
    pub(super) todo: VecDeque<Command<FakeSocket>>,
    /// Taps that are still observed.
    pub(super) taps: Vec<Tap>,
    /// The number of faults that were checked.
    pub(super) faults: usize,
    /// All connections so far, including closed ones.
    pub(super) all: Vec<Expected>,
    /// The most connections at a time.
    pub(super) max: usize,
    /// The number of texts so far, which makes each one unique.
    pub(super) number: usize,
}

impl DeliveryWorld {
    pub(super) fn new() -> Self {
        let mailbox = Arc::new(Mailbox::new());
        let registry = Arc::new(Registry::new([mailbox.clone()].into(), Arc::default()));
        let rooms = (0..ROOMS).map(|n| registry.room(&n.to_string())).collect();
        Self {
            delivery: Delivery::new(0, Arc::new(MemoryBudget::new(1 << 30, 1)), false),
            mailbox,
            _registry: registry,
            rooms,
            pushed: [0; ROOMS],
            broadcast: [0; ROOMS],
            todo: VecDeque::new(),
            taps: Vec::new(),
            faults: 0,
            all: Vec::new(),
            max: CONNECTIONS,
            number: 0,
        }
    }

    pub(super) fn text(&mut self, len: usize) -> String {
        self.number += 1;
        format!("{}:{}", self.number, "x".repeat(len))
    }

    /// Picks a connection that has not been released.
    pub(super) fn pick(&self, number: usize) -> Option<usize> {
        let there: Vec<_> =
            (0..self.all.len()).filter(|&i| self.all[i].phase != ModelPhase::Released).collect();
        (!there.is_empty()).then(|| there[number % there.len()])
    }

    /// Picks a connection that has a socket, if the number hits one.
    pub(super) fn pick_open(&self, number: usize) -> Option<usize> {
        self.pick(number).filter(|&i| self.all[i].phase != ModelPhase::Detached)
    }

    pub(super) fn find(&mut self, who: Local) -> &mut Expected {
        self.all.iter_mut().find(|e| e.who == who).expect("commands are posted for known connections")
    }

    pub(super) fn room_number(&self, room: &Arc<RoomCore<FakeSocket>>) -> usize {
        self.rooms.iter().position(|other| Arc::ptr_eq(other, room)).expect("the rooms are kept")
    }

    pub(super) fn run(&mut self, op: Op) {
        match op {
            Op::Open { sse, lossy, space } => {
                if self.all.iter().filter(|e| e.phase != ModelPhase::Released).count() < self.max {
                    let encoding = match (sse, self.all.len() % 3) {
                        (true, 0) => Encoding::Sse,
                        (true, _) => Encoding::SseChunked,
                        (false, 0) => Encoding::Deflate,
                        (false, _) => Encoding::WebSocket,
                    };
                    self.open(
                        encoding,
                        if lossy { Overflow::DropOldest } else { Overflow::Disconnect },
                        space,
                    );
                }
            }
            Op::Join { who, room, snapshot } => {
                let Some(i) = self.pick(who) else { return };
                let message = snapshot.then(|| Message::text(self.text(5)));
                let joined = self.rooms[room].join(self.all[i].who, message);
                let open = self.all[i].phase == ModelPhase::Open;
                assert!(if open { joined.is_ok() } else { matches!(joined, Err(Error::Closed)) });
            }
            Op::Leave { who, room } => {
                let Some(i) = self.pick(who) else { return };
                self.rooms[room].leave(self.all[i].who);
            }
            Op::Broadcast { room, len } => {
                let text = self.text(len);
                assert_eq!(self.rooms[room].push(&Message::text(text)), Sent::Queued);
                self.pushed[room] += 1;
            }
            Op::Push { who, len } => {
                let Some(i) = self.pick(who) else { return };
                let message = Message::text(self.text(len));
                if self.mailbox.is_live(self.all[i].who) {
                    self.mailbox.post(Command::Push { to: self.all[i].who, message, of: None });
                }
            }
            Op::Own { who, frames } => {
                let Some(i) = self.pick(who) else { return };
                let texts: Vec<_> = (0..frames).map(|_| self.text(3)).collect();
                let expected = &mut self.all[i];
                let units: Vec<_> = texts.iter().map(|t| encoded(expected.encoding, t, None)).collect();
                let mut own = Joined::default();
                for unit in &units {
                    own.bytes.extend_from_slice(unit);
                    own.end(Tag::default());
                }
                if expected.phase == ModelPhase::Open {
                    expected.frames.extend(units);
                }
                if expected.phase != ModelPhase::Released {
                    self.delivery.send_encoded(expected.who.slot, &mut own);
                    assert!(own.bytes.is_empty() && own.ends.is_empty());
                }
            }
            Op::Append { who } => {
                let Some(i) = self.pick_open(who) else { return };
                // Control bytes are never dropped for frames. A few of them would leave a small outbox no space for frames.
                if !self.all[i].lossy() {
                    self.append(i);
                }
            }
            Op::CatchUp { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.delivery.catch_up(self.all[i].who.slot);
            }
            Op::Space { who, bytes } => {
                let Some(i) = self.pick_open(who) else { return };
                self.all[i].peer.0.space.store(bytes, Relaxed);
            }
            Op::Flush { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.delivery.flush(self.all[i].who.slot);
            }
            Op::FanOut { limit } => self.fan_out(limit),
            Op::Apply { commands } => self.apply(commands),
            Op::Faults => self.faults(),
            Op::Lose { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.all[i].peer.0.lost.store(true, Relaxed);
                self.all[i].cut = true;
            }
            Op::Mute { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.delivery.mute(self.all[i].who.slot);
            }
            Op::Tap { who, keep } => {
                let Some(i) = self.pick_open(who) else { return };
                let (tap, sender) = Tap::new();
                self.delivery.tap(self.all[i].who, sender);
                if keep {
                    self.taps.push(tap);
                } else {
                    self.taps.pop();
                }
            }
            Op::Close { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.close(i);
            }
            Op::Detach { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.detach(i);
            }
            Op::Release => {
                let Some(expected) = self.all.iter_mut().find(|e| e.phase == ModelPhase::Detached) else {
                    return;
                };
                expected.phase = ModelPhase::Released;
                self.delivery.release(expected.who);
            }
        }
    }

    /// Delivers the frames that wait in rooms to at most `limit` members.
    fn fan_out(&mut self, limit: usize) {
        let Delivery { rooms, sender } = &mut self.delivery;
        rooms.fan_out(sender, limit);
    }

    pub(super) fn open(&mut self, encoding: Encoding, overflow: Overflow, space: usize) {
        let who = self.delivery.reserve(usize::MAX).expect("slots are unlimited");
        let policy = OutboxPolicy { outbox: LIMIT, overflow, compress_above: usize::MAX };
        let peer = FakeSocket::default();
        peer.0.space.store(space, Relaxed);
        assert!(self.all.iter().all(|e| e.who != who), "an id was used twice");
        self.delivery.open(who, peer.clone(), encoding, policy);
        self.mailbox.lock().open(who);
        self.all.push(Expected {
            who,
            peer,
            encoding,
            policy,
            phase: ModelPhase::Open,
            rooms: Vec::new(),
            frames: Vec::new(),
            control: Vec::new(),
            cut: false,
        });
    }

    pub(super) fn append(&mut self, i: usize) {
        let number = self.text(0);
        let expected = &mut self.all[i];
        let bytes = match expected.encoding {
            Encoding::WebSocket | Encoding::Deflate => {
                [&[0x8a, number.len() as u8], number.as_bytes()].concat()
            }
            Encoding::Sse => format!(":{number}\n\n").into_bytes(),
            Encoding::SseChunked => in_a_chunk(format!(":{number}\n\n").as_bytes()),
        };
        self.delivery.append(expected.who.slot, &bytes);
        expected.control.push(bytes);
    }

    /// Begins to close a connection, as the shard does.
    pub(super) fn close(&mut self, i: usize) {
        if self.all[i].phase != ModelPhase::Open {
            return;
        }
        let who = self.all[i].who;
        self.delivery.catch_up(who.slot);
        self.all[i].cut |= self.delivery.is_mute(who.slot);
        self.mailbox.lock().close(who);
        self.delivery.leave_all(who);
        self.append(i);
        self.delivery.mute(who.slot);
        self.all[i].rooms.clear();
        self.all[i].phase = ModelPhase::Closing;
    }

    /// Drops a socket, as the shard does.
    pub(super) fn detach(&mut self, i: usize) {
        let who = self.all[i].who;
        self.mailbox.lock().close(who);
        assert!(self.delivery.detach(who).is_some());
        self.all[i].rooms.clear();
        self.all[i].phase = ModelPhase::Detached;
        self.all[i].cut = true;
    }

    /// Closes connections that have a fault, as the shard does.
    pub(super) fn faults(&mut self) {
        while let Some((who, fault)) = self.delivery.next_fault() {
            self.faults = self.faults.min(self.delivery.sender.faults().len());
            if !self.delivery.is_open(who) {
                continue;
            }
            let i = self.all.iter().position(|e| e.who == who).expect("a fault of a known connection");
            let expected = &self.all[i];
            match fault {
                DeliveryFault::Lost => {
                    assert!(expected.peer.0.lost.load(Relaxed));
                    self.detach(i);
                }
                DeliveryFault::SlowConsumer => {
                    if expected.phase == ModelPhase::Open {
                        self.delivery.discard_backlog(who.slot, Dropped::SlowConsumer);
                        self.close(i);
                    }
                }
                DeliveryFault::Shed | DeliveryFault::Cut | DeliveryFault::Unfinished => {
                    unreachable!("this test sheds nothing")
                }
            }
        }
    }

    /// Applies up to `commands` commands, to the delivery and to the model.
    pub(super) fn apply(&mut self, commands: usize) {
        self.mailbox.drain_into(&mut self.todo);
        for _ in 0..commands {
            let Some(command) = self.todo.pop_front() else { return };
            self.mailbox.taken_up();
            match command {
                Command::Push { to, message, of } => {
                    let position = of.and_then(|of| of.position);
                    let expected = self.find(to);
                    if expected.phase == ModelPhase::Open {
                        let text = message.as_text().unwrap();
                        expected.frames.push(encoded(expected.encoding, text, position));
                    }
                    self.delivery.push(to, &message, of);
                }
                Command::Broadcast { room, message, offset } => {
                    let number = self.room_number(&room);
                    assert!(offset > self.broadcast[number] && offset <= self.pushed[number]);
                    self.broadcast[number] = offset;
                    let position = Some(room.position(offset));
                    for expected in self.all.iter_mut().filter(|e| e.rooms.contains(&number)) {
                        let text = message.as_text().unwrap();
                        expected.frames.push(encoded(expected.encoding, text, position));
                    }
                    self.delivery.broadcast(&room, &message, offset);
                }
                Command::Join { who, room } => {
                    let number = self.room_number(&room);
                    if self.delivery.is_open(who) && !self.delivery.is_mute(who.slot) {
                        let expected = self.find(who);
                        assert!(!expected.rooms.contains(&number), "joined twice");
                        expected.rooms.push(number);
                    }
                    self.delivery.join(who, &room);
                }
                Command::Leave { who, room } => {
                    let number = self.room_number(&room);
                    self.find(who).rooms.retain(|&other| other != number);
                    self.delivery.leave(who, &room);
                }
                Command::End { .. }
                | Command::Open(_)
                | Command::Tap { .. }
                | Command::Close { .. }
                | Command::Done { .. }
                | Command::Shed
                | Command::Shutdown => {
                    unreachable!("this test posts none")
                }
            }
        }
    }

    /// Checks that only connections that exceed their limit are closed as slow consumers.
    pub(super) fn check_new_faults(&mut self) {
        for (who, fault) in &self.delivery.sender.faults()[self.faults..] {
            let expected = self.all.iter().find(|e| e.who == *who).expect("a fault of a known connection");
            if *fault == DeliveryFault::SlowConsumer {
                let all: usize = expected.frames.iter().chain(&expected.control).map(Vec::len).sum();
                let waiting = all - expected.peer.0.written.lock().len();
                // Each waiting piece adds a fixed overhead.
                let cost = waiting + PIECE * (expected.frames.len() + expected.control.len());
                assert!(cost > LIMIT && !expected.lossy(), "closed as slow, with {waiting} bytes waiting");
            }
        }
        self.faults = self.delivery.sender.faults().len();
    }

    /// Checks what must be true at any moment.
    pub(super) fn check(&mut self) {
        self.check_new_faults();
        self.delivery.sender.assert_consistent();
        self.delivery.rooms.assert_consistent(self.delivery.sender.slots());
        for expected in &mut self.all {
            let open = matches!(expected.phase, ModelPhase::Open | ModelPhase::Closing);
            assert_eq!(self.delivery.is_open(expected.who), open);
            if expected.phase == ModelPhase::Open {
                expected.cut |= self.delivery.is_mute(expected.who.slot);
            }
            expected.check(false);
        }
        if self.todo.is_empty() && self.mailbox.is_quiet() {
            for (number, room) in self.rooms.iter().enumerate() {
                let mut counted: Vec<_> = room.members().into_iter().map(Local::pack).collect();
                let members = self.all.iter().filter(|e| e.rooms.contains(&number));
                let mut expected: Vec<_> = members.map(|e| e.who.pack()).collect();
                counted.sort_unstable();
                expected.sort_unstable();
                assert_eq!(counted, expected);
            }
        }
    }

    /// Delivers everything and checks it. Returns the number of missing frames and control units.
    pub(super) fn finish(&mut self) -> usize {
        while !self.todo.is_empty() || !self.mailbox.is_quiet() {
            self.apply(usize::MAX);
        }
        self.check();
        let mut turns = 0;
        while self.delivery.is_dirty() {
            self.fan_out(3);
            self.check();
            turns += 1;
            assert!(turns < 1000, "fan-outs do not end");
        }
        assert_eq!(self.delivery.waiting(), 0);
        for expected in &mut self.all {
            if matches!(expected.phase, ModelPhase::Open | ModelPhase::Closing) {
                expected.peer.0.space.store(usize::MAX, Relaxed);
                self.delivery.flush(expected.who.slot);
                assert_eq!(self.delivery.backlog(expected.who.slot), 0);
            }
        }
        self.check();
        self.all.iter().map(|expected| expected.check(true)).sum()
    }
}
