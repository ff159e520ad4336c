//! A connection, as the application sees it.

use std::{any::Any, fmt, future::Future, sync::Arc};

use crate::{
    Close, CloseCode, Error, Message, Result,
    engine::{Audience, Command, Node, Reach, ShardHandle, Tap, cork},
    id::{ConnectionId, Local},
    name::check_name,
    outcome::Sent,
};

/// A handle to one open socket or event stream. It is cheap to clone and to keep, and does not keep the
/// connection open.
///
/// Every method may be called from any thread and any callback. Messages arrive in the order in which they
/// were pushed.
///
/// **On close.** After the peer has disconnected, [`push`](Self::push) returns [`Sent::Closed`] and
/// [`join`](Self::join) fails. Ids are never reused, so nothing can reach another connection instead.
#[derive(Clone)]
pub struct Connection {
    shard: Arc<ShardHandle>,
    local: Local,
}

impl Connection {
    /// Creates a handle to a connection of `shard`.
    pub(crate) fn new(shard: Arc<ShardHandle>, local: Local) -> Self {
        Self { shard, local }
    }

    /// Returns the connection's id.
    pub fn id(&self) -> ConnectionId {
        ConnectionId::new(self.shard.node_id(), self.local)
    }

    /// Sends a message. Never waits.
    ///
    /// Messages pushed inside a callback of the same connection are sent together when the callback returns or
    /// waits.
    pub fn push(&self, message: impl Into<Message>) -> Sent {
        let message = message.into();
        if let Some(sent) = cork::push(&self.shard, self.local, &message) {
            return sent;
        }
        self.shard.push(self.local, message)
    }

    /// Sends a value as JSON, in a text message. Never waits.
    ///
    /// # Errors
    /// [`Error::Json`] if the value can't be written as JSON; nothing was sent.
    pub fn push_json<T: serde::Serialize + ?Sized>(&self, value: &T) -> Result<Sent> {
        Ok(self.push(Message::json(value)?))
    }

    /// Starts to close the connection: messages pushed before are still sent, then a close frame with the code
    /// and the reason (cut to the 123 bytes that fit). The socket closes once the peer has answered, or after
    /// 5 s. `on_close` is called with this code. An event stream has no close frame; it ends, and the browser
    /// reconnects.
    ///
    /// The connection counts as closed from this call on. Returns [`Sent::Closed`] if it already was.
    pub fn close(&self, code: CloseCode, reason: impl Into<String>) -> Sent {
        self.shard.close(self.local, Close::cut(code, reason.into()))
    }

    /// Returns whether the connection is open. A dead WebSocket peer is detected within its endpoint's
    /// `ping_interval` plus `pong_timeout` plus one second: 36 s by default.
    pub fn is_open(&self) -> bool {
        self.shard.mailbox().is_live(self.local)
    }

