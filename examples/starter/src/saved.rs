//! What outlives the program: one file of JSON, written anew after each change. For more than some hundred notes, or for
//! several servers, use a database here.

use std::{collections::BTreeMap, io, path::PathBuf};

use ripplecast::{Error, Result, Table};
use tokio::{fs, sync::Mutex};

use crate::board::Note;

/// The file; the lock makes one writer of many.
pub struct Saved(Mutex<PathBuf>);

impl Saved {
    /// A file that may not be there yet.
    pub fn at(path: PathBuf) -> Self {
        Self(Mutex::new(path))
    }

    /// What was saved, by id.
    pub async fn load(&self) -> Result<BTreeMap<i64, Note>> {
        let path = self.0.lock().await;
        match fs::read(&*path).await {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| broken(&path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(broken(&path, &error)),
        }
    }

    /// Saves all notes: into a new file first, so that a crash in between leaves the old one whole.
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

/// Says which file can't be used, and why.
fn broken(path: &std::path::Path, why: &dyn std::fmt::Display) -> Error {
    let path = path.display();
    Error::other(format!(
        "{path} can't be read: {why}. Repair it, or move it away to begin anew"
    ))
}
