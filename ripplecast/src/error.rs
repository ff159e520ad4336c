//! The error types.

mod bus;
mod from;
mod id;
mod queue;
mod state;

pub use self::{bus::BusError, id::ParseIdError, queue::QueueError, state::StateError};

use std::{borrow::Cow, fmt, net::SocketAddr, time::Duration};

/// A result whose error is [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of a source chain that are searched. Far more than applications wrap; a chain may be endless.
const CHAIN: usize = 32;

/// What can go wrong. The wording may change; use the methods or match the variants.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is not valid.
    #[error("setting {name}: {reason} (it is {value:?})")]
    Setting {
        /// The setting, as the user wrote it: an environment variable, a flag or a method.
        name: Cow<'static, str>,
        /// The value that was set.
        value: String,
        /// What is wrong with it, and what is expected.
        reason: String,
    },
    /// Listening on the address failed.
    #[error("can't listen on {addr}{}", listen_advice(source))]
    Listen {
        /// The requested address.
        addr: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A hub was built outside a tokio runtime.
    #[error("a Hub needs a running tokio runtime with I/O and time enabled; build it inside #[tokio::main]")]
    NoRuntime,
    /// The connection is closed or closing. A push to one is not an error: see [`Sent`](crate::Sent).
    #[error("the connection is closed")]
    Closed,
    /// A queue inside the node is full. The call changed nothing; slow down and try again.
    #[error("{what} is full (limit {limit}); nothing was done, try again when it has drained")]
    Overloaded {
        /// Which queue.
        what: &'static str,
        /// Its limit, in the unit that `what` names.
        limit: usize,
    },
    /// The connection is in the maximum number of rooms. The call changed nothing.
    #[error(
        "the connection is in {limit} rooms, the maximum; leave a room first, or raise \
         HubBuilder::max_rooms_per_connection"
    )]
    TooManyRooms {
        /// The maximum.
        limit: usize,
    },
    /// The name of a counter, a table, a topic, a queue or a group is empty.
    #[error("the name of a {what} can't be empty; give it one")]
    EmptyName {
        /// What the name is for, such as `"counter"`.
        what: &'static str,
    },
    /// A name is longer than allowed.
    #[error("the name of a {what} has {len} bytes and may have {limit}; choose a shorter one")]
    NameTooLong {
        /// What the name is for, such as `"room"`.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// An application must not send this close code; see
    /// [`CloseCode::application`](crate::CloseCode::application).
    #[error("close code {0} can't be sent; use one of CloseCode's constants or 3000 to 4999")]
    CloseCode(u16),
    /// A [`Table`](crate::Table) or [`Counter`](crate::Counter) rejected an operation.
    #[error(transparent)]
    State(#[from] StateError),
    /// The bus rejected a topic, a pattern or a message.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A queue rejected a message or its own name.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The backend behind shared state and the bus failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A text is not an id.
    #[error(transparent)]
    Id(#[from] ParseIdError),
    /// A value can't be written as JSON, or read from it.
    #[error("a value can't be converted to or from JSON")]
    Json(#[from] serde_json::Error),
    /// An operating system call failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The peer's request is not valid. The HTTP response is 400.
    #[error("the request is not valid: {reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// An application error; see [`Error::other`].
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an application error, so that a handler can return it.
    ///
    /// ```
    /// let error = ripplecast::Error::other("the order is already paid");
    /// assert_eq!(error.to_string(), "the order is already paid");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Returns whether the connection was closed. Looks inside application errors as
    /// [`is_unavailable`](Self::is_unavailable) does.
    pub fn is_closed(&self) -> bool {
        self.find(|error| matches!(error.downcast_ref(), Some(Self::Closed)).then_some(())).is_some()
    }

    /// Returns whether a limit inside the node was reached. The same call may succeed later. Looks inside
    /// application errors as [`is_unavailable`](Self::is_unavailable) does.
    pub fn is_overloaded(&self) -> bool {
        let is_full = |error: &QueueError| matches!(error, QueueError::Full { .. });
        let found = self.find(|error| match error.downcast_ref() {
            Some(Self::Overloaded { .. }) => Some(()),
            Some(Self::Queue(error)) => is_full(error).then_some(()),
            _ => error.downcast_ref().is_some_and(is_full).then_some(()),
        });
        found.is_some()
    }

    /// Returns whether the backend is unavailable or did not answer in time. The same call may succeed later.
    /// After a
    /// [time-out](Self::is_timeout) the operation may have been done nevertheless.
    ///
    /// Also finds such an error inside [an application error](Self::other).
    ///
    /// ```
    /// use ripplecast::{Error, error::BackendError};
    ///
    /// let down = Error::from(BackendError::Unavailable { reason: "it is restarting".into() });
    /// assert!(down.is_unavailable());
    /// assert!(Error::other(std::io::Error::other(down)).is_unavailable());
    /// ```
    pub fn is_unavailable(&self) -> bool {
        matches!(self.backend(), Some(BackendError::Unavailable { .. } | BackendError::TimedOut { .. }))
    }

    /// Returns whether the backend did not answer in time: the operation may have been done, or may be done
    /// later. Looks inside application errors as [`is_unavailable`](Self::is_unavailable) does.
    pub fn is_timeout(&self) -> bool {
        matches!(self.backend(), Some(BackendError::TimedOut { .. }))
    }

    /// Returns the backend's error: this error, or one that an application error wraps.
    pub(crate) fn backend(&self) -> Option<&BackendError> {
        self.find(|error| match error.downcast_ref() {
            Some(Self::Backend(backend)) => Some(backend),
            _ => error.downcast_ref(),
        })
    }

    /// Returns what `wanted` finds in this error or in those that it wraps.
    fn find<'a, T>(
        &'a self,
        wanted: impl Fn(&'a (dyn std::error::Error + 'static)) -> Option<T>,
    ) -> Option<T> {
        let mut error: &(dyn std::error::Error + 'static) = self;
        for _ in 0..=CHAIN {
            if let Some(found) = wanted(error) {
                return Some(found);
            }
            error = match error.downcast_ref() {
                // These variants display the error they hold as their own, so `source` skips it. I/O errors
                // do the same.
                Some(Self::Other(inner)) => &**inner,
                Some(Self::Io(inner)) => inner,
                _ => match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                    Some(inner) => inner,
                    None => error.source()?,
                },
            };
        }
        None
    }

    /// Creates the error for a setting that is not valid.
    pub(crate) fn setting(
        name: impl Into<Cow<'static, str>>,
        value: impl fmt::Display,
        reason: impl Into<String>,
    ) -> Self {
        Self::Setting { name: name.into(), value: value.to_string(), reason: reason.into() }
    }
}

/// Why the backend behind shared state and the bus did not perform an operation; found in [`Error::Backend`].
/// Never occurs with the memory backend.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Unreachable; reconnection continues in the background. The operation was not done, unless the connection broke
    /// while it was in progress.
    #[error(
        "the backend is unavailable ({reason}); operations that need it fail at once until it is available again"
    )]
    Unavailable {
        /// What is known about the cause.
        reason: String,
    },
    /// No answer in time. The operation may have been done, or may be done later.
    #[error("the backend did not answer within {after:?}; the operation may or may not have been done")]
    TimedOut {
        /// The time waited.
        after: Duration,
    },
    /// Refused: a permission is missing, the backend's memory is full, or a key holds data of another
    /// program.
    #[error("the backend refused: {message}")]
    Refused {
        /// The backend's message.
        message: String,
    },
}

