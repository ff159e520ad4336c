//! Persistence: one JSON file, rewritten after each change. For more than a few hundred notes, or for several servers,
//! use a database here.

use std::{collections::BTreeMap, io, path::PathBuf};

use ripplecast::{Error, Result, Table};
use tokio::{fs, sync::Mutex};

use crate::board::Note;

/// The file. The lock admits one writer at a time.
pub struct Saved(Mutex<PathBuf>);

impl Saved {
    /// Uses a file that may not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self(Mutex::new(path))
    }

    /// Loads the saved notes, by id.
    pub async fn load(&self) -> Result<BTreeMap<i64, Note>> {
        let path = self.0.lock().await;
        match fs::read(&*path).await {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| broken(&path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(broken(&path, &error)),
        }
    }

    /// Saves all notes. Writes a new file first, so that a crash leaves the old file intact.
    pub async fn save(&self, table: &Table<Note>) -> Result<()> {
        let path = self.0.lock().await;
        let mut notes = BTreeMap::new();
        let mut rows = table.iter();
        while let Some((id, note)) = rows.next().await? {
            notes.insert(id.parse::<i64>().map_err(Error::other)?, note);
        }
        let json = serde_json::to_vec_pretty(&notes)?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).await?;
        }
        let new = path.with_extension("new");
        fs::write(&new, json).await?;
        Ok(fs::rename(&new, &*path).await?)
    }
}

/// Returns an error that names the file and the reason.
fn broken(path: &std::path::Path, why: &dyn std::fmt::Display) -> Error {
    let path = path.display();
    Error::other(format!(
        "{path} can't be read: {why}. Repair the file, or move it away to start over"
    ))
}
