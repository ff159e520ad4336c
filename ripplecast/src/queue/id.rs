//! Message ids: the time of publication, and a number within that millisecond.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{error::ParseIdError, id::serde_as_text};

/// The id of a message on a queue. Ids of one queue increase in the order of publication.
///
/// It has the text form used by Redis, `1700000000000-0`, and can be parsed from it.
///
/// ```
/// use ripplecast::queue::MessageId;
/// let id: MessageId = "1700000000000-7".parse()?;
/// assert_eq!((id.millis(), id.sequence()), (1_700_000_000_000, 7));
/// assert_eq!(id.to_string(), "1700000000000-7");
/// assert!(id < "1700000000001-0".parse()?);
/// # Ok::<(), ripplecast::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageId {
    /// Since 1970.
    millis: u64,
    /// The number within the millisecond.
    sequence: u64,
}

impl MessageId {
    /// Creates an id from its parts.
    pub(super) const fn new(millis: u64, sequence: u64) -> Self {
        Self { millis, sequence }
    }

    /// Returns the time of publication in milliseconds since 1970, by the clock of the backend. It never
    /// decreases within a queue, even if the clock is set back.
    pub const fn millis(self) -> u64 {
        self.millis
    }

    /// Returns the number among the messages of that millisecond, starting at 0.
    pub const fn sequence(self) -> u64 {
        self.sequence
    }

    /// Returns the id of the next message, published at `millis`.
    pub(super) fn next(self, millis: u64) -> Self {
        if millis > self.millis {
            return Self::new(millis, 0);
        }
        match self.sequence.checked_add(1) {
            Some(sequence) => Self::new(self.millis, sequence),
            None => Self::new(self.millis + 1, 0),
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('-');
        let parsed = parts.and_then(|(millis, sequence)| {
            Some(Self { millis: millis.parse().ok()?, sequence: sequence.parse().ok()? })
        });
        parsed.ok_or_else(|| ParseIdError::new("a message id; expected one such as 1700000000000-0", text))
    }
}

serde_as_text!(MessageId);

#[cfg(test)]
mod tests {
    use super::MessageId;

    #[test]
    fn ids_increase_even_if_the_clock_is_set_back() {
        let id = MessageId::new(5, 0);
        assert_eq!(id.next(6), MessageId::new(6, 0));
        assert_eq!(id.next(5), MessageId::new(5, 1));
        assert_eq!(id.next(1), MessageId::new(5, 1));
        assert_eq!(MessageId::new(5, u64::MAX).next(5), MessageId::new(6, 0));
    }

    #[test]
    fn an_invalid_id_is_rejected() {
        for text in ["", "5", "5-", "-5", "a-1", "1-b", "1-2-3", "99999999999999999999-0"] {
            let error = text.parse::<MessageId>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let long = "9".repeat(10_000);
        assert!(long.parse::<MessageId>().unwrap_err().to_string().len() < 200);
    }
}
