//! Which documents there are, and their order.

/// Each document of the repository that is shown: its path from the root, and its text.
pub(super) static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/documents.rs"));

/// The groups of the side navigation, and the documents in each by the last part of their address. This is also the order of
/// the pages' "next" and "previous". A name whose file is not there is left out.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["quick-start", "choosing", "site"]),
    ("Concepts", &["concepts", "slow-readers"]),
    ("APIs", &["websocket", "sse", "rooms", "state", "bus", "streams"]),
    ("Guides", &["auth", "htmx", "scaling", "tls", "compression", "deploy", "testing"]),
    ("Reference", &["settings", "close-codes", "metrics"]),
    ("Coming from", &["from-axum-ws", "from-socketio", "from-phoenix-channels", "comparison"]),
    (
        "About",
        &["architecture", "performance", "benchmarks", "soak", "security", "contributing", "changelog"],
    ),
];

/// The last part of the address of the document at `path`.
pub(super) fn slug(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".md").unwrap_or(name).to_lowercase()
}

/// The path of the document that is shown under that name.
pub(super) fn path_of(name: &str) -> Option<&'static str> {
    FILES.iter().map(|(path, _)| *path).find(|path| slug(path) == name)
}

/// The documents in their order, each with its group, path and text.
pub(super) fn in_order() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let names = GROUPS.iter().flat_map(|(group, names)| names.iter().map(move |name| (*group, *name)));
    names.filter_map(|(group, name)| {
        let (path, text) = FILES.iter().find(|(path, _)| slug(path) == name)?;
        Some((group, *path, *text))
    })
}
