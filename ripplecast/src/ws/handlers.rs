//! The three callbacks: a trait for types, and a builder for closures.

use std::{fmt, future::Future, marker::PhantomData};

use crate::{Close, Connection, Message, Result, outcome::Sent};

/// The three callbacks of an endpoint. Each is optional.
///
/// **Order.** The messages of one connection are handled one at a time, in order. While a callback waits
/// (`.await`), its connection is not read. This slows down that peer only.
///
/// **Close.** For each `on_open` there is exactly one `on_close`, whatever happens in between: the peer
/// disconnects, a limit is reached, a callback panics or the server shuts down. It is called when no other
/// callback of the connection is waiting. Values stored with the connection are still available through
/// [`Connection::state`].
///
/// **Errors.** If a callback returns an error or panics, this is logged (through the `tracing` crate) with the
/// endpoint's path, and the connection is closed with 1011. If the error is or wraps an
/// [`Error::Backend`](crate::Error::Backend), as with [`Error::other`](crate::Error::other), the code is 1013
/// (try again later). Return an error for faults of the server; answer a client's bad input yourself and return
/// `Ok`.
///
/// **Spans.** A callback runs in a `tracing` span named `callback` with the fields `name` (`on_open`, …), `path`,
/// `connection`, and the `peer` that limits per address count (none for a loopback address; an IPv6 peer as its
/// network). Its level is DEBUG and its target is `ripplecast::callback`: unless a subscriber enables it, it costs nothing.
///
/// **Cancellation.** A callback continues after its peer has disconnected; use [`Connection::closed`] to
/// detect that. At shutdown it is cancelled after 5 s, at an `.await`.
///
/// **Blocking.** A callback that blocks its thread stops all other connections of its shard; use
/// `tokio::task::spawn_blocking`. A callback that holds its shard for 5 ms or more is logged.
///
/// ```
/// use ripplecast::{Close, Connection, Message, Hub, Result, ws::Handler};
///
/// struct Chat { hub: Hub }
///
/// impl Handler for Chat {
///     async fn on_open(&self, conn: Connection) -> Result<()> {
///         conn.join("chat")
///     }
///
///     async fn on_message(&self, _conn: Connection, message: Message) -> Result<()> {
///         self.hub.room("chat").push(message).ignore();
///         Ok(())
///     }
///
///     async fn on_close(&self, _conn: Connection, close: Close) -> Result<()> {
///         println!("closed: {close}");
///         Ok(())
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Called when a connection has opened.
    fn on_open(&self, conn: Connection) -> impl Future<Output = Result<()>> + Send {
        let _ = conn;
        async { Ok(()) }
    }

    /// Called for each message received.
    fn on_message(&self, conn: Connection, message: Message) -> impl Future<Output = Result<()>> + Send {
        let _ = (conn, message);
        async { Ok(()) }
    }

    /// Called when a connection has closed. Pushes to it return [`Sent::Closed`], it has left all rooms, and
    /// its id will not be reused.
    fn on_close(&self, conn: Connection, close: Close) -> impl Future<Output = Result<()>> + Send {
        let _ = (conn, close);
        async { Ok(()) }
    }
}

/// A value that a closure may return: nothing, a [`Result`], or the [`Sent`] of a push.
///
/// `?` converts the common errors of the standard library, boxed errors and, with the feature `anyhow`, `anyhow::Error`.
/// Convert your own errors with [`Error::other`](crate::Error::other), or implement `From<YourError> for ripplecast::Error`.
///
/// ```
/// use ripplecast::{Connection, Message, ws};
///
/// let echo_double = ws::handlers().on_message(async |conn: Connection, message: Message| {
///     let number: i64 = message.as_text().unwrap_or_default().trim().parse()?; // an error closes with 1011
///     conn.push((number * 2).to_string()).ignore();
///     Ok(())
/// });
/// # let _ = echo_double;
/// ```
#[diagnostic::on_unimplemented(
    message = "a callback must return `()`, `ripplecast::Result<()>` or `Sent`, not `{Self}`",
    note = "convert your own error with `.map_err(ripplecast::Error::other)?`"
)]
pub trait Outcome {
    /// Converts into the crate's result.
    fn into_result(self) -> Result<()>;
}

