//! A chat with rooms, who is there, and who is typing. This is its whole server side; the page shows this file.

use std::{future::ready, sync::Arc};

use ripplecast::{
    App, Close, Connection, ConnectionId, Error, Frame, Request, Result, Room, StoreError, Table, log, ws,
    ws::Handler,
};
use serde::{Deserialize, Serialize};

use super::{Demos, notice, written};
use crate::alias::alias;

/// People in one room, on this node.
const PEOPLE: usize = 50;
/// People in all rooms of all nodes; so there are no more rooms than that.
const EVERYBODY: usize = 2_000;
/// Characters of what is said at once, of a name, and of a room's name.
const TEXT: usize = 500;
const NAME: usize = 24;

/// Somebody in a room: a row of the table, under the id of the connection.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Person {
    room: String,
    name: String,
}

/// What a tab may ask.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    Say(String),
    Typing,
    Who,
}

/// What tabs are told.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Tell<'a> {
    You(ConnectionText),
    People(Vec<Entry>),
    Said { id: ConnectionText, name: &'a str, text: &'a str },
    Typing { id: ConnectionText, name: &'a str },
}

/// The alias of a connection: its id is for operators.
type ConnectionText = String;

/// One of those who are there.
#[derive(Serialize)]
struct Entry {
    id: ConnectionText,
    name: String,
}

/// The chat.
struct Chat {
    demos: Demos,
    /// Who everybody is, on all nodes.
    people: Table<Person>,
}

impl Handler for Chat {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        let Some(person) = conn.state::<Person>() else { return Ok(()) };
        if !self.demos.admit(&conn, &room_name(&person.room), PEOPLE) {
            return Ok(());
        }
        match self.people.set(conn.id(), &person).await {
            Err(Error::Store(StoreError::TableFull { .. })) => {
                self.forget_the_dead().await;
                let _ = self.people.set(conn.id(), &person).await; // or this one stays without a name
            }
            // Without the shared table the chat goes on; this person just has no name in the list.
            Err(error) if !error.is_unavailable() => return Err(error),
            _ => {}
        }
        conn.join(&room_name(&person.room))?;
        conn.push(Frame::json(&Tell::You(alias(conn.id())))?).ignore();
        self.tell_who(&person.room).await
    }

    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        let Some(person) = self.person(&conn) else { return Ok(()) };
        let (id, name) = (alias(conn.id()), person.name.as_str());
        match frame.as_text().map(serde_json::from_str) {
            Some(Ok(Ask::Say(text))) => match written(&text, TEXT) {
                Some(text) if self.demos.may_act(&conn) => {
                    self.room(&person.room)
                        .push(Frame::json(&Tell::Said { id, name, text: &text })?)
                        .ignore();
                }
                Some(_) => {} // the tab has been told why
                None => notice(&conn, &format!("Say something, in at most {TEXT} characters.")),
            },
            Some(Ok(Ask::Typing)) if self.demos.may_move(&conn) => {
                self.room(&person.room).push(Frame::json(&Tell::Typing { id, name })?).ignore();
            }
            Some(Ok(Ask::Who)) if self.demos.may_move(&conn) => {
                conn.push(self.who(&person.room).await?).ignore();
            }
            Some(Ok(_)) => {}
            _ => notice(&conn, "This chat takes {\"say\":…}, \"typing\" and \"who\"."),
        }
        Ok(())
    }

    async fn on_close(&self, conn: Connection, _close: Close) -> Result<()> {
        let Some(person) = self.person(&conn) else { return Ok(()) };
        static STAYS: log::Limit = log::Limit::new();
        if let Err(error) = self.people.delete(conn.id()).await
            && STAYS.admit().is_some()
        {
            tracing::debug!(error = %log::cut(error), "somebody's row stays until it is needed");
        }
        self.tell_who(&person.room).await
    }
}

impl Chat {
    /// Who is at the other end, if they were let in.
    fn person(&self, conn: &Connection) -> Option<Arc<Person>> {
        conn.state::<Person>().filter(|_| self.demos.is_in(conn))
    }

    fn room(&self, name: &str) -> Room {
        self.demos.hub.room(room_name(name))
    }

    /// Tells a room who is there.
    async fn tell_who(&self, room: &str) -> Result<()> {
        self.room(room).push(self.who(room).await?).ignore();
        Ok(())
    }

    /// Who is in a room, on all nodes. The room knows who is there, the table what they are called: so nobody stays on
    /// the list whose node has died.
    async fn who(&self, room: &str) -> Result<Frame> {
        let people = match self.room(room).members().await {
            Ok(ids) => {
                let rows = self.people.get_many(&ids).await.unwrap_or_default();
                let name = |row: Option<Person>| row.map_or_else(|| "somebody".into(), |person| person.name);
                let names = rows.into_iter().map(name).chain(std::iter::repeat("somebody".into()));
                ids.iter().zip(names).map(|(id, name)| Entry { id: alias(id), name }).collect()
            }
            // The other nodes are out of reach: those of this one.
            Err(error) if error.is_unavailable() => self.who_is_here(room),
            Err(error) => return Err(error),
        };
        Frame::json(&Tell::People(people))
    }

    /// Who is in a room, on this node.
    fn who_is_here(&self, room: &str) -> Vec<Entry> {
        let entry = |id: ConnectionId| {
            let person = self.demos.hub.connection(id)?.state::<Person>()?;
            Some(Entry { id: alias(id), name: person.name.clone() })
        };
        self.room(room).members_here().into_iter().filter_map(entry).take(PEOPLE).collect()
    }

    /// Takes rows out whose node has died before it could.
    async fn forget_the_dead(&self) {
        let Ok(alive) = self.demos.hub.nodes().await else { return };
        let mut rows = self.people.iter();
        while let Ok(Some((key, _))) = rows.next().await {
            if key.parse().is_ok_and(|id: ConnectionId| !alive.contains(&id.node())) {
                let _ = self.people.delete(key).await; // the next one tries again
            }
        }
    }
}

/// The hub's name for a room of the chat.
fn room_name(room: &str) -> String {
    format!("demo:chat:{room}")
}

/// Who wants in where: `?room=lobby&name=Ada`. What is missing or wrong gets a default.
fn person(request: &Request) -> Person {
    let Person { room, name } = request.query().unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_room = (1..=NAME).contains(&room.len()) && room.chars().all(plain);
    Person {
        room: if is_room { room } else { "lobby".into() },
        name: written(&name, NAME).unwrap_or_else(|| "guest".into()),
    }
}

/// Puts the chat on the app.
pub(super) fn add(app: App, demos: &Demos) -> Result<App> {
    let people = demos.hub.table::<Person>("demo_chat_people", EVERYBODY)?;
    let chat = Chat { demos: demos.clone(), people };
    let demos = demos.clone();
    let endpoint = ws::endpoint(chat)
        .text_only()
        .max_message(4 * 1024)
        .on_upgrade(move |request| ready(demos.accept(&request, "chat").state(person(&request))));
    Ok(app.ws("/ws/demos/chat", endpoint))
}
