//! The list of documents and their order.

/// Each published document: its path from the repository root, and its text.
pub(super) static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/documents.rs"));

/// The groups of the side navigation, and the documents in each, by the last segment of their address. This order also
/// defines the "next" and "previous" links. Names without a file are skipped.
pub(super) const GROUPS: &[(&str, &[&str])] = &[
    ("Start", &["quick-start", "choosing", "site"]),
    ("Concepts", &["concepts", "slow-readers"]),
    ("APIs", &["websocket", "sse", "rooms", "state", "bus", "queues"]),
    ("Guides", &["auth", "htmx", "scaling", "tls", "compression", "deploy", "testing"]),
    ("Reference", &["settings", "close-codes", "metrics"]),
    ("Coming from", &["from-axum-ws", "from-socketio", "from-phoenix-channels", "comparison"]),
    (
        "About",
        &[
            "architecture",
            "decisions",
            "performance",
            "benchmarks",
            "soak",
            "security",
            "contributing",
            "changelog",
        ],
    ),
];

/// Returns the last address segment of the document at `path`.
pub(super) fn slug(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_suffix(".md").unwrap_or(name).to_lowercase()
}

/// Returns the path of the document with the slug `name`.
pub(super) fn path_of(name: &str) -> Option<&'static str> {
    FILES.iter().map(|(path, _)| *path).find(|path| slug(path) == name)
}

/// Returns the documents in order, each with its group, path and text.
pub(super) fn in_order() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let names = GROUPS.iter().flat_map(|(group, names)| names.iter().map(move |name| (*group, *name)));
    names.filter_map(|(group, name)| {
        let (path, text) = FILES.iter().find(|(path, _)| slug(path) == name)?;
        Some((group, *path, *text))
    })
}