    /// Completes when the connection closes, or at once if it is closed. Use it in a handler that also waits
    /// for something else.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut mailbox = self.shard.mailbox().lock();
        let live = mailbox.is_live(self.local);
        let ended = live.then(|| mailbox.wait_closed(self.local));
        async move {
            if let Some(ended) = ended {
                let _ = ended.await; // the sender is only ever dropped
            }
        }
    }

    /// Joins a room. Never waits. Joining a room twice has no further effect.
    ///
    /// **Several nodes.** Everything that this node pushes to the room after the call arrives. Pushes from
    /// other nodes arrive once this node's subscription to the room is active, which takes a round trip to
    /// Redis for the first member on a node. Until then they are missed and can't be counted. If that
    /// matters, await [`join_confirmed`](Self::join_confirmed).
    /// [`RemoteStats::unconfirmed`](crate::stats::RemoteStats::unconfirmed) counts such joins, and
    /// [`on_gap`](crate::HubBuilder::on_gap) reports those that take longer than 1 s.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed; [`Error::TooManyRooms`] when it is already in as many
    /// rooms as [`HubBuilder::max_rooms_per_connection`](crate::HubBuilder::max_rooms_per_connection) allows,
    /// 1,000 by default; [`Error::Overloaded`] when the mailbox of its shard is full; [`Error::NameTooLong`]
    /// above 255 bytes.
    pub fn join(&self, room: &str) -> Result<()> {
        check_name("room", room)?;
        let node = self.local_node()?;
        node.rooms().room(room).join(self.local, None)
    }

    /// Joins a room, as [`join`](Self::join) does, and waits until pushes from all nodes reach this
    /// connection. Everything that any node pushes after this returns arrives. If the node already has a
    /// member in the room, this costs no more than `join`.
    ///
    /// To send a snapshot of state that other nodes change, take it after this has returned and send it with
    /// [`join_with`](Self::join_with).
    ///
    /// This does not fail while Redis is unavailable: the connection is a member on this node, this returns
    /// [`Reach::ThisNode`], and pushes from other nodes arrive once Redis is back. It waits for at most 2 s,
    /// and not at all while Redis is known to be unavailable.
    ///
    /// # Errors
    /// Same as [`join`](Self::join); [`Error::Closed`] also when the connection closes during the wait.
    ///
    /// # Cancellation
    /// Once the future has been polled, the connection is a member, even if the future is dropped.
    pub async fn join_confirmed(&self, room: &str) -> Result<Reach> {
        self.join(room)?;
        self.reach(Audience::Room(room)).await
    }

    /// Joins a room and sends `snapshot` to this connection in one step: the snapshot is the first message it
    /// receives from that room. No push that this node made before the snapshot arrives after it, and no
    /// later push is missed. Take the snapshot under the same lock under which you push to the room. A
    /// [`LiveCounter`](crate::LiveCounter) does so across all nodes.
    ///
    /// Pushes from other nodes may be missed at first, as with [`join`](Self::join). If the connection is
    /// already a member, only the snapshot is sent.
    ///
    /// # Errors
    /// Same as [`join`](Self::join).
    pub fn join_with(&self, room: &str, snapshot: impl Into<Message>) -> Result<()> {
        check_name("room", room)?;
        let node = self.local_node()?;
        node.rooms().room(room).join(self.local, Some(snapshot.into()))
    }

    /// Leaves a room. Messages pushed to the room before still arrive. Returns whether the connection was a
    /// member.
    pub fn leave(&self, room: &str) -> bool {
        self.local_node().is_ok_and(|node| node.rooms().room(room).leave(self.local))
    }

    /// Identifies the connection as one of a user's. [`hub.user(id)`](crate::Hub::user) then reaches it,
    /// on this node at once and on every node once this returns [`Reach::AllNodes`]. The id must come from
    /// your own check of a session or token, never from the peer itself. A second call changes the user.
    ///
    /// With Redis this waits until the other nodes can find the user: one round trip, shared by up to 256
    /// connections that are identified at the same time. It does not fail while Redis is unavailable: it
    /// returns [`Reach::ThisNode`], and the other nodes find the user once Redis is back. It waits for at
    /// most 2 s, and not at all while Redis is known to be unavailable.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed or closes during the wait; [`Error::NameTooLong`]
    /// above 255 bytes.
    ///
    /// # Cancellation
    /// Once the future has been polled, the connection is identified, and is registered for the other nodes
    /// as soon as possible, even if the future is dropped.
    pub async fn identify(&self, user_id: &str) -> Result<Reach> {
        check_name("user", user_id)?;
        self.local_node()?.users().identify(self.shard.mailbox(), self.local, user_id)?;
        self.reach(Audience::User(user_id)).await
    }

    /// Waits until other nodes can reach the connection as a member of `audience`.
    async fn reach(&self, audience: Audience<'_>) -> Result<Reach> {
        let node = self.local_node()?;
        let Some(cluster) = node.setup().cluster() else { return Ok(Reach::AllNodes) };
        let reach = cluster.reach(audience).await;
        if self.is_open() { Ok(reach) } else { Err(Error::Closed) }
    }

    /// Returns the id of the user that the connection was [identified](Self::identify) as.
    pub fn user_id(&self) -> Option<Arc<str>> {
        self.shard.mailbox().lock().user(self.local)
    }

    /// Stores a value with the connection, one of each type, until `on_close` has returned.
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed.
    pub fn set_state<T: Any + Send + Sync>(&self, value: T) -> Result<()> {
        let value = Arc::new(value);
        let mut mailbox = self.shard.mailbox().lock();
        if !mailbox.is_live(self.local) {
            return Err(Error::Closed);
        }
        let former = mailbox.set_user_state(self.local, value);
        drop(mailbox);
        drop(former); // the user's destructor runs outside the lock
        Ok(())
    }

    /// Returns the value of type `T` stored by [`set_state`](Self::set_state) or by the upgrade hook.
    pub fn state<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let mailbox = self.shard.mailbox().lock();
        let state = mailbox.user_state(self.local, std::any::TypeId::of::<T>())?;
        drop(mailbox);
        state.downcast().ok()
    }

    /// Returns the value of type `T` stored by [`set_state`](Self::set_state) or by the upgrade hook, or an error
    /// that names the type. For values that every connection of the endpoint has, such as the visitor that its hook
    /// stored, so that a callback can write `let who = conn.require::<Who>()?`.
    ///
    /// # Errors
    /// [`Error::Other`] if there is none. Returned from a callback, it closes the connection with 1011.
    ///
    /// ```
    /// use ripplecast::{Accept, Connection, Request, ws};
    ///
    /// struct Who(String);
    ///
    /// let greet = ws::handlers().on_open(async |conn: Connection| {
    ///     let who = conn.require::<Who>()?;
    ///     conn.push(format!("hello, {}", who.0)).ignore();
    ///     Ok(())
    /// });
    /// let endpoint = ws::endpoint(greet)
    ///     .on_upgrade(async |_: Request| Accept::new().state(Who("Ada".into())));
    /// # let _ = endpoint;
    /// ```
    pub fn require<T: Any + Send + Sync>(&self) -> Result<Arc<T>> {
        self.state().ok_or_else(|| {
            let kind = std::any::type_name::<T>();
            Error::other(format!(
                "the connection has no {kind}; store one with Accept::state or Connection::set_state"
            ))
        })
    }

    /// Observes every frame sent or received from now on, with its first bytes. Frames already in transit may
    /// be missed. This is for inspection tools; to receive messages, use the endpoint's callbacks.
    ///
    /// Room delivery to a tapped connection is slower. Each shard allows 16 taps at once; another one ends
    /// the oldest.
    ///
    /// ```
    /// # async fn example(conn: ripplecast::Connection) -> ripplecast::Result<()> {
    /// let mut tap = conn.tap()?;
    /// while let Some(frame) = tap.recv().await {
    ///     println!("{:?} {:?} {} bytes: {}", frame.direction, frame.kind, frame.len, frame.head.escape_ascii());
    /// }
    /// println!("closed");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`] when the connection is closed; [`Error::Overloaded`] when the mailbox of its shard
    /// is full.
    pub fn tap(&self) -> Result<Tap> {
        let (tap, sender) = Tap::new();
        let mut mailbox = self.shard.mailbox().lock();
        if !mailbox.is_live(self.local) {
            return Err(Error::Closed);
        }
        mailbox.check(0)?;
        let wake = mailbox.post(Command::Tap { who: self.local, sender });
        drop(mailbox);
        drop(wake);
        Ok(tap)
    }

    /// Keeps `thing` alive while the connection is open.
    pub(crate) fn keep(&self, thing: Arc<dyn Any + Send + Sync>) {
        let mut mailbox = self.shard.mailbox().lock();
        if mailbox.is_live(self.local) {
            mailbox.keep(self.local, thing);
        }
    }

    /// Returns the connection's id within its node.
    pub(crate) fn local(&self) -> Local {
        self.local
    }

    /// Returns the node, unless its shards have ended.
    pub(crate) fn local_node(&self) -> Result<Arc<Node>> {
        self.shard.node().ok_or(Error::Closed)
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
