//! Addresses on the pages: written from the root in the templates, and sent relative to the page.
//!
//! A relative address (RFC 3986, section 4.2) also works where a proxy serves the site below a path such as `/rt/`, whatever
//! that path is and without a header that names it.

/// The deepest page that gets relative addresses. Only a page that does not exist is deeper; its addresses stay as they are, so that
/// a long path does not make a long answer.
const DEEPEST: usize = 16;

/// The way from the page at `path` to the root: `./` for `/demos`, `../` for `/demos/chat`.
pub(crate) fn root(path: &str) -> String {
    match path.matches('/').count().saturating_sub(1) {
        0 => "./".to_owned(),
        depth if depth <= DEEPEST => "../".repeat(depth),
        _ => "/".to_owned(),
    }
}

/// The page at `path`, with the addresses in its attributes relative to it.
pub(crate) fn relative(html: &str, path: &str) -> String {
    in_attributes(html, "/", &root(path))
}

/// Replaces the beginning of attributes. What a page shows of a source has no tags, so it stays as it is.
fn in_attributes(html: &str, from: &str, to: &str) -> String {
    let (from, to) = (format!("=\"{from}"), format!("=\"{to}"));
    let mut changed = String::with_capacity(html.len() + html.len() / 64);
    for (index, piece) in html.split('<').enumerate() {
        if index == 0 {
            changed.push_str(piece);
            continue;
        }
        let (tag, text) = piece.split_at(piece.find('>').unwrap_or(piece.len()));
        changed.push('<');
        changed.push_str(&tag.replace(&from, &to));
        changed.push_str(text);
    }
    changed
}

/// The page as its template has it, with addresses from the root.
///
/// # Panics
/// If an address was not relative.
#[cfg(test)]
pub(crate) fn from_root(html: &str, path: &str) -> String {
    assert_eq!(in_attributes(html, "/", ""), html, "an address of {path} that is not relative");
    in_attributes(html, &root(path), "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_from_the_page_to_the_root() {
        for (path, expected) in [
            ("/", "./"),
            ("/demos", "./"),
            ("/demos/chat", "../"),
            ("/a/", "../"),
            ("//a", "../"),
            ("/a/b/c", "../../"),
        ] {
            assert_eq!(root(path), expected, "{path}");
        }
        let page = |address: &str| {
            format!("<p><a href=\"{address}\" title=\"a/b\">/x</a> hx-get=\"/x\" &lt;a href=\"/x\"")
        };
        assert_eq!(relative(&page("/docs"), "/a/b"), page("../docs"));
        assert_eq!(from_root(&page("../docs"), "/a/b"), page("/docs"));
    }

    #[test]
    fn a_long_path_makes_no_long_answer() {
        assert_eq!(root(&"/".repeat(10_000)), "/");
    }
}
