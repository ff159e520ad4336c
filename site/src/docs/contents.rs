//! The list of documents and their order.

/// Each published document: its path from the repository root, and its text.
pub(super) static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/documents.rs"));

/// A group of the side navigation: its name, and each document's last address segment and description.
type Group = (&'static str, &'static [(&'static str, &'static str)]);

/// The groups of the side navigation. This order also defines the "next" and "previous" links. Names without a file are
/// skipped.
pub(super) const GROUPS: &[Group] = &[
    (
        "Start",
        &[
            ("quick-start", "Build a counter that every open tab shares, in ten minutes."),
            ("choosing", "Which of the tools fits your problem, with an example of each."),
            ("site", "The lesson, the demos and the inspector that the binary serves."),
        ],
    ),
    (
        "Concepts",
        &[
            ("concepts", "Hub, connection, room, node and the other words of this documentation."),
            ("slow-readers", "What happens to a connection that stops reading, and how you decide it."),
        ],
    ),
    (
        "APIs",
        &[
            ("websocket", "Endpoints with three callbacks, their settings, and sending from anywhere."),
            ("sse", "Push to pages over plain HTTP, and resume after a disconnection."),
            ("rooms", "Send a message to a group of connections, to one user, or to everyone."),
            ("state", "Values that all nodes share and that push their own changes."),
            ("bus", "Notify other parts of your program, on this node and on the others."),
            ("queues", "Messages that are kept until every group of consumers has handled them."),
        ],
    ),
    (
        "Guides",
        &[
            ("auth", "Check who connects, by cookie or token, and from which site."),
            ("htmx", "Update parts of a page from the server, with almost no script."),
            ("scaling", "Share one Redis between nodes: addresses, failures and limits."),
            ("tls", "Serve HTTPS and WSS directly, and renew certificates without a restart."),
            ("compression", "Send smaller messages, and what that costs in memory and time."),
            (
                "deploy",
                "Run it behind a proxy, under systemd or in Kubernetes, and stop it without a stampede.",
            ),
            ("testing", "Test endpoints with real connections, and pages in a real browser."),
        ],
    ),
    (
        "Reference",
        &[
            ("settings", "Every flag, variable, setting and fixed limit, with its default and its reason."),
            ("close-codes", "Why a connection was closed, and what the client should do next."),
            ("metrics", "The figures of a node, for Prometheus or for your own code."),
        ],
    ),
    (
        "Coming from",
        &[
            ("from-axum-ws", "Replace an upgrade handler and its broadcast channel."),
            ("from-socketio", "Events, acknowledgements and rooms, and what takes their place."),
            ("from-phoenix-channels", "Channels, topics and presence, and what takes their place."),
            ("comparison", "Six libraries side by side, beginning with what Ripplecast lacks."),
        ],
    ),
    (
        "About",
        &[
            ("architecture", "How the crates and modules are divided, and where to change what."),
            ("decisions", "Why it is built this way, and which alternatives were rejected."),
            ("performance", "Measured cost of broadcasts, connections and Redis, next to other servers."),
            ("benchmarks", "Measure your own server, or any other, with the built-in load generator."),
            ("soak", "Restart a server under load for minutes or hours, and prove that nothing is lost."),
            ("security", "What is protected, against whom, and how to report a problem."),
            ("contributing", "Set up, run the checks, and send a change."),
            ("changelog", "What changed in each version, and how to upgrade."),
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

/// A document, with its place in the navigation.
pub(super) struct Entry {
    pub(super) group: &'static str,
    /// One line for the index.
    pub(super) description: &'static str,
    pub(super) path: &'static str,
    pub(super) text: &'static str,
}

/// Returns the documents in order.
pub(super) fn in_order() -> impl Iterator<Item = Entry> {
    let names = GROUPS.iter().flat_map(|(group, names)| names.iter().map(move |name| (*group, *name)));
    names.filter_map(|(group, (name, description))| {
        let (path, text) = FILES.iter().find(|(path, _)| slug(path) == name)?;
        Some(Entry { group, description, path, text })
    })
}