impl Outcome for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl Outcome for Result<()> {
    fn into_result(self) -> Result<()> {
        self
    }
}

/// Ignored: a peer may disconnect at any time.
impl Outcome for Sent {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

/// Callbacks as closures; see [`handlers`].
#[must_use = "handlers do nothing until they are given to an endpoint"]
pub struct Handlers<S, O, M, C> {
    state: S,
    open: O,
    message: M,
    close: C,
}

/// Creates a builder for callbacks as closures. Each is optional, takes its arguments by value, and returns a
/// future of `()`, a `Result` or a [`Sent`].
///
/// ```
/// use ripplecast::{Connection, Message, ws};
///
/// let echo = ws::handlers().on_message(|conn: Connection, message: Message| async move { conn.push(message).ignore() });
/// # let _ = echo;
/// ```
///
/// With [state](Handlers::with_state), set before the callbacks, each call receives a clone of it as its
/// first argument. Use state for values that closures need: an async closure that captures them does not
/// compile.
///
/// ```
/// # async fn example(hub: ripplecast::Hub) -> ripplecast::Result<()> {
/// use ripplecast::{Close, Connection, Counter, ws};
///
/// let visits = hub.counter("visits");
/// let endpoint = ws::handlers()
///     .with_state(visits)
///     .on_open(|visits: Counter, _conn: Connection| async move { visits.increment().await.map(drop) })
///     .on_close(|visits: Counter, _conn: Connection, _close: Close| async move { visits.decrement().await.map(drop) });
/// # let _ = endpoint; Ok(()) }
/// ```
pub fn handlers() -> Handlers<Stateless, Unset, Unset, Unset> {
    Handlers { state: Stateless, open: Unset, message: Unset, close: Unset }
}

/// No state.
#[derive(Clone, Copy, Debug)]
pub struct Stateless;

/// State that is cloned for each call.
#[derive(Clone, Debug)]
pub struct WithState<S>(S);

/// A callback that was left out.
#[derive(Clone, Copy, Debug)]
pub struct Unset;

/// A callback that was set, with the type of its future.
pub struct Set<F, Fut>(F, PhantomData<fn() -> Fut>);

impl<F, Fut> fmt::Debug for Set<F, Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Set").finish_non_exhaustive()
    }
}

impl Handlers<Stateless, Unset, Unset, Unset> {
    /// Sets the state that each callback receives as its first argument. It is cloned for each call, so keep
    /// it cheap to clone. Call this before setting the callbacks.
    pub fn with_state<S: Clone + Send + Sync + 'static>(
        self,
        state: S,
    ) -> Handlers<WithState<S>, Unset, Unset, Unset> {
        Handlers { state: WithState(state), open: Unset, message: Unset, close: Unset }
    }
}

impl<O, M, C> Handlers<Stateless, O, M, C> {
    /// Sets `on_open`.
    pub fn on_open<F, Fut>(self, on_open: F) -> Handlers<Stateless, Set<F, Fut>, M, C>
    where
        F: Fn(Connection) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, message, close, .. } = self;
        Handlers { state, open: Set(on_open, PhantomData), message, close }
    }

    /// Sets `on_message`.
    pub fn on_message<F, Fut>(self, on_message: F) -> Handlers<Stateless, O, Set<F, Fut>, C>
    where
        F: Fn(Connection, Message) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, open, close, .. } = self;
        Handlers { state, open, message: Set(on_message, PhantomData), close }
    }

    /// Sets `on_close`.
    pub fn on_close<F, Fut>(self, on_close: F) -> Handlers<Stateless, O, M, Set<F, Fut>>
    where
        F: Fn(Connection, Close) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, open, message, .. } = self;
        Handlers { state, open, message, close: Set(on_close, PhantomData) }
    }
}

