//! The notes: a table that pushes every change to all open pages. Replace this part with your own.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Form, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use ripplecast::{Connection, Counter, Error, Hub, LiveTable, Result, error::StateError, ws};
use serde::{Deserialize, Serialize};

use crate::saved::Saved;

/// The most notes. A page that opens receives all of them.
const MAX_NOTES: usize = 500;
/// The longest text of a note, in bytes.
const MAX_TEXT: usize = 500;

/// One note. Its fields are the columns of the table, and the JSON that pages receive.
#[derive(Clone, Serialize, Deserialize)]
pub struct Note {
    /// The text of the note.
    pub text: String,
    /// The number of likes.
    pub likes: u32,
}

/// The submitted form.
#[derive(Deserialize)]
pub struct NewNote {
    /// The text of the new note.
    text: String,
}

/// All notes. Clones share the same board.
#[derive(Clone)]
pub struct Board {
    /// The notes by id. Each change is pushed as `{"table":"notes","key":…,"row":{…},"version":…}`.
    notes: LiveTable<Note>,
    /// The last id assigned.
    ids: Counter,
    /// The file in which the notes are saved.
    saved: Arc<Saved>,
}

impl Board {
    /// Loads the saved board.
    pub async fn open(hub: &Hub, file: PathBuf) -> Result<Self> {
        let table = hub
            .table_builder::<Note>("notes", MAX_NOTES)
            .column("text", MAX_TEXT)
            .build()?;
        let (ids, saved) = (hub.counter("note ids"), Arc::new(Saved::at(file)));
        let notes = saved.load().await?;
        let last = notes.keys().max().copied().unwrap_or(0);
        ids.set(last).await?;
        for (id, note) in &notes {
            table.set(id, note).await?;
        }
        let notes = table.publish_to(&hub.room("board"));
        Ok(Self { notes, ids, saved })
    }

    /// The WebSocket of a page: sends every note, and then each change.
    pub fn live(&self) -> impl ws::IntoEndpoint + use<> {
        let handlers = ws::handlers()
            .with_state(self.notes.clone())
            .on_open(async |notes: LiveTable<Note>, conn: Connection| notes.join(&conn).await);
        ws::endpoint(handlers).max_message(64) // pages send nothing here
    }

    /// The routes that change the board.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/notes", post(add))
            .route("/notes/{id}", axum::routing::delete(remove))
            .route("/notes/{id}/like", post(like))
            .with_state(self.clone())
    }

    /// Saves the changes before the response is sent.
    async fn changed(&self) -> Result<Response> {
        self.saved.save(&self.notes).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}

async fn add(
    State(board): State<Board>,
    Form(NewNote { text }): Form<NewNote>,
) -> Result<Response> {
    let text = text.trim().to_owned();
    if text.is_empty() || text.len() > MAX_TEXT {
        let why = format!("A note must have 1 to {MAX_TEXT} bytes.");
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, why).into_response());
    }
    whole(async move {
        let id = board.ids.increment().await?;
        match board.notes.set(id, &Note { text, likes: 0 }).await {
            Ok(()) => board.changed().await,
            Err(Error::State(StateError::TableFull { .. })) => {
                let why = "The board is full; remove a note first.";
                Ok((StatusCode::CONFLICT, why).into_response())
            }
            Err(error) => Err(error),
        }
    })
    .await
}

/// Adds a like, but only to a note that still exists: `increment` would create a missing one.
async fn like(State(board): State<Board>, Path(id): Path<i64>) -> Result<Response> {
    whole(async move {
        while let Some(note) = board.notes.get(id).await? {
            let liked = Note {
                likes: note.likes.saturating_add(1),
                ..note.clone()
            };
            if board
                .notes
                .compare_and_set(id, Some(&note), Some(&liked))
                .await?
            {
                return board.changed().await;
            } // otherwise it was changed concurrently: try again
        }
        Ok(StatusCode::NOT_FOUND.into_response())
    })
    .await
}

async fn remove(State(board): State<Board>, Path(id): Path<i64>) -> Result<Response> {
    whole(async move {
        board.notes.delete(id).await?; // a note that is already deleted is not an error
        board.changed().await
    })
    .await
}

/// Runs a change to completion. The server drops a handler when its client disconnects, but not a task, so every
/// change is also saved.
async fn whole(
    change: impl Future<Output = Result<Response>> + Send + 'static,
) -> Result<Response> {
    tokio::spawn(change).await.map_err(Error::other)?
}
