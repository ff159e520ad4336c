//! The three callbacks: a trait for types, and a builder for closures.

use std::{fmt, future::Future, marker::PhantomData};

use crate::{Close, Connection, Frame, Result, outcome::Sent};

/// The three callbacks of an endpoint, as a type. Each may be left out.
///
/// **Order.** The messages of one connection are handled one at a time, in order. While a callback waits (`.await`), its
/// connection is not read: the peer is slowed down, and nobody else.
///
/// **Close.** For each `on_open` there is exactly one `on_close`, whatever happens in between: the peer goes, a limit is
/// reached, a callback panics or the server shuts down. It is called when no other callback of the connection waits, and
/// [`Connection::state`] still has what was kept.
///
/// **Errors.** A callback that returns an error or panics is logged (through the `tracing` crate), and its connection
/// closed with 1011; with 1013 (try again later) if the error is an [`Error::Backend`](crate::Error::Backend), or wraps
/// one, as [`Error::other`](crate::Error::other) does. So return an error for faults of the server; answer a client's bad
/// input yourself, and return `Ok`.
///
/// **Cancellation.** A callback whose peer has gone goes on; [`Connection::closed`] tells it. At shutdown it is cancelled
/// after 5 s, at an `.await`.
///
/// **Blocking.** A callback that blocks its thread stops everybody else of its shard; use
/// `tokio::task::spawn_blocking`. One that holds its shard for 5 ms or more is logged.
///
/// ```
/// use ripplecast::{Close, Connection, Frame, Hub, Result, ws::Handler};
///
/// struct Chat { hub: Hub }
///
/// impl Handler for Chat {
///     async fn on_open(&self, conn: Connection) -> Result<()> {
///         conn.join("chat")
///     }
///
///     async fn on_message(&self, _conn: Connection, frame: Frame) -> Result<()> {
///         self.hub.room("chat").push(frame).ignore();
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
    /// A connection was opened.
    fn on_open(&self, conn: Connection) -> impl Future<Output = Result<()>> + Send {
        let _ = conn;
        async { Ok(()) }
    }

    /// A message came.
    fn on_message(&self, conn: Connection, frame: Frame) -> impl Future<Output = Result<()>> + Send {
        let _ = (conn, frame);
        async { Ok(()) }
    }

    /// A connection was closed: pushes to it say so, it is a member of nothing, and its id will not be used again.
    fn on_close(&self, conn: Connection, close: Close) -> impl Future<Output = Result<()>> + Send {
        let _ = (conn, close);
        async { Ok(()) }
    }
}

/// What a closure may return: nothing, a [`Result`], or what a push said. Errors of the application's own become one with
/// [`Error::other`](crate::Error::other).
#[diagnostic::on_unimplemented(
    message = "a callback returns `()`, `ripplecast::Result<()>` or `Sent`, and not `{Self}`",
    note = "turn an error of your own into one of ripplecast's with `.map_err(ripplecast::Error::other)?`"
)]
pub trait Outcome {
    /// As the crate's result.
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

/// What a push says makes no difference here: a peer may be gone at any time.
impl Outcome for Sent {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

/// Callbacks as closures; see [`handlers`].
pub struct Handlers<S, O, M, C> {
    /// What is handed to each call.
    state: S,
    /// `on_open`.
    open: O,
    /// `on_message`.
    message: M,
    /// `on_close`.
    close: C,
}

/// A builder for callbacks as closures: each is optional, takes its arguments by value, and returns a future of `()` or
/// of a `Result`.
///
/// ```
/// use ripplecast::{Connection, Frame, ws};
///
/// let echo = ws::handlers().on_message(|conn: Connection, frame: Frame| async move { conn.push(frame).ignore() });
/// # let _ = echo;
/// ```
///
/// With [state](Handlers::with_state), which is set before the callbacks, each call is handed a clone of it first. Give
/// closures that need something of yours state: an async closure that captures it does not compile.
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

/// No state: closures are not handed any.
#[derive(Clone, Copy, Debug)]
pub struct Stateless;

/// State, of which each call is handed a clone.
#[derive(Clone, Debug)]
pub struct Shared<S>(S);

/// A callback that was left out.
#[derive(Clone, Copy, Debug)]
pub struct Unset;

/// A callback that was set, with the type of its future.
pub struct Set<F, Fut>(F, PhantomData<fn() -> Fut>);

impl Handlers<Stateless, Unset, Unset, Unset> {
    /// State that is handed to each callback, as its first argument; a clone each time, so keep it cheap to clone. To be
    /// called before the callbacks are set.
    pub fn with_state<S: Clone + Send + Sync + 'static>(
        self,
        state: S,
    ) -> Handlers<Shared<S>, Unset, Unset, Unset> {
        Handlers { state: Shared(state), open: Unset, message: Unset, close: Unset }
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
        F: Fn(Connection, Frame) -> Fut,
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

impl<S, O, M, C> Handlers<Shared<S>, O, M, C> {
    /// Sets `on_open`.
    pub fn on_open<F, Fut>(self, on_open: F) -> Handlers<Shared<S>, Set<F, Fut>, M, C>
    where
        F: Fn(S, Connection) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, message, close, .. } = self;
        Handlers { state, open: Set(on_open, PhantomData), message, close }
    }