impl<S, O, M, C> Handlers<WithState<S>, O, M, C> {
    /// Sets `on_open`.
    pub fn on_open<F, Fut>(self, on_open: F) -> Handlers<WithState<S>, Set<F, Fut>, M, C>
    where
        F: Fn(S, Connection) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, message, close, .. } = self;
        Handlers { state, open: Set(on_open, PhantomData), message, close }
    }

    /// Sets `on_message`.
    pub fn on_message<F, Fut>(self, on_message: F) -> Handlers<WithState<S>, O, Set<F, Fut>, C>
    where
        F: Fn(S, Connection, Message) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, open, close, .. } = self;
        Handlers { state, open, message: Set(on_message, PhantomData), close }
    }

    /// Sets `on_close`.
    pub fn on_close<F, Fut>(self, on_close: F) -> Handlers<WithState<S>, O, M, Set<F, Fut>>
    where
        F: Fn(S, Connection, Close) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, open, message, .. } = self;
        Handlers { state, open, message, close: Set(on_close, PhantomData) }
    }
}

impl<S, O, M, C> Handlers<S, O, M, C> {
    /// Replaces `on_message`.
    pub(super) fn with_message<N>(self, message: N) -> Handlers<S, O, N, C> {
        let Self { state, open, close, .. } = self;
        Handlers { state, open, message, close }
    }

    /// Returns `on_message`.
    pub(super) fn message_mut(&mut self) -> &mut M {
        &mut self.message
    }
}

impl<S: Clone> WithState<S> {
    /// Returns a clone of the state.
    pub(super) fn get(&self) -> S {
        self.0.clone()
    }
}

impl<S, O, M, C> Handler for Handlers<S, O, M, C>
where
    S: Send + Sync + 'static,
    O: MaybeCallback<S, (Connection,)>,
    M: MaybeCallback<S, (Connection, Message)>,
    C: MaybeCallback<S, (Connection, Close)>,
{
    fn on_open(&self, conn: Connection) -> impl Future<Output = Result<()>> + Send {
        self.open.call(&self.state, (conn,))
    }

    fn on_message(&self, conn: Connection, message: Message) -> impl Future<Output = Result<()>> + Send {
        self.message.call(&self.state, (conn, message))
    }

    fn on_close(&self, conn: Connection, close: Close) -> impl Future<Output = Result<()>> + Send {
        self.close.call(&self.state, (conn, close))
    }
}

impl<S, O, M, C> fmt::Debug for Handlers<S, O, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}

/// A callback with state `S` and arguments `A`, set or not. Implemented by the builder's types; there is
/// nothing for you to implement.
pub trait MaybeCallback<S, A>: Send + Sync + 'static {
    /// Calls the callback.
    fn call(&self, state: &S, arguments: A) -> impl Future<Output = Result<()>> + Send;
}

impl<S: Send + Sync, A: Send> MaybeCallback<S, A> for Unset {
    async fn call(&self, _state: &S, _arguments: A) -> Result<()> {
        Ok(())
    }
}

/// Implements [`MaybeCallback`] for closures without and with state.
macro_rules! set_callback {
    ($($argument:ident: $type:ident),+) => {
        impl<F, Fut> MaybeCallback<Stateless, ($($type,)+)> for Set<F, Fut>
        where
            F: Fn($($type),+) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: Outcome> + Send + 'static,
        {
            fn call(&self, _state: &Stateless, ($($argument,)+): ($($type,)+)) -> impl Future<Output = Result<()>> + Send {
                let future = (self.0)($($argument),+);
                async move { future.await.into_result() }
            }
        }

        impl<S, F, Fut> MaybeCallback<WithState<S>, ($($type,)+)> for Set<F, Fut>
        where
            S: Clone + Send + Sync + 'static,
            F: Fn(S, $($type),+) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: Outcome> + Send + 'static,
        {
            fn call(&self, state: &WithState<S>, ($($argument,)+): ($($type,)+)) -> impl Future<Output = Result<()>> + Send {
                let future = (self.0)(state.0.clone(), $($argument),+);
                async move { future.await.into_result() }
            }
        }
    };
}

set_callback!(connection: Connection);
set_callback!(connection: Connection, message: Message);
set_callback!(connection: Connection, close: Close);
