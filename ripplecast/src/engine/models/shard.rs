//! The models' shard, without sockets and callbacks.

use super::*;

/// A socket that accepts everything, or nothing while it is stuck.
#[derive(Clone, Default)]
pub(super) struct Pipe {
    pub(super) taken: Arc<std::sync::Mutex<Vec<u8>>>,
    pub(super) stuck: Arc<std::sync::atomic::AtomicBool>,
}

impl Wire for Pipe {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.taken.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Pipe {
    /// Returns the payloads that it has accepted. They must be short.
    pub(super) fn received(&self) -> Vec<String> {
        let written = self.taken.lock().unwrap();
        let (mut received, mut rest) = (Vec::new(), &written[..]);
        while let [_, len, frame @ ..] = rest {
            let (payload, behind) = frame.split_at(usize::from(*len));
            received.push(String::from_utf8_lossy(payload).into_owned());
            rest = behind;
        }
        received
    }
}

/// Wakes a shard, as a task or as a thread.
#[derive(Default)]
pub(super) struct Bell(pub(super) Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

impl Alarm for Bell {
    fn ring(&self) {
        self.0.notify();
    }
}

/// A shard without sockets and callbacks.
pub(super) struct ModelShard {
    pub(super) delivery: Delivery<Pipe>,
    pub(super) mailbox: Arc<Mailbox<Command<Pipe>>>,
    pub(super) todo: VecDeque<Command<Pipe>>,
    /// The offset of the room's latest message; each model has one room.
    pub(super) offset: u64,
    pub(super) stopping: bool,
    /// Another shard that must shed.
    pub(super) pass_on: Option<usize>,
}

impl ModelShard {
    pub(super) fn new(index: usize, mailboxes: &[Arc<Mailbox<Command<Pipe>>>]) -> Self {
        Self::with_budget(index, mailboxes, Arc::new(MemoryBudget::new(1 << 20, mailboxes.len())))
    }

    pub(super) fn with_budget(
        index: usize,
        mailboxes: &[Arc<Mailbox<Command<Pipe>>>],
        budget: Arc<MemoryBudget>,
    ) -> Self {
        let mailbox = mailboxes[index].clone();
        Self {
            delivery: Delivery::new(index as u8, budget, false),
            mailbox,
            todo: VecDeque::new(),
            offset: 0,
            stopping: false,
            pass_on: None,
        }
    }

    /// Opens a connection, as the shard does.
    pub(super) fn open(&mut self) -> (Local, Pipe) {
        self.open_under(Overflow::Disconnect)
    }

    pub(super) fn open_under(&mut self, overflow: Overflow) -> (Local, Pipe) {
        let who = self.delivery.reserve(8).unwrap();
        let pipe = Pipe::default();
        self.delivery.open(
            who,
            pipe.clone(),
            Encoding::WebSocket,
            OutboxPolicy { outbox: 1 << 20, overflow, compress_above: usize::MAX },
        );
        self.mailbox.lock().open(who);
        (who, pipe)
    }

    /// Begins to close, as the shard does: the connection is no longer reachable, but keeps its socket.
    pub(super) fn begin_close(&mut self, who: Local) {
        self.delivery.catch_up(who.slot);
        self.mark_closed(who);
        self.delivery.append(who.slot, b"\x88\x03bye");
        self.delivery.mute(who.slot);
    }

    /// Marks a connection as closed and removes it from all rooms, as the shard does. This includes rooms that already count
    /// it although its join is still waiting.
    pub(super) fn mark_closed(&mut self, who: Local) {
        let mut mailbox = self.mailbox.lock();
        mailbox.close(who);
        let mut joining = Vec::new();
        if self.mailbox.has_joins() {
            joining
                .extend(self.todo.iter().chain(mailbox.commands()).filter_map(|command| command.joins(who)));
        }
        drop(mailbox);
        for room in joining {
            room.forget(who);
        }
        self.delivery.leave_all(who);
    }

    /// Drops the socket, as the shard does.
    pub(super) fn finish(&mut self, who: Local) {
        self.mark_closed(who);
        drop(self.delivery.detach(who));
        self.delivery.release(who);
    }

    /// Runs a turn, as the shard does.
    pub(super) fn turn(&mut self) {
        self.mailbox.drain_into(&mut self.todo);
        while let Some(command) = self.todo.pop_front() {
            self.mailbox.taken_up();
            if matches!(command, Command::Join { .. }) {
                self.mailbox.join_taken_up();
            }
            match command {
                Command::Push { to, message, of } => self.delivery.push(to, &message, of),
                Command::Broadcast { room, message, offset } => {
                    assert!(offset > self.offset, "the room's offsets are out of order");
                    self.offset = offset;
                    self.delivery.broadcast(&room, &message, offset);
                }
                Command::Join { who, room } => self.delivery.join(who, &room),
                Command::Leave { who, room } => self.delivery.leave(who, &room),
                Command::Close { who, .. } => self.begin_close(who),
                Command::Shed => self.pass_on = self.delivery.shed().or(self.pass_on),
                Command::Shutdown => self.stopping = true,
                Command::End { .. } | Command::Open(_) | Command::Tap { .. } | Command::Done { .. } => {
                    unreachable!("no model posts these")
                }
            }
        }
        while self.delivery.is_dirty() {
            self.delivery.fan_out();
        }
        self.pass_on = self.delivery.shed_if_over().or(self.pass_on);
        while let Some((who, fault)) = self.delivery.next_fault() {
            assert_eq!(fault, DeliveryFault::Shed);
            self.finish(who);
        }
    }

    /// Runs a turn, and wakes the shard that has a slower connection.
    pub(super) fn turn_and_forward(&mut self, mailboxes: &[Arc<Mailbox<Command<Pipe>>>]) {
        self.turn();
        if let Some(shard) = self.pass_on.take() {
            mailboxes[shard].post(Command::Shed);
        }
    }

    /// Runs turns until shutdown, and sleeps as a task in between, as the event loop does.
    pub(super) fn run_as_task(mut self) -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        loop {
            self.turn();
            if self.stopping {
                return self;
            }
            while self.mailbox.poll_ready(&mut Context::from_waker(&waker)).is_pending() {
                bell.0.wait();
            }
            self.mailbox.awake();
        }
    }

    /// Runs turns until shutdown, and sleeps as a thread in between, as the event loop does.
    pub(super) fn run_as_thread(mut self) -> Self {
        let bell = Arc::new(Bell::default());
        let alarm: Arc<dyn Alarm> = bell.clone();
        while !self.stopping {
            let asleep = self.mailbox.try_sleep(&alarm);
            if asleep {
                bell.0.wait();
            }
            self.turn();
            if asleep {
                self.mailbox.awake();
            }
        }
        self
    }
}

pub(super) fn mailboxes(shards: usize) -> Arc<[Arc<Mailbox<Command<Pipe>>>]> {
    (0..shards).map(|_| Arc::new(Mailbox::new())).collect()
}

/// Creates one shard and its rooms.
pub(super) fn one_shard() -> (ModelShard, Arc<Registry<Pipe>>) {
    let mailboxes = mailboxes(1);
    (ModelShard::new(0, &mailboxes), Arc::new(Registry::new(mailboxes, Arc::default())))
}

pub(super) fn push(mailbox: &Mailbox<Command<Pipe>>, to: Local, text: &'static str) {
    mailbox.post(Command::Push { to, message: text.into(), of: None });
}
