//! Text shortened to a limit.

/// Returns the longest prefix of `text` that is at most `max` bytes long and ends between two characters.
///
/// `str::floor_char_boundary` does the same from Rust 1.91 on, one version after the oldest that this crate supports.
pub(crate) fn prefix(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn a_prefix_ends_between_two_characters() {
        for (text, max, expected) in [
            ("abc", 2, "ab"),
            ("abc", 3, "abc"),
            ("abc", usize::MAX, "abc"),
            ("", 5, ""),
            ("aß", 2, "a"),
            ("aß", 3, "aß"),
            ("🌊", 3, ""),
        ] {
            assert_eq!(prefix(text, max), expected, "{text:?} at {max}");
        }
    }
}