impl Error {
    /// Returns the variant's name.
    fn variant(&self) -> &'static str {
        match self {
            Self::Setting { .. } => "Setting",
            Self::Listen { .. } => "Listen",
            Self::NoRuntime => "NoRuntime",
            Self::Closed => "Closed",
            Self::Overloaded { .. } => "Overloaded",
            Self::TooManyRooms { .. } => "TooManyRooms",
            Self::EmptyName { .. } => "EmptyName",
            Self::NameTooLong { .. } => "NameTooLong",
            Self::CloseCode(_) => "CloseCode",
            Self::State(_) => "State",
            Self::Bus(_) => "Bus",
            Self::Queue(_) => "Queue",
            Self::Backend(_) => "Backend",
            Self::Id(_) => "Id",
            Self::Json(_) => "Json",
            Self::Io(_) => "Io",
            Self::BadRequest { .. } => "BadRequest",
            Self::Other(_) => "Other",
        }
    }
}

/// The variant's name, and then the message with those of its sources: a `main` that returns an error prints `Debug`, and
/// the user should see what to do.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variant(), Chain(self))
    }
}

/// An error's message followed by those of its sources, separated by colons.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut source = self.0.source();
        for _ in 0..CHAIN {
            let Some(error) = source else { break };
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Returns what is wrong with an address that can't be listened on, and what to do.
fn listen_advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => ", which is in use; choose another port, or 0 for a free one",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege, choose a higher one",
        std::io::ErrorKind::AddrNotAvailable => ", which this machine does not have",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_names_the_variant_and_ends_with_the_message_and_its_sources() {
        let in_use = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        let error = Error::Listen { addr: ([127, 0, 0, 1], 80).into(), source: in_use };
        assert_eq!(
            error.to_string(),
            "can't listen on 127.0.0.1:80, which is in use; choose another port, or 0 for a free one"
        );
        assert_eq!(format!("{error:?}"), format!("Listen: {error}: address in use"));
        assert_eq!(format!("{:?}", Error::other("paid")), "Other: paid");
        assert_eq!(format!("{:?}", Error::Closed), "Closed: the connection is closed");
        let json = serde_json::from_str::<u8>("x").unwrap_err();
        let text = json.to_string();
        assert_eq!(format!("{:?}", Error::Json(json)).matches(&text).count(), 1);
    }

    /// An application error with a cause, or with itself as its own endless cause.
    #[derive(Debug, thiserror::Error)]
    enum Own {
        #[error("the order can't be saved")]
        Caused(#[source] Box<dyn std::error::Error + Send + Sync>),
        #[error("no cause")]
        None,
    }

    #[derive(Debug)]
    struct Endless;

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("endless")
        }
    }

    impl std::error::Error for Endless {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(self)
        }
    }

    #[test]
    fn a_wrapped_backend_error_is_found() {
        let backend = || BackendError::Unavailable { reason: "it is restarting".into() };
        let caused = |error: Box<dyn std::error::Error + Send + Sync>| Own::Caused(error);
        for error in [
            Error::Backend(backend()),
            Error::other(backend()),
            Error::other(Error::Backend(backend())),
            Error::other(Error::other(Error::other(backend()))),
            Error::other(caused(backend().into())),
            Error::other(caused(caused(Error::Backend(backend()).into()).into())),
            Error::other(std::io::Error::other(Error::other(caused(backend().into())))),
            Error::Io(std::io::Error::other(backend())),
        ] {
            assert_eq!(error.backend(), Some(&backend()), "{error}");
            assert!(error.is_unavailable() && !error.is_timeout(), "{error}");
        }
        for error in [
            Error::Closed,
            Error::other(Error::Closed),
            Error::other(caused(Error::Closed.into())),
            Error::Io(std::io::Error::other(Error::Closed)),
        ] {
            assert!(error.is_closed() && !error.is_overloaded() && error.backend().is_none(), "{error}");
        }
        let full = || Error::Overloaded { what: "a mailbox", limit: 1 };
        for error in [full(), Error::other(full()), Error::other(caused(full().into()))] {
            assert!(error.is_overloaded() && !error.is_closed(), "{error}");
        }
        let late = BackendError::TimedOut { after: Duration::from_secs(2) };
        assert!(Error::other(caused(late.into())).is_timeout());
        for error in [
            Error::Closed,
            Error::other("the backend is unavailable"),
            Error::other(Own::None),
            Error::other(caused(Error::Closed.into())),
            Error::other(Endless),
        ] {
            assert_eq!(error.backend(), None, "{error}");
        }
        let wrap = |error: Error, _| Error::other(error);
        let nested = |depth| (0..depth).fold(Error::Backend(backend()), wrap);
        assert!(nested(CHAIN).backend().is_some() && nested(CHAIN + 1).backend().is_none());
    }
}
