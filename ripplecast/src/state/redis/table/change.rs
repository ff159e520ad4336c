//! The published form of a table's changes: a letter, then items, each prefixed with its length (`5:hello`).
//! `S` is followed by the key, and the names and values of the columns; `D` by the key of a deleted row. `C`
//! alone means that all rows were deleted, and `N` that an epoch begins.

use crate::{
    error::StateError,
    state::{redis::text, row::Row, schema::Schema},
};

/// A published change, before its row is parsed.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum TableChange<'a> {
    /// A row was written.
    Set {
        key: &'a str,
        /// Names and values of the stored columns.
        fields: Vec<(&'a [u8], &'a [u8])>,
    },
    /// The row with that key was deleted.
    Deleted(&'a str),
    /// All rows were deleted.
    Cleared,
    /// An epoch begins; the rows are unchanged.
    Epoch,
}

/// Splits off the first item.
fn item(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
    rest[colon + 1..].split_at_checked(length)
}

/// Splits off the first item as text.
fn text_item(rest: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) = item(rest)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

impl<'a> TableChange<'a> {
    /// Parses a change; returns `None` for anything else.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Self> {
        let (letter, rest) = payload.split_first()?;
        let (change, rest) = match letter {
            b'S' => {
                let (key, rest) = text_item(rest)?;
                (Self::Set { key, fields: fields(rest)? }, &[][..])
            }
            b'D' => {
                let (key, rest) = text_item(rest)?;
                (Self::Deleted(key), rest)
            }
            b'C' => (Self::Cleared, rest),
            b'N' => (Self::Epoch, rest),
            _ => return None,
        };
        rest.is_empty().then_some(change)
    }
}

/// Parses all names and values.
fn fields(mut rest: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (name, after) = item(rest)?;
        let (value, after) = item(after)?;
        fields.push((name, value));
        rest = after;
    }
    Some(fields)
}

/// Parses the row of a key from those fields. Skips columns that the table does not have, since a newer
/// version of the program may have more.
pub(super) fn row(schema: &Schema, key: &str, fields: &[(&[u8], &[u8])]) -> Result<Row, StateError> {
    // The fields are in the order of the columns, unless a column was added.
    let value = |(index, name): (usize, &str)| match fields.get(index) {
        Some((found, value)) if *found == name.as_bytes() => Some(*value),
        _ => fields.iter().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| *value),
    };
    let names = schema.columns().iter().map(|column| column.name);
    text::read_row(schema, key, names.enumerate().map(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_parsed() {
        let set = TableChange::parse(b"S2:a:1:n2:-11:t3:a\r\n").unwrap();
        let fields = vec![(&b"n"[..], &b"-1"[..]), (b"t", b"a\r\n")];
        assert_eq!(set, TableChange::Set { key: "a:", fields });
        assert_eq!(TableChange::parse(b"D0:"), Some(TableChange::Deleted("")));
        assert_eq!(TableChange::parse(b"C"), Some(TableChange::Cleared));
        assert_eq!(TableChange::parse(b"N"), Some(TableChange::Epoch));
    }

    #[test]
    fn anything_else_is_rejected() {
        for wrong in [
            &b""[..],
            b"S",
            b"X",
            b"C1:5",
            b"C ",
            b"N1",
            b"D",
            b"D1:a1:b",
            b"D1:\xff",
            b"S1:a1:n",
            b"S1:a1:n99999999999999999999:1",
            b"S1:a1:n-1:1",
        ] {
            assert_eq!(TableChange::parse(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
