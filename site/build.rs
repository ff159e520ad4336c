//! Lists the documents that the binary serves, so that a new file in `docs/` needs no line of code.

use std::{env, fmt::Write as _, fs, path::Path};

/// Documents that stand at the root of the repository.
const AT_THE_ROOT: [&str; 4] = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// The front page of the crate's own documentation, whose links only rustdoc can follow.
const FOR_RUSTDOC: &str = "docs/crate.md";

fn main() {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let docs = root.join("docs");
    println!("cargo::rerun-if-changed={}", docs.display());
    let mut files: Vec<String> = AT_THE_ROOT.iter().map(ToString::to_string).collect();
    for entry in fs::read_dir(&docs).expect("docs/ stands beside site/") {
        let name = entry.expect("a file of docs/").file_name().into_string().expect("its name is UTF-8");
        let path = format!("docs/{name}");
        if name.ends_with(".md") && path != FOR_RUSTDOC {
            files.push(path);
        }
    }
    files.sort();
    let mut list = String::from("&[\n");
    for path in files {
        let file = root.join(&path);
        writeln!(list, "    ({path:?}, include_str!({:?})),", file.display().to_string())
            .expect("a string grows");
    }
    list.push_str("]\n");
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("documents.rs"), list).expect("cargo's directory can be written to");
}