    /// Sets `on_message`.
    pub fn on_message<F, Fut>(self, on_message: F) -> Handlers<Shared<S>, O, Set<F, Fut>, C>
    where
        F: Fn(S, Connection, Frame) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, open, close, .. } = self;
        Handlers { state, open, message: Set(on_message, PhantomData), close }
    }

    /// Sets `on_close`.
    pub fn on_close<F, Fut>(self, on_close: F) -> Handlers<Shared<S>, O, M, Set<F, Fut>>
    where
        F: Fn(S, Connection, Close) -> Fut,
        Fut: Future<Output: Outcome> + Send,
    {
        let Self { state, open, message, .. } = self;
        Handlers { state, open, message, close: Set(on_close, PhantomData) }
    }
}

impl<S, O, M, C> Handler for Handlers<S, O, M, C>
where
    S: Send + Sync + 'static,
    O: Callback<S, (Connection,)>,
    M: Callback<S, (Connection, Frame)>,
    C: Callback<S, (Connection, Close)>,
{
    fn on_open(&self, conn: Connection) -> impl Future<Output = Result<()>> + Send {
        self.open.call(&self.state, (conn,))
    }

    fn on_message(&self, conn: Connection, frame: Frame) -> impl Future<Output = Result<()>> + Send {
        self.message.call(&self.state, (conn, frame))
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

/// A callback with state `S` and arguments `A`, set or not. Nothing to implement: the builder's types do.
pub trait Callback<S, A>: Send + Sync + 'static {
    /// Calls it.
    fn call(&self, state: &S, arguments: A) -> impl Future<Output = Result<()>> + Send;
}

impl<S: Send + Sync, A: Send> Callback<S, A> for Unset {
    async fn call(&self, _state: &S, _arguments: A) -> Result<()> {
        Ok(())
    }
}

/// Callbacks of closures without state, and with.
macro_rules! set_callback {
    ($($argument:ident: $type:ident),+) => {
        impl<F, Fut> Callback<Stateless, ($($type,)+)> for Set<F, Fut>
        where
            F: Fn($($type),+) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: Outcome> + Send + 'static,
        {
            fn call(&self, _state: &Stateless, ($($argument,)+): ($($type,)+)) -> impl Future<Output = Result<()>> + Send {
                let future = (self.0)($($argument),+);
                async move { future.await.into_result() }
            }
        }

        impl<S, F, Fut> Callback<Shared<S>, ($($type,)+)> for Set<F, Fut>
        where
            S: Clone + Send + Sync + 'static,
            F: Fn(S, $($type),+) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: Outcome> + Send + 'static,
        {
            fn call(&self, state: &Shared<S>, ($($argument,)+): ($($type,)+)) -> impl Future<Output = Result<()>> + Send {
                let future = (self.0)(state.0.clone(), $($argument),+);
                async move { future.await.into_result() }
            }
        }
    };
}

set_callback!(connection: Connection);
set_callback!(connection: Connection, frame: Frame);
set_callback!(connection: Connection, close: Close);
