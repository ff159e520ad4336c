//! Finds and reads the repository's files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// Directories with build products or downloads.
const NOT_OURS: [&str; 3] = ["target", "node_modules", ".git"];

/// Returns the files below a directory that `wanted` selects, sorted.
pub(crate) fn find(directory: &Path, wanted: fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    add(directory, wanted, &mut found)?;
    found.sort();
    Ok(found)
}

fn add(directory: &Path, wanted: fn(&Path) -> bool, found: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = |error| format!("failed to read {}: {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path();
        let kind = entry.file_type().map_err(unreadable)?;
        if kind.is_dir() && !NOT_OURS.iter().any(|name| entry.file_name() == *name) {
            add(&path, wanted, found)?;
        } else if kind.is_file() && wanted(&path) {
            found.push(path);
        }
    }
    Ok(())
}

/// Returns whether a file is Markdown.
pub(crate) fn is_markdown(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// Reads a text file.
pub(crate) fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|error| format!("failed to read {}: {error}", file.display()))
}

/// A directory of files that is removed when the test ends.
#[cfg(test)]
pub(crate) struct Temporary(pub(crate) crate::Workspace);

#[cfg(test)]
impl Temporary {
    /// Creates it. Each test uses another name.
    pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("ripplecast-xtask-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(crate::Workspace { root })
    }
}

#[cfg(test)]
impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.root);
    }
}
