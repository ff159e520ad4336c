//! Metadata of the workspace's packages, from cargo.

use serde_json::Value;

use crate::command::Command;
use crate::{Result, Workspace};

/// Returns the output of `cargo metadata` with these options.
pub(crate) fn read(workspace: &Workspace, options: &str) -> Result<Value> {
    let command = Command::line("cargo metadata --format-version 1 --locked");
    let command = options.split_whitespace().fold(command, Command::arg);
    let said = command.listen(&workspace.root)?;
    serde_json::from_str(&said.output).map_err(|error| {
        format!("cargo metadata did not print valid JSON: {error}\n   $ {command}\n{}", said.text)
    })
}

/// Returns the packages of the workspace that may be published.
pub(crate) fn published(metadata: &Value) -> Vec<&Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    // `publish` is null without a restriction, and an empty list for `publish = false`.
    let may_be_published =
        |package: &&Value| package["publish"].as_array().is_none_or(|registries| !registries.is_empty());
    packages.filter(|package| package["source"].is_null()).filter(may_be_published).collect()
}

/// Returns the package of the workspace with this name.
pub(crate) fn package<'a>(metadata: &'a Value, name: &str) -> Result<&'a Value> {
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .find(|package| package["source"].is_null() && package["name"] == name)
        .ok_or_else(|| format!("the workspace has no package `{name}`"))
}

/// Returns a field of a package, or an empty text.
pub(crate) fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plain_cargo_test_leaves_out_only_other_binaries() {
        let metadata = read(&Workspace::find(), "--no-deps").unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let is_default = |package: &&Value| {
            metadata["workspace_default_members"].as_array().unwrap().contains(&package["id"])
        };
        let (kept, left_out): (Vec<&Value>, Vec<&Value>) = packages.iter().partition(is_default);
        let has_binary = |package: &&&Value| {
            let mut targets = package["targets"].as_array().unwrap().iter();
            targets.any(|target| target["kind"][0] == "bin")
        };
        let server: Vec<&str> = kept.iter().filter(has_binary).map(|package| text(package, "name")).collect();
        assert_eq!(server, ["ripplecast-server"], "`cargo run` needs one binary");
        let skipped: Vec<&str> = left_out
            .iter()
            .filter(|package| !has_binary(package))
            .map(|package| text(package, "name"))
            .collect();
        assert!(skipped.is_empty(), "`cargo test` skips {skipped:?}");
    }

    #[test]
    fn only_our_own_packages_that_may_be_published_are() {
        let metadata = json!({ "packages": [
            { "name": "ours", "source": null, "publish": null },
            { "name": "to_one_registry", "source": null, "publish": ["crates-io"] },
            { "name": "private", "source": null, "publish": [] },
            { "name": "another", "source": "registry+https://a/b", "publish": null },
        ] });
        let names: Vec<&str> = published(&metadata).iter().map(|package| text(package, "name")).collect();
        assert_eq!(names, ["ours", "to_one_registry"]);
        assert!(package(&metadata, "private").is_ok());
        assert!(package(&metadata, "another").unwrap_err().contains("`another`"));
    }
}
