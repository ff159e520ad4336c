//! Resolves links in documents for the pages that the binary serves.

use super::contents::{FILES, slug};

/// The target of a link.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// An address on this site or elsewhere.
    Address(String),
    /// A repository file that the binary does not serve, by its path from the root.
    Repository(String),
}

/// Resolves a link in the document at `from`, a path from the repository root.
pub(super) fn resolve(from: &str, link: &str) -> Target {
    if link.starts_with('#') || is_elsewhere(link) {
        return Target::Address(link.to_owned());
    }
    let (path, anchor) = link.split_at(link.find('#').unwrap_or(link.len()));
    let path = joined(from, path);
    match FILES.iter().find(|(known, _)| *known == path) {
        Some(_) => Target::Address(format!("/docs/{}{anchor}", slug(&path))),
        None => Target::Repository(path),
    }
}

/// Returns whether a link leaves the repository: `https://…`, `mailto:…`, `//host`.
fn is_elsewhere(link: &str) -> bool {
    let scheme = link.split_once(':').map(|(scheme, _)| scheme);
    link.starts_with("//") || scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Resolves `path` relative to the file `from`, and returns a path from the root. `..`
/// never leaves the root.
fn joined(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if path.starts_with('/') {
        parts.clear();
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_rewritten() {
        let address = |text: &str| Target::Address(text.to_owned());
        let repository = |text: &str| Target::Repository(text.to_owned());
        for (from, link, target) in [
            ("docs/tls.md", "#limits", address("#limits")),
            ("docs/tls.md", "state.md", address("/docs/state")),
            ("docs/tls.md", "./state.md#tables", address("/docs/state#tables")),
            ("docs/tls.md", "../SECURITY.md", address("/docs/security")),
            ("SECURITY.md", "docs/tls.md", address("/docs/tls")),
            ("docs/tls.md", "../bench/README.md#x", repository("bench/README.md")),
            ("docs/tls.md", "none.md", repository("docs/none.md")),
            ("docs/tls.md", "../../../etc/passwd", repository("etc/passwd")),
            ("docs/tls.md", "/examples/counter.rs", repository("examples/counter.rs")),
            ("docs/tls.md", "https://docs.rs/axum", address("https://docs.rs/axum")),
            ("docs/tls.md", "mailto:a@example.org", address("mailto:a@example.org")),
        ] {
            assert_eq!(resolve(from, link), target, "{link} in {from}");
        }
    }
}
