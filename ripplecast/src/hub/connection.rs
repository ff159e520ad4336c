//! A connection as the application sees it, its id, and what `push` says.

use std::{any::Any, fmt, future::Future, sync::Arc};

use crate::{
    Close, CloseCode, Error, Frame, Result,
    engine::{Command, Group, Reach, ShardHandle, Shards, Tap, cork},
    id::{ConnectionId, Local},
    limits::CLOSE_REASON,
    name::check_name,
    outcome::Sent,
    text::prefix,
};

/// A handle to one open socket or event stream; cheap to clone, and to keep: it holds nothing of the connection open.
///
/// Everything may be called from any thread and any callback. Frames arrive in the order in which they were pushed.
///
/// **On close.** After the peer has gone, [`push`](Self::push) says [`Sent::Closed`] and [`join`](Self::join) is an error;
/// nothing can reach another connection instead, as ids are never used again.
#[derive(Clone)]
pub struct Connection {
    /// The shard that it belongs to.
    shard: Arc<ShardHandle>,
    /// Which of its connections it is.
    local: Local,
}

impl Connection {
    /// A connection of that shard.
    pub(crate) fn new(shard: Arc<ShardHandle>, local: Local) -> Self {
        Self { shard, local }
    }

    /// Its id.
    pub fn id(&self) -> ConnectionId {
        ConnectionId::new(self.shard.node, self.local)
    }

    /// Sends a frame. Never waits.
    ///
    /// Inside a callback of the connection itself, what is pushed goes out together when the callback returns or waits.
    pub fn push(&self, frame: impl Into<Frame>) -> Sent {
        let frame = frame.into();
        if let Some(sent) = cork::push(&self.shard, self.local, &frame) {
            return sent;
        }
        let mut mailbox = self.shard.mailbox.lock();
        if !mailbox.state.is_live(self.local) {
            return Sent::Closed;
        }
        let posted = mailbox.check(frame.len());
        if let Err(error) = &posted {
            drop(mailbox);
            if matches!(error, Error::Overloaded { .. }) {
                self.shard.setup.drops.refused(Some(self.id()));
            }
            return Sent::from_posted(&posted);
        }
        let wake = mailbox.post(Command::Push { to: self.local, frame, of: None });
        drop(mailbox);
        drop(wake);
        Sent::Queued
    }

    /// Begins to close: what was pushed before still goes out, then a close frame with the code and the reason (cut to
    /// the 123 bytes that fit), then the socket closes when the peer has answered, or after 5 s. `on_close` is called
    /// with this code. An event stream has no close frame; it just ends, and the browser reconnects.
    ///
    /// From now on the connection counts as closed. Says [`Sent::Closed`] when it already was.
    pub fn close(&self, code: CloseCode, reason: impl Into<String>) -> Sent {
        let mut reason: String = reason.into();
        reason.truncate(prefix(&reason, CLOSE_REASON).len());
        let close = Close::new(code, reason);
        let mut mailbox = self.shard.mailbox.lock();
        if !mailbox.state.close(self.local) {
            return Sent::Closed;
        }
        let wake = mailbox.post(Command::Close { who: self.local, close });
        drop(mailbox);
        drop(wake);
        Sent::Queued
    }

    /// Whether it is open. A dead WebSocket peer is noticed within its endpoint's `ping_interval` and
    /// `pong_timeout`, and a second: 36 s by default.
    pub fn is_open(&self) -> bool {
        self.shard.mailbox.is_live(self.local)
    }

