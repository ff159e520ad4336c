//! A change of a table as it is published: a letter, then items, each with its length before it (`5:hello`). `S` is followed
//! by the change's number, the key, and the names and values of the columns; `D` by the number and the key of a row that was
//! deleted; `C` by the number at which all rows were.

use crate::store::{StoreError, redis::text, row::Row, schema::Schema};

/// A published change, before its row is read.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Change<'a> {
    /// Its number.
    pub(super) number: u64,
    /// What was changed.
    pub(super) what: What<'a>,
}

/// What was changed.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum What<'a> {
    /// A row was written.
    Set {
        /// Its key.
        key: &'a str,
        /// Names and values of the columns that it has.
        fields: Vec<(&'a [u8], &'a [u8])>,
    },
    /// The row of that key was deleted.
    Deleted(&'a str),
    /// All rows were deleted.
    Cleared,
}

/// The first item, and what comes after it.
fn item(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = rest.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&rest[..colon]).ok()?.parse().ok()?;
    rest[colon + 1..].split_at_checked(length)
}

/// The same, as text.
fn text_item(rest: &[u8]) -> Option<(&str, &[u8])> {
    let (text, rest) = item(rest)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

impl<'a> Change<'a> {
    /// Reads a change; none if it is not one.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Self> {
        let (letter, rest) = payload.split_first()?;
        let (number, rest) = text_item(rest)?;
        let number = number.parse().ok()?;
        let (what, rest) = match letter {
            b'S' => {
                let (key, rest) = text_item(rest)?;
                (What::Set { key, fields: fields(rest)? }, &[][..])
            }
            b'D' => {
                let (key, rest) = text_item(rest)?;
                (What::Deleted(key), rest)
            }
            b'C' => (What::Cleared, rest),
            _ => return None,
        };
        rest.is_empty().then_some(Self { number, what })
    }
}

/// All names and values.
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

/// The row of a key with those fields. Columns that the table doesn't have are left out, as a newer version of the program may
/// have more.
pub(super) fn row(schema: &Schema, key: &str, fields: &[(&[u8], &[u8])]) -> Result<Row, StoreError> {
    // They come in the order of the columns, unless a column was added.
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
    fn changes_are_read() {
        let set = Change::parse(b"S2:172:a:1:n2:-11:t3:a\r\n").unwrap();
        let fields = vec![(&b"n"[..], &b"-1"[..]), (b"t", b"a\r\n")];
        assert_eq!(set, Change { number: 17, what: What::Set { key: "a:", fields } });
        let deleted = Change { number: 5, what: What::Deleted("") };
        assert_eq!(Change::parse(b"D1:50:"), Some(deleted));
        assert_eq!(Change::parse(b"C1:5"), Some(Change { number: 5, what: What::Cleared }));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for wrong in [
            &b""[..],
            b"S",
            b"X1:5",
            b"C2:5",
            b"C1:x",
            b"C1:5 ",
            b"D1:5",
            b"D1:51:a1:b",
            b"D1:51:\xff",
            b"S1:51:a1:n",
            b"S1:51:a1:n99999999999999999999:1",
            b"S1:51:a1:n-1:1",
        ] {
            assert_eq!(Change::parse(wrong), None, "{}", wrong.escape_ascii());
        }
    }
}
