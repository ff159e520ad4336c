//! Compiles and runs the Rust code of the guides and the README with the documentation tests.

#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../ripplecast/README.md")]
    mod crate_readme {}
    #[doc = include_str!("../../docs/state.md")]
    mod state {}
    #[doc = include_str!("../../docs/queues.md")]
    mod queues {}
    #[doc = include_str!("../../docs/scaling.md")]
    mod scaling {}
    #[doc = include_str!("../../docs/slow-readers.md")]
    mod slow_readers {}
    #[doc = include_str!("../../docs/compression.md")]
    mod compression {}
    #[doc = include_str!("../../docs/tls.md")]
    mod tls {}
    #[doc = include_str!("../../docs/quick-start.md")]
    mod quick_start {}
    #[doc = include_str!("../../docs/websocket.md")]
    mod websocket {}
    #[doc = include_str!("../../docs/sse.md")]
    mod sse {}
    #[doc = include_str!("../../docs/rooms.md")]
    mod rooms {}
    #[doc = include_str!("../../docs/bus.md")]
    mod bus {}
    #[doc = include_str!("../../docs/auth.md")]
    mod auth {}
    #[doc = include_str!("../../docs/htmx.md")]
    mod htmx {}
    #[doc = include_str!("../../docs/deploy.md")]
    mod deploy {}
    #[doc = include_str!("../../docs/testing.md")]
    mod testing {}
    #[doc = include_str!("../../docs/close-codes.md")]
    mod close_codes {}
    #[doc = include_str!("../../docs/metrics.md")]
    mod metrics {}
    #[doc = include_str!("../../docs/from-axum-ws.md")]
    mod from_axum_ws {}
    #[doc = include_str!("../../docs/from-socketio.md")]
    mod from_socketio {}
    #[doc = include_str!("../../docs/from-phoenix-channels.md")]
    mod from_phoenix_channels {}
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Returns the documents in `docs/`: path and text.
    fn documents() -> Vec<(String, String)> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let pages = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        pages
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                (format!("docs/{name}"), fs::read_to_string(&path).unwrap())
            })
            .collect()
    }

    /// Returns the info strings of a document's code blocks.
    fn code_blocks(text: &str) -> Vec<&str> {
        let fences = text.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
        fences.step_by(2).collect() // every other one closes a block
    }

    #[test]
    fn every_document_with_rust_code_is_among_the_doctests() {
        let lib = include_str!("lib.rs");
        for (path, text) in documents() {
            if code_blocks(&text).iter().any(|info| info.starts_with("rust")) {
                let line = format!("include_str!(\"../../{path}\")");
                assert!(
                    lib.contains(&line),
                    "{path} has Rust code: add it to `mod guides` in docs-tests/src/lib.rs"
                );
            }
        }
    }

    #[test]
    fn every_code_block_says_what_it_is_and_rust_is_compiled() {
        for (path, text) in documents() {
            for info in code_blocks(&text) {
                assert!(!info.is_empty(), "{path}: a code block without a language would be taken for Rust");
                assert!(!info.contains("ignore"), "{path}: a Rust block that is not compiled");
            }
        }
    }
}
