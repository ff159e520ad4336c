//! Lists the documents and pictures that the binary embeds, so that adding a file to `docs/` needs no code
//! change.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Documents in the root of the repository.
const AT_THE_ROOT: [&str; 4] = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

fn main() {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let docs = root.join("docs");
    println!("cargo::rerun-if-changed={}", docs.display());
    let mut files: Vec<String> = AT_THE_ROOT.iter().map(ToString::to_string).collect();
    for entry in fs::read_dir(&docs).expect("docs/ is next to site/") {
        let name = entry.expect("a file of docs/").file_name().into_string().expect("its name is UTF-8");
        if name.ends_with(".md") {
            files.push(format!("docs/{name}"));
        }
    }
    write_list("documents.rs", "include_str", files.into_iter().map(|path| (path.clone(), root.join(path))));

    // The public addresses that packages inherit. The page links to them if they are set.
    let manifest = root.join("Cargo.toml");
    println!("cargo::rerun-if-changed={}", manifest.display());
    let manifest = fs::read_to_string(manifest).expect("the workspace's Cargo.toml is UTF-8");
    for name in ["repository", "documentation"] {
        if let Some(address) = address(&manifest, name) {
            println!("cargo::rustc-env=SITE_{}={address}", name.to_uppercase());
        }
    }

    let pictures = fs::read_dir(docs.join("images")).expect("docs/images/ exists").map(|entry| {
        let entry = entry.expect("a file of docs/images/");
        (entry.file_name().into_string().expect("its name is UTF-8"), entry.path())
    });
    write_list("pictures.rs", "include_bytes", pictures);
}

/// Returns an address in `[workspace.package]`.
fn address<'a>(manifest: &'a str, name: &str) -> Option<&'a str> {
    let (_, package) = manifest.split_once("[workspace.package]")?;
    let package = package.split("\n[").next()?;
    let (_, value) =
        package.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim().trim_matches('"')).filter(|value| value.starts_with("https://"))
}

/// Writes a file for `include!`: a list of names, each with the contents of a file.
fn write_list(list: &str, include: &str, files: impl Iterator<Item = (String, PathBuf)>) {
    let mut files: Vec<_> = files.collect();
    files.sort();
    let mut text = String::from("&[\n");
    for (name, file) in files {
        writeln!(text, "    ({name:?}, {include}!({:?})),", file.display().to_string())
            .expect("writing to a string cannot fail");
    }
    text.push_str("]\n");
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join(list), text).expect("OUT_DIR is writable");
}
