//! Log lines that a peer can cause: rate-limited, with bounded values.
//!
//! A peer that makes a server write a line per request can fill its disk, and stall it while logging is slow.
//! Ripplecast limits such lines with one [`Limit`] for each kind of line, and shortens what the peer sent
//! with [`cut`]. Use both in your own handlers.
//!
//! ```
//! use ripplecast::{Connection, Message, Result, log};
//!
//! async fn on_message(conn: Connection, message: Message) -> Result<()> {
//!     static NOT_JSON: log::Limit = log::Limit::new();
//!     let Some(text) = message.as_text().filter(|text| text.starts_with('{')) else {
//!         if let Some(suppressed) = NOT_JSON.admit() {
//!             let text = log::cut(message.as_text().unwrap_or_default());
//!             tracing::warn!(id = %conn.id(), %text, suppressed, "a client sent something other than JSON");
//!         }
//!         return Ok(());
//!     };
//!     # let _ = text;
//!     Ok(())
//! }
//! ```

use std::{
    fmt::{self, Display, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Minimum time between two lines of one kind, so that the log stays readable while a problem lasts.
const EVERY: Duration = Duration::from_secs(10);
/// Bytes of a value that are shown. Enough for an origin, an address, or the start of an error.
const SHOWN: usize = 100;

/// Limits one kind of log line to one every 10 s for the whole process, and counts the omitted lines.
///
/// Put it in a `static` next to the line. Safe to use from any thread; never blocks.
#[derive(Debug, Default)]
pub struct Limit {
    /// When the next line may be written, in milliseconds since the process began to log; 0 before the first
    /// line.
    next: AtomicU64,
    /// Lines omitted since the last one written.
    suppressed: AtomicU64,
}

impl Limit {
    /// Creates a limit that admits the first line at once.
    pub const fn new() -> Self {
        Self { next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Returns the number of lines omitted since the last one if a line may be written now. Returns `None` if
    /// this line must be omitted as well.
    pub fn admit(&self) -> Option<u64> {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        self.admit_at(BEGAN.get_or_init(Instant::now).elapsed())
    }

    /// Implements [`admit`](Self::admit) at `now`, measured from when the process began to log.
    fn admit_at(&self, now: Duration) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Relaxed);
        if millis(now) < next
            // If several threads arrive at once, only one writes the line.
            || self.next.compare_exchange(next, millis(now + EVERY), Relaxed, Relaxed).is_err()
        {
            self.suppressed.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Relaxed))
    }
}

/// Shows the first 100 bytes of a value, followed by `…` if it is longer. Escapes control and invisible
/// characters, so that a value can neither start a new line nor send commands to a terminal.
///
/// Never cuts a character in two. Formatting stops at the limit, so a long value costs no more than a short
/// one.
pub fn cut<T: Display>(value: T) -> Cut<T> {
    Cut(value)
}

/// A value shown in part; see [`cut`].
#[derive(Clone, Copy, Debug)]
pub struct Cut<T>(T);

impl<T: Display> Display for Cut<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shortened = Shortened { out, left: SHOWN, is_full: false };
        match write!(shortened, "{}", self.0) {
            Err(_) if shortened.is_full => out.write_char('…'),
            written => written,
        }
    }
}

/// Passes on what fits, and fails at the first character that does not.
struct Shortened<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    /// Bytes that still fit.
    left: usize,
    is_full: bool,
}

impl fmt::Write for Shortened<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            if is_plain(char) {
                self.fit(char.len_utf8())?;
                self.out.write_char(char)?;
            } else {
                let escaped = char.escape_unicode();
                self.fit(escaped.len())?;
                write!(self.out, "{escaped}")?;
            }
        }
        Ok(())
    }
}

