//! The notes: a table that pushes each of its changes to all open pages. This is the part to replace by your own.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Form, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use ripplecast::{Connection, Counter, Error, Hub, LiveTable, Result, StoreError, ws};
use serde::{Deserialize, Serialize};

use crate::saved::Saved;

/// Notes at the most. They all go to a page that opens.
const MAX_NOTES: usize = 500;
/// Longest text of a note, in bytes.
const MAX_TEXT: usize = 500;

/// One note. Its fields are the columns of the table, and what the page gets as JSON.
#[derive(Clone, Serialize, Deserialize)]
pub struct Note {
    /// What it says.
    pub text: String,
    /// How many have liked it.
    pub likes: u32,
}

/// What the form sends.
#[derive(Deserialize)]
pub struct NewNote {
    /// What the note shall say.
    text: String,
}

/// All notes. Clones are the same board.
#[derive(Clone)]
pub struct Board {
    /// The notes by their ids; pushes each change as `{"key":…,"row":{…},"version":…}`.
    notes: LiveTable<Note>,
    /// The last id that was given away.
    ids: Counter,
    /// Where they outlive the program.
    saved: Arc<Saved>,
}

impl Board {
    /// The board as it was saved.
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

    /// The WebSocket of a page: every note first, a word that these were all, and then each change.
    pub fn live(&self) -> impl ws::IntoEndpoint + use<> {
        let handlers = ws::handlers().with_state(self.notes.clone()).on_open(
            async |notes: LiveTable<Note>, conn: Connection| {
                notes.join(&conn).await?;
                conn.push(r#"{"complete":true}"#).ignore();
                Ok::<(), Error>(())
            },
        );
        ws::endpoint(handlers).max_message(64) // a page has nothing to say here
    }

    /// What changes the board.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/notes", post(add))
            .route("/notes/{id}", axum::routing::delete(remove))
            .route("/notes/{id}/like", post(like))
            .with_state(self.clone())
    }

    /// Saves what has been changed, before the answer says that it is done.
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
        let why = format!("A note has 1 to {MAX_TEXT} bytes.");
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, why).into_response());
    }
    whole(async move {
        let id = board.ids.increment().await?;
        match board.notes.set(id, &Note { text, likes: 0 }).await {
            Ok(()) => board.changed().await,
            Err(Error::Store(StoreError::TableFull { .. })) => {
                let why = "The board is full; remove a note first.";
                Ok((StatusCode::CONFLICT, why).into_response())
            }
            Err(error) => Err(error),
        }
    })
    .await
}

/// One like more, but only of a note that is still there: `increment` would make one that isn't.
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
            } // else somebody has changed it meanwhile: look again
        }
        Ok(StatusCode::NOT_FOUND.into_response())
    })
    .await
}

async fn remove(State(board): State<Board>, Path(id): Path<i64>) -> Result<Response> {
    whole(async move {
        board.notes.delete(id).await?; // a note that is gone already is no error
        board.changed().await
    })
    .await
}

/// Runs a change to its end. The server drops a handler whose client disconnects, but not a task: what was changed is
/// saved as well.
async fn whole(
    change: impl Future<Output = Result<Response>> + Send + 'static,
) -> Result<Response> {
    tokio::spawn(change).await.map_err(Error::other)?
}
