//! A chat with rooms, presence and typing indicators. This is the whole server side, as shown on the page.

use std::{future::ready, sync::Arc};

use ripplecast::{
    App, Close, Connection, ConnectionId, Error, Message, Request, Result, Room, Table,
    error::StateError,
    log,
    ws::{self, Handler},
};
use serde::{Deserialize, Serialize};

use crate::{
    alias::alias,
    shared::{Demos, notice, written},
};

/// The most people in one room on this node.
const PEOPLE: usize = 50;
/// The most people in all rooms on all nodes, which also bounds the number of rooms.
const EVERYBODY: usize = 2_000;
/// The most characters in a message, in a name, and in a room's name.
const TEXT: usize = 500;
const NAME: usize = 24;

/// A person in a room: a row of the table, keyed by the connection's id.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Person {
    room: String,
    name: String,
}

/// A request from a tab.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    Say(String),
    Typing,
    Who,
}

/// A message to tabs.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Tell<'a> {
    You(ConnectionText),
    People(Vec<Entry>),
    Said { id: ConnectionText, name: &'a str, text: &'a str },
    Typing { id: ConnectionText, name: &'a str },
}

/// The alias of a connection. Its id is for operators only.
type ConnectionText = String;

/// A member in the list of people.
#[derive(Serialize)]
struct Entry {
    id: ConnectionText,
    name: String,
}

struct Chat {
    demos: Demos,
    /// The people on all nodes.
    people: Table<Person>,
}

impl Handler for Chat {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        let Some(person) = conn.state::<Person>() else { return Ok(()) };
        if !self.demos.admit(&conn, &room_name(&person.room), PEOPLE) {
            return Ok(());
        }
        match self.people.set(conn.id(), &person).await {
            Err(Error::State(StateError::TableFull { .. })) => {
                self.forget_the_dead().await;
                let _ = self.people.set(conn.id(), &person).await; // if this fails too, the person has no name
            }
            // Without the shared table, the chat continues, but this person has no name in the list.
            Err(error) if !error.is_unavailable() => return Err(error),
            _ => {}
        }
        conn.join(&room_name(&person.room))?;
        conn.push(Message::json(&Tell::You(alias(conn.id())))?).ignore();
        self.tell_who(&person.room).await
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        let Some(person) = self.person(&conn) else { return Ok(()) };
        let (id, name) = (alias(conn.id()), person.name.as_str());
        match message.as_text().map(serde_json::from_str) {
            Some(Ok(Ask::Say(text))) => match written(&text, TEXT) {
                Some(text) if self.demos.may_act(&conn) => {
                    self.room(&person.room)
                        .push(Message::json(&Tell::Said { id, name, text: &text })?)
                        .ignore();
                }
                Some(_) => {} // the tab has been notified
                None => notice(&conn, &format!("Send a message of at most {TEXT} characters.")),
            },
            Some(Ok(Ask::Typing)) if self.demos.may_move(&conn) => {
                self.room(&person.room).push(Message::json(&Tell::Typing { id, name })?).ignore();
            }
            Some(Ok(Ask::Who)) if self.demos.may_move(&conn) => {
                conn.push(self.who(&person.room).await?).ignore();
            }
            Some(Ok(_)) => {}
            _ => notice(&conn, "Expected {\"say\":…}, \"typing\" or \"who\"."),
        }
        Ok(())
    }

    async fn on_close(&self, conn: Connection, _close: Close) -> Result<()> {
        let Some(person) = self.person(&conn) else { return Ok(()) };
        static STAYS: log::Limit = log::Limit::new();
        if let Err(error) = self.people.delete(conn.id()).await
            && STAYS.admit().is_some()
        {
            tracing::debug!(error = %log::cut(error), "failed to delete a row; it stays until the table is full");
        }
        self.tell_who(&person.room).await
    }
}

impl Chat {
    /// Returns the person behind a connection, if it was admitted.
    fn person(&self, conn: &Connection) -> Option<Arc<Person>> {
        conn.state::<Person>().filter(|_| self.demos.is_in(conn))
    }

    fn room(&self, name: &str) -> Room {
        self.demos.hub.room(room_name(name))
    }

    /// Sends the list of members to a room.
    async fn tell_who(&self, room: &str) -> Result<()> {
        self.room(room).push(self.who(room).await?).ignore();
        Ok(())
    }

    /// Returns the members of a room on all nodes. The room knows who is connected, the table their names, so people
    /// on a dead node do not stay on the list.
    async fn who(&self, room: &str) -> Result<Message> {
        let people = match self.room(room).members().await {
            Ok(ids) => {
                let rows = self.people.get_many(&ids).await.unwrap_or_default();
                let name = |row: Option<Person>| row.map_or_else(|| "somebody".into(), |person| person.name);
                let names = rows.into_iter().map(name).chain(std::iter::repeat("somebody".into()));
                ids.iter().zip(names).map(|(id, name)| Entry { id: alias(id), name }).collect()
            }
            // Other nodes are unreachable: list the members on this node.
            Err(error) if error.is_unavailable() => self.who_is_here(room),
            Err(error) => return Err(error),
        };
        Message::json(&Tell::People(people))
    }

    /// Returns the members of a room on this node.
    fn who_is_here(&self, room: &str) -> Vec<Entry> {
        let entry = |id: ConnectionId| {
            let person = self.demos.hub.connection(id)?.state::<Person>()?;
            Some(Entry { id: alias(id), name: person.name.clone() })
        };
        self.room(room).members_here().into_iter().filter_map(entry).take(PEOPLE).collect()
    }

    /// Deletes the rows of nodes that died before they could delete them.
    async fn forget_the_dead(&self) {
        let Ok(alive) = self.demos.hub.nodes().await else { return };
        let mut rows = self.people.iter();
        while let Ok(Some((key, _))) = rows.next().await {
            if key.parse().is_ok_and(|id: ConnectionId| !alive.contains(&id.node())) {
                let _ = self.people.delete(key).await; // the next attempt may succeed
            }
        }
    }
}

/// Returns the hub's name of a chat room.
fn room_name(room: &str) -> String {
    format!("demo:chat:{room}")
}

/// Reads the room and the name: `?room=lobby&name=Ada`. Missing or invalid values get a default.
fn person(request: &Request) -> Person {
    let Person { room, name } = request.query().unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_room = (1..=NAME).contains(&room.len()) && room.chars().all(plain);
    Person {
        room: if is_room { room } else { "lobby".into() },
        name: written(&name, NAME).unwrap_or_else(|| "guest".into()),
    }
}

/// Adds the chat to the app.
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
