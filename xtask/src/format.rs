//! Checks that the code of every workspace in the repository is formatted. The starter, the fuzz targets and some
//! benchmarks are workspaces of their own, which `cargo fmt --all` at the root does not reach.

use std::path::Path;

use crate::command::Command;
use crate::{Result, Workspace, files};

/// Checks all workspaces. Returns a short summary.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let manifests = workspaces(workspace)?;
    for manifest in &manifests {
        // Relative, so that the printed command can be repeated anywhere.
        Command::line("cargo fmt --manifest-path")
            .arg(manifest)
            .arg("--all")
            .arg("--")
            .arg("--check")
            .run(&workspace.root)?;
    }
    Ok(format!("{} workspaces", manifests.len()))
}

/// Returns the manifests of all workspaces, relative to the root.
fn workspaces(workspace: &Workspace) -> Result<Vec<String>> {
    let is_manifest = |path: &Path| path.file_name().is_some_and(|name| name == "Cargo.toml");
    let mut found = Vec::new();
    for manifest in files::find(&workspace.root, is_manifest)? {
        let text = files::read(&manifest)?;
        let contents: serde_json::Value =
            basic_toml::from_str(&text).map_err(|error| format!("{}: {error}", manifest.display()))?;
        if contents.get("workspace").is_some() {
            let path = manifest.strip_prefix(&workspace.root).unwrap_or(&manifest);
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Temporary;

    const ROOT: &str = "[workspace]\nmembers = [\"member\"]\nresolver = \"3\"\n";
    const MEMBER: &str = "[package]\nname = \"member\"\nedition = \"2024\"\n";
    const SEPARATE: &str = "[package]\nname = \"separate\"\nedition = \"2024\"\n[workspace]\n";

    #[test]
    fn every_workspace_is_found() {
        let found = workspaces(&Workspace::find()).unwrap();
        assert_eq!(found[0], "Cargo.toml");
        assert!(found.iter().any(|manifest| manifest == "examples/starter/Cargo.toml"), "{found:?}");
        assert!(found.iter().any(|manifest| manifest == "ripplecast/fuzz/Cargo.toml"), "{found:?}");
        assert!(!found.iter().any(|manifest| manifest == "ripplecast/Cargo.toml"), "{found:?}");
    }

    #[test]
    fn unformatted_code_of_a_separate_workspace_is_an_error() {
        let files = |separate| {
            [
                ("Cargo.toml", ROOT),
                ("member/Cargo.toml", MEMBER),
                ("member/src/lib.rs", "fn a() {}\n"),
                ("deep/below/Cargo.toml", SEPARATE),
                ("deep/below/src/lib.rs", separate),
                ("target/copy/Cargo.toml", SEPARATE),
            ]
        };
        let good = Temporary::new("format-good", &files("fn b() {}\n"));
        assert_eq!(check(&good.0).unwrap(), "2 workspaces");
        let bad = Temporary::new("format-bad", &files("fn  b( ) {}\n"));
        assert!(check(&bad.0).unwrap_err().contains("deep/below/Cargo.toml"));
    }
}
