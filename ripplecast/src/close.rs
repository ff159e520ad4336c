//! Close codes, and how a connection ended.

use std::{borrow::Cow, fmt};

use crate::{Error, Result, limits::CLOSE_REASON, text::prefix};

/// Why a connection ended (RFC 6455, section 7.4).
///
/// | range | who defines it | can be sent |
/// |---|---|---|
/// | 1000–1015 | RFC 6455 and IANA's registry | the constants below, except [`NO_STATUS`](Self::NO_STATUS) and [`ABNORMAL`](Self::ABNORMAL) |
/// | 3000–3999 | libraries and frameworks, registered with IANA | yes |
/// | 4000–4999 | your application | yes |
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the connection has served its purpose.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the user left the page, or the server is shutting down. Clients should reconnect.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer violated the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: the endpoint does not accept this kind of data.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1005: the peer's close frame had no code. Never sent.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006: the connection was lost without a close frame. Never sent.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not valid UTF-8, or a message that is not the expected JSON.
    pub const INVALID_DATA: Self = Self(1007);
    /// 1008: the peer broke a rule of this server, for example by leaving a message unfinished for too long.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message larger than the endpoint allows.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: a handler failed or panicked.
    pub const INTERNAL: Self = Self(1011);
    /// 1012: the service is restarting. Clients should reconnect after a random delay.
    pub const RESTART: Self = Self(1012);
    /// 1013: try again later. Sent to a slow consumer whose outbox is full, and when a handler returns an
    /// [`Error::Backend`], directly or wrapped.
    pub const TRY_AGAIN: Self = Self(1013);

    /// Creates a code that an application may send: 1000, 1001, 1003, 1007 to 1014, or 3000 to 4999.
    ///
    /// # Errors
    /// [`Error::CloseCode`] for any other number.
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

    /// Wraps a code sent by a peer. The decoder has already checked it.
    pub(crate) const fn from_peer(code: u16) -> Self {
        Self(code)
    }

    /// Returns the code that another node sent, if an application can have passed it to that node.
    pub(crate) fn from_node(code: u16) -> Option<Self> {
        let is_constant = matches!(Self(code), Self::PROTOCOL | Self::NO_STATUS | Self::ABNORMAL);
        if is_constant { Some(Self(code)) } else { Self::application(code).ok() }
    }

    /// Returns the code to put into a close frame: none for 1005, and 1001 instead of 1006, because neither
    /// may be sent.
    pub(crate) fn on_the_wire(self) -> Option<u16> {
        match self {
            Self::NO_STATUS => None,
            Self::ABNORMAL => Some(Self::GOING_AWAY.0),
            Self(code) => Some(code),
        }
    }

    /// Returns the code as a number.
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

/// How a connection ended, as passed to `on_close`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Close {
    /// The peer's code if the peer closed, ours if we closed, or 1006 if the connection was lost.
    pub code: CloseCode,
    /// The reason sent with the code; often empty, at most 123 bytes.
    pub reason: Cow<'static, str>,
}

impl Close {
    /// Creates a close with a reason.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Creates a close with a reason that is cut to fit into a close frame.
    pub(crate) fn cut(code: CloseCode, mut reason: String) -> Self {
        reason.truncate(prefix(&reason, CLOSE_REASON).len());
        Self::new(code, reason)
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() { self.code.fmt(f) } else { write!(f, "{} {}", self.code, self.reason) }
    }
}
