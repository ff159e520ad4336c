//! Checks that the elements in a piece of HTML are closed.

use crate::Result;

/// Elements without an end tag.
const VOID: [&str; 8] = ["area", "br", "hr", "img", "input", "link", "meta", "source"];

/// Checks that elements are closed in the reverse order of opening, and that quotation marks are paired.
pub(super) fn check(text: &str) -> Result<()> {
    let mut open = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('<') {
        if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").ok_or("unterminated comment")?.1;
            continue;
        }
        let end = end_of_tag(after).ok_or_else(|| format!("unterminated tag: <{after}"))?;
        let (tag, behind) = (&after[..end], &after[end + 1..]);
        rest = behind;
        let name: &str = tag.split([' ', '\n', '/']).find(|part| !part.is_empty()).unwrap_or_default();
        if tag.starts_with('!') || VOID.contains(&name) || tag.ends_with('/') {
            continue;
        }
        if !tag.starts_with('/') {
            open.push(name);
        } else if open.pop() != Some(name) {
            return Err(format!("</{name}> does not match the last open element"));
        }
    }
    open.pop().map_or(Ok(()), |name| Err(format!("<{name}> is never closed")))
}

/// Returns the end of the tag whose first character follows `<`, ignoring quoted text.
fn end_of_tag(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(mark), c) if c == mark => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opened_elements_must_be_closed() {
        let good = "<!doctype html><p class='a > b'>text <!-- <b> --><br><input name=\"x\"><svg/>\n</p>";
        check(good).unwrap();
        for bad in ["<p>", "</p>", "<p><b></p></b>", "<p class=\"a>", "<!-- a", "<p"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