    /// Ends when the connection closes; at once if it is closed. For a handler that waits for something else as well.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut mailbox = self.shard.mailbox.lock();
        let live = mailbox.state.is_live(self.local);
        let ended = live.then(|| mailbox.state.details.wait(self.local));
        async move {
            if let Some(ended) = ended {
                let _ = ended.await; // the sender is only ever dropped
            }
        }
    }

    /// Joins a room. Never waits. Joining a room twice has no further effect.
    ///
    /// **Several nodes.** Whatever this node pushes to the room after the call arrives. Pushes of other nodes arrive
    /// once this node's subscription to the room is active, which takes a round trip to Redis for the first member on a
    /// node. Until then they are missed, and can't be counted. If that matters, await
    /// [`join_confirmed`](Self::join_confirmed). [`RemoteStats::unconfirmed`](crate::RemoteStats::unconfirmed) counts
    /// such joins, and [`on_gap`](crate::HubBuilder::on_gap) reports those that take longer than 1 s.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed; [`Error::TooManyRooms`] when it is in 1,000 rooms, or as many as
    /// [`HubBuilder::max_rooms_per_connection`](crate::HubBuilder::max_rooms_per_connection) allows; [`Error::Overloaded`]
    /// when its shard is so far behind that its mailbox is full; [`Error::NameTooLong`] above 255 bytes.
    pub fn join(&self, room: &str) -> Result<()> {
        check_name("room name", room)?;
        let shards = self.shards()?;
        shards.rooms.room(room).join(self.local, None)
    }

    /// Joins a room, as [`join`](Self::join) does, and waits until pushes of all nodes reach this connection: whatever
    /// any node pushes after this returns arrives. Costs no more than a `join` if the node has a member already.
    ///
    /// To send a snapshot of state that other nodes change, take it after this has returned, and send it with
    /// [`join_with`](Self::join_with).
    ///
    /// While Redis is unavailable this does not fail: the connection is a member on this node, this returns
    /// [`Reach::ThisNode`], and pushes of other nodes arrive once Redis is back. It waits for at most 2 s, and not at
    /// all while Redis is known to be unavailable.
    ///
    /// # Errors
    /// As [`join`](Self::join); [`Error::Closed`] also when the connection closes meanwhile.
    ///
    /// # Cancellation
    /// Once the future was polled, the connection is a member, even if the future is dropped.
    pub async fn join_confirmed(&self, room: &str) -> Result<Reach> {
        self.join(room)?;
        self.reach(Group::Room(room)).await
    }

    /// Makes it a member of a room and sends it `snapshot`, in one step: the snapshot is the first frame that it gets of
    /// that room. Of what this node pushes to the room, nothing earlier comes after it, and nothing later is missed. Take
    /// the snapshot under the same lock under which the room is pushed to; a [`LiveCounter`](crate::LiveCounter) does, on
    /// all nodes.
    ///
    /// What other nodes push may be missed at first, as with [`join`](Self::join). If the connection is a member already, only
    /// the snapshot is sent.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_with(&self, room: &str, snapshot: impl Into<Frame>) -> Result<()> {
        check_name("room name", room)?;
        let shards = self.shards()?;
        shards.rooms.room(room).join(self.local, Some(snapshot.into()))
    }

    /// Makes it no member of a room. What was pushed to the room before still arrives. Whether it was a member.
    pub fn leave(&self, room: &str) -> bool {
        self.shards().is_ok_and(|shards| shards.rooms.room(room).leave(self.local))
    }

    /// Identifies the connection as a client's: [`hub.client(id)`](crate::Hub::client) reaches it on this node at once,
    /// and on every node when this returns [`Reach::AllNodes`]. The id must come from your own check of a session or
    /// token, never from the peer itself. A second call changes the client.
    ///
    /// With Redis this waits until the other nodes can find the client: a round trip, shared by up to 256 that are
    /// identified at the same time. While Redis is unavailable it does not fail: it returns [`Reach::ThisNode`], and
    /// the other nodes find the client once Redis is back. It waits for at most 2 s, and not at all while Redis is
    /// known to be unavailable.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed, or closes meanwhile; [`Error::NameTooLong`] above 255 bytes.
    ///
    /// # Cancellation
    /// Once the future was polled, the connection is identified, and is registered for the other nodes as soon as
    /// possible, even if the future is dropped.
    pub async fn identify(&self, client_id: &str) -> Result<Reach> {
        check_name("client id", client_id)?;
        self.shards()?.clients.identify(&self.shard.mailbox, self.local, client_id)?;
        self.reach(Group::Client(client_id)).await
    }

    /// Waits until other nodes reach it as a member of that group.
    async fn reach(&self, group: Group<'_>) -> Result<Reach> {
        let shards = self.shards()?;
        let Some(bridge) = shards.setup.bridge() else { return Ok(Reach::AllNodes) };
        let reach = bridge.reach(group).await;
        if self.is_open() { Ok(reach) } else { Err(Error::Closed) }
    }

    /// The client that it was identified as.
    pub fn client_id(&self) -> Option<Arc<str>> {
        self.shard.mailbox.lock().state.details.client(self.local)
    }

    /// Keeps a value with the connection, one of each type, until `on_close` has returned.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed.
    pub fn set_state<T: Any + Send + Sync>(&self, value: T) -> Result<()> {
        let value = Arc::new(value);
        let mut mailbox = self.shard.mailbox.lock();
        if !mailbox.state.is_live(self.local) {
            return Err(Error::Closed);
        }
        let former = mailbox.state.details.set_state(self.local, value);
        drop(mailbox);
        drop(former); // the user's destructor runs outside the lock
        Ok(())
    }

    /// The value of that type that was kept with the connection, by [`set_state`](Self::set_state) or the upgrade hook.
    pub fn state<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let mailbox = self.shard.mailbox.lock();
        let state = mailbox.state.details.state(self.local, std::any::TypeId::of::<T>())?;
        drop(mailbox);
        state.downcast().ok()
    }

    /// Looks into the connection: every frame that it sends and is sent from now on, with its first bytes. What is on
    /// its way while this is called may be missed. For a tool that shows what goes on; messages are for the endpoint's callbacks.
    ///
    /// While somebody looks, what rooms send to this connection takes a dearer way. Of each of the hub's threads, 16
    /// connections are looked into at once: one more ends the oldest.
    ///
    /// ```
    /// # async fn example(conn: ripplecast::Connection) -> ripplecast::Result<()> {
    /// let mut tap = conn.tap()?;
    /// while let Some(frame) = tap.next().await {
    ///     println!("{:?} {:?} {} bytes: {}", frame.direction, frame.kind, frame.len, frame.head.escape_ascii());
    /// }
    /// println!("closed");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed; [`Error::Overloaded`] when its shard is so far behind that its
    /// mailbox is full.
    pub fn tap(&self) -> Result<Tap> {
        let (tap, ear) = Tap::new();
        let mut mailbox = self.shard.mailbox.lock();
        if !mailbox.state.is_live(self.local) {
            return Err(Error::Closed);
        }
        mailbox.check(0)?;
        let wake = mailbox.post(Command::Tap { who: self.local, ear });
        drop(mailbox);
        drop(wake);
        Ok(tap)
    }

    /// Keeps something alive for as long as it is open.
    pub(crate) fn keep(&self, thing: Arc<dyn Any + Send + Sync>) {
        let mut mailbox = self.shard.mailbox.lock();
        if mailbox.state.is_live(self.local) {
            mailbox.state.details.keep(self.local, thing);
        }
    }

    /// Which connection of the node it is.
    pub(crate) fn local(&self) -> Local {
        self.local
    }

    /// All that a call to another part of the node needs.
    pub(crate) fn shards(&self) -> Result<Arc<Shards>> {
        self.shard.shards.upgrade().ok_or(Error::Closed)
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Connection {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}, {})", self.id(), if self.is_open() { "open" } else { "closed" })
    }
}
