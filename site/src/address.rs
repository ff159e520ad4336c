//! Addresses in the pages: absolute in the templates, and sent relative to the page.
//!
//! A relative address (RFC 3986, section 4.2) also works behind a proxy that serves the site under a path prefix such
//! as `/rt/`, whatever the prefix is and without a header that names it.

/// The depth of the deepest page with relative addresses. Deeper paths are never real pages. Their addresses stay
/// absolute, so that a long path does not produce a long response.
const DEEPEST: usize = 16;

/// Returns the relative address of the root as seen from `path`: `./` for `/demos`, `../` for `/demos/chat`.
pub(crate) fn root(path: &str) -> String {
    match path.matches('/').count().saturating_sub(1) {
        0 => "./".to_owned(),
        depth if depth <= DEEPEST => "../".repeat(depth),
        _ => "/".to_owned(),
    }
}

/// Returns the HTML of the page at `path`, with the addresses in its attributes made relative to it.
pub(crate) fn relative(html: &str, path: &str) -> String {
    in_attributes(html, "/", &root(path))
}

/// Replaces a prefix of attribute values. Source code shown on a page contains no tags, so it is left unchanged.
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

/// Returns the page as in its template, with absolute addresses.
///
/// # Panics
/// Panics if an address is not relative.
#[cfg(test)]
pub(crate) fn from_root(html: &str, path: &str) -> String {
    assert_eq!(in_attributes(html, "/", ""), html, "{path} has an address that is not relative");
    in_attributes(html, &root(path), "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_points_from_the_page_to_the_root() {
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
    fn a_long_path_does_not_produce_a_long_address() {
        assert_eq!(root(&"/".repeat(10_000)), "/");
    }
}
