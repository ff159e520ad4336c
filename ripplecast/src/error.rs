//! Every error, and every close code with its range.

use std::{borrow::Cow, fmt, net::SocketAddr, time::Duration};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. The wording is free to change; ask the methods, or match the variants.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting can't be used.
    #[error("setting {name}: {reason} (it is {value:?})")]
    Setting {
        /// The setting, as the user wrote it: an environment variable, a flag or a method.
        name: Cow<'static, str>,
        /// The value that was given.
        value: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The address can't be listened on.
    #[error("can't listen on {addr}: {source}{}", listen_advice(source))]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A hub was built outside a tokio runtime.
    #[error("a Hub needs a running tokio runtime with I/O and time enabled; build it inside #[tokio::main]")]
    NoRuntime,
    /// The connection is closed, or closing. To push to one is no error: see [`Sent`](crate::Sent).
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
    /// The connection is in as many rooms as one connection may be in. The call changed nothing.
    #[error(
        "the connection is in {limit} rooms, the maximum; leave a room first, or raise \
         HubBuilder::max_rooms_per_connection"
    )]
    TooManyRooms {
        /// The maximum.
        limit: usize,
    },
    /// A name is longer than allowed.
    #[error("{what} of {len} bytes is longer than the {limit} allowed")]
    NameTooLong {
        /// What kind of name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A close code that an application may not send; see [`CloseCode::application`].
    #[error("close code {0} can't be sent; use one of CloseCode's constants or 3000 to 4999")]
    CloseCode(u16),
    /// An operation on a [`Table`](crate::Table) or a [`Counter`](crate::Counter) was refused.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A channel or a message of the bus was refused.
    #[error(transparent)]
    Bus(#[from] crate::bus::BusError),
    /// A message of a stream, or the name of one, was refused.
    #[error(transparent)]
    Stream(#[from] crate::stream::StreamError),
    /// The backend behind shared state and the bus did not do it.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A value can't be written as JSON, or read from it.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The operating system refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The peer's request is not valid. As a response it is 400.
    #[error("the request is not valid: {reason}")]
    BadRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// An error of the application's own; see [`Error::other`].
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an error of the application's own, so that a handler can return it.
    ///
    /// ```
    /// let error = ripplecast::Error::other("the order is already paid");
    /// assert_eq!(error.to_string(), "the order is already paid");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Whether the connection was closed.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Whether a limit inside the node was reached; the same call may succeed later.
    pub fn is_overloaded(&self) -> bool {
        matches!(self, Self::Overloaded { .. } | Self::Stream(crate::stream::StreamError::Full { .. }))
    }

    /// Whether the backend is away or did not answer in time; the same call may succeed later. After a
    /// [time-out](Self::is_timeout) the operation may have been done all the same.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Backend(BackendError::Unavailable { .. } | BackendError::TimedOut { .. }))
    }

    /// Whether the backend did not answer in time: the operation may have been done, or be done later.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Backend(BackendError::TimedOut { .. }))
    }

    /// A setting that can't be used.
    pub(crate) fn setting(
        name: impl Into<Cow<'static, str>>,
        value: impl fmt::Display,
        reason: impl Into<String>,
    ) -> Self {
        Self::Setting { name: name.into(), value: value.to_string(), reason: reason.into() }
    }
}

/// Why the backend behind shared state and the bus did not do what it was asked to; found in [`Error::Backend`]. Never with
/// the memory backend.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// It is away, and tried to reach in the background. What was asked has not been done, save when the connection broke
    /// in the middle of it.
    #[error("the backend is away ({reason}); what needs it fails at once until it is back")]
    Unavailable {
        /// What is known of it.
        reason: String,
    },
    /// It did not answer in time. What was asked may have been done, or be done later.
    #[error("the backend did not answer within {after:?}; the operation may have been done or not")]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// It refused: a permission is missing, its memory is full, or a key holds what somebody else wrote.
    #[error("the backend refused: {message}")]
    Refused {
        /// What it said.
        message: String,
    },
}

/// As [`Display`](fmt::Display): a `main` that returns an error prints it so, and should say what to do.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What to do about an address that can't be listened on.
fn listen_advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; choose another port, or 0 for a free one",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege, choose a higher one",
        std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// Why a connection ended (RFC 6455, section 7.4).
///
/// | range | who defines it | can be sent |
/// |---|---|---|
/// | 1000–1015 | RFC 6455 and IANA's registry | the constants below, save [`NO_STATUS`](Self::NO_STATUS) and [`ABNORMAL`](Self::ABNORMAL) |
/// | 3000–3999 | libraries and frameworks, registered with IANA | yes |
/// | 4000–4999 | your application | yes |
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the page is left, or the server is going down. Clients should reconnect.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a kind of data that this endpoint doesn't take.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1005: the peer's close frame had no code. Never sent.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: the connection was lost without a close frame. Never sent.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: a rule of this server was broken, such as a message left unfinished for too long.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message larger than the endpoint allows.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: a handler failed or panicked.
    pub const INTERNAL: Self = Self(1011);
    /// 1012: the service restarts. Clients should reconnect after a random delay.
    pub const RESTART: Self = Self(1012);
    /// 1013: try again later. Sent to a slow consumer whose outbox is full, and when a handler returns an [`Error::Backend`].
    pub const TRY_AGAIN: Self = Self(1013);

    /// A code that an application may send: one of 1000, 1001, 1003, 1007 to 1014, or 3000 to 4999.
    ///
    /// # Errors
    /// [`Error::CloseCode`] for every other number.
    ///
    /// ```
    /// use ripplecast::CloseCode;
    /// assert_eq!(CloseCode::application(4001)?.get(), 4001);
    /// assert!(CloseCode::application(1006).is_err());
    /// # Ok::<(), ripplecast::Error>(())
    /// ```
    pub fn application(code: u16) -> Result<Self> {
        match code {
            1000 | 1001 | 1003 | 1007..=1014 | 3000..=4999 => Ok(Self(code)),
            _ => Err(Error::CloseCode(code)),
        }
    }

    /// A code that a peer sent, already checked by the decoder.
    pub(crate) const fn from_peer(code: u16) -> Self {
        Self(code)
    }

    /// What is written into a close frame: nothing for 1005, and 1001 in place of 1006, as neither may be sent.
    pub(crate) fn on_the_wire(self) -> Option<u16> {
        match self {
            Self::NO_STATUS => None,
            Self::ABNORMAL => Some(Self::GOING_AWAY.0),
            Self(code) => Some(code),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloseCode({})", self.0)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a connection ended: what `on_close` is told.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Close {
    /// The code: the peer's if it closed, ours if we did, 1006 if the connection was lost.
    pub code: CloseCode,
    /// The reason that came with the code; often empty, at most 123 bytes.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// A close with its reason.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() { self.code.fmt(f) } else { write!(f, "{} {}", self.code, self.reason) }
    }
}