impl Shortened<'_, '_> {
    fn fit(&mut self, bytes: usize) -> fmt::Result {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                self.is_full = true;
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// Returns whether a character may appear unescaped: it is visible or a space.
fn is_plain(char: char) -> bool {
    // Besides quotes and backslashes, `escape_debug` escapes controls, separators and invisible characters.
    matches!(char, '\'' | '"' | '\\') || char.escape_debug().len() == 1
}

/// Writes a log line that a peer can cause: at most one of its kind every 10 s, with `suppressed` if lines
/// were omitted.
///
/// `limited!(WARN, fields, "message")`. Wrap values that a peer chooses in [`cut`].
macro_rules! limited {
    ($level:ident, $($line:tt)+) => {{
        static LIMIT: $crate::log::Limit = $crate::log::Limit::new();
        // A line below the enabled level must not count against the limit.
        if ::tracing::enabled!(::tracing::Level::$level)
            && let Some(suppressed) = LIMIT.admit()
        {
            let suppressed = (suppressed > 0).then_some(suppressed);
            ::tracing::event!(::tracing::Level::$level, suppressed, $($line)+);
        }
    }};
}
pub(crate) use limited;

#[cfg(test)]
mod tests {
    use std::{path::Path, thread};

    use super::*;

    #[test]
    fn one_line_of_a_kind_every_ten_seconds_and_the_rest_is_counted() {
        let limit = Limit::new();
        assert_eq!(limit.admit_at(Duration::ZERO), Some(0));
        for millis in [0, 1, 9_999] {
            assert_eq!(limit.admit_at(Duration::from_millis(millis)), None, "{millis} ms");
        }
        assert_eq!(limit.admit_at(EVERY), Some(3));
        assert_eq!(limit.admit_at(EVERY), None);
        assert_eq!(limit.admit_at(EVERY * 5), Some(1));
        assert_eq!(limit.admit_at(EVERY * 6), Some(0));
    }

    #[test]
    fn only_one_of_several_threads_writes_the_line() {
        let limit = Limit::new();
        let admitted: usize = thread::scope(|scope| {
            let asks = || (0..1_000).filter(|_| limit.admit().is_some()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(asks)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1);
        assert_eq!(limit.admit_at(Duration::from_secs(86_400)), Some(3_999));
    }

    #[test]
    fn values_are_cut_between_characters_and_escaped() {
        let a = |count| "a".repeat(count);
        for (value, shown) in [
            (String::new(), String::new()),
            ("https://example.com".into(), "https://example.com".into()),
            (a(100), a(100)),
            (a(101), a(100) + "…"),
            (a(14_000), a(100) + "…"),
            (a(99) + "é", a(99) + "…"),
            (a(98) + "é", a(98) + "é"),
            ("größe 日本 \"x\\y\"".into(), "größe 日本 \"x\\y\"".into()),
            ("a\nb\u{1b}[31m\0".into(), r"a\u{a}b\u{1b}[31m\u{0}".into()),
            ("\u{202e}\u{200b}".into(), r"\u{202e}\u{200b}".into()),
            ("\u{1b}".repeat(1_000), r"\u{1b}".repeat(16) + "…"),
        ] {
            assert_eq!(cut(&value).to_string(), shown, "{value:?}");
        }
    }

    /// Counts how often more of the value is requested.
    struct EndlessText<'a>(&'a AtomicU64);

    impl Display for EndlessText<'_> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                self.0.fetch_add(1, Relaxed);
                out.write_str("0123456789")?;
            }
        }
    }

    #[test]
    fn no_more_of_a_value_is_formatted_than_is_shown() {
        let asked = AtomicU64::new(0);
        assert_eq!(cut(EndlessText(&asked)).to_string(), "0123456789".repeat(10) + "…");
        assert_eq!(asked.load(Relaxed), 11);
    }

    /// Code that peers drive writes every log line through a limit.
    #[test]
    fn peer_driven_code_logs_only_through_limits() {
        const FILES: [&str; 21] = [
            "app.rs",
            "bus/memory.rs",
            "relay.rs",
            "engine/delivery.rs",
            "cluster/gaps.rs",
            "engine/shard.rs",
            "engine/shard/calls.rs",
            "engine/shard/closing.rs",
            "engine/shard/input.rs",
            "live.rs",
            "panics.rs",
            "request.rs",
            "response.rs",
            "server/accepting.rs",
            "server/connection.rs",
            "server/files.rs",
            "headers/forwarded.rs",
            "sse.rs",
            "hand_off.rs",
            "ws/handshake.rs",
            "ws/upgrade.rs",
        ];
        /// Lines that peers cannot cause.
        const ONCE: [&str; 1] = ["\"listening\""];
        for file in FILES {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                let is_limited = !["error!(", "warn!(", "info!(", "debug!(", "trace!(", "event!("]
                    .iter()
                    .any(|call| line.contains(&format!("tracing::{call}")));
                let is_once = ONCE.iter().any(|once| line.contains(once));
                assert!(is_limited || is_once, "{file}:{}: write this line with limited!", number + 1);
            }
        }
    }
}
