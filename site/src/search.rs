//! Search as you type, for the lesson: the API's names, found by what they do.

use askama::Template;
use axum::{
    extract::Query,
    http::{HeaderMap, HeaderValue, header::VARY},
    response::{Html, IntoResponse, Response},
};
use serde::Deserialize;

use crate::address;

/// The longest query, in characters.
const LONGEST: usize = 60;
/// The most results shown.
const SHOWN: usize = 6;

/// A name in the API, and what it does.
type Word = (&'static str, &'static str);

const WORDS: [Word; 31] = [
    ("App", "routes and endpoints; builds an axum router, or runs the server itself"),
    ("App::ws", "puts a WebSocket endpoint on a path"),
    ("App::sse", "puts an event stream on a path"),
    ("Hub", "the handle to everything; clone it into any handler"),
    ("hub.room(name)", "a named set of connections"),
    ("hub.broadcast(message)", "sends a message to every connection"),
    ("hub.user(id)", "one user, on whichever nodes it is connected"),
    ("hub.counter(name)", "a shared number"),
    ("hub.table(name, capacity)", "a bounded number of typed rows"),
    ("hub.bus().publish(topic, payload)", "a message to other parts of the application, at most once"),
    ("hub.bus().subscribe(pattern, handler)", "receives the messages published on a topic"),
    ("hub.nodes()", "all nodes that share the backend"),
    ("hub.stats()", "counts of connections, messages and drops"),
    ("hub.shutdown()", "closes every connection in order"),
    ("room.push(message)", "pushes a message to every member; never waits"),
    ("room.len()", "the number of members, on all nodes"),
    ("room.members()", "the ids of the members, on all nodes"),
    ("conn.push(message)", "sends a message to one connection; never waits"),
    ("conn.join(room)", "makes a connection a member of a room"),
    ("conn.leave(room)", "removes a connection from a room"),
    ("conn.join_confirmed(room)", "joins, and waits until pushes from all nodes arrive"),
    ("conn.identify(user)", "sets the connection's user, on all nodes"),
    ("conn.close(code, reason)", "closes a connection after what is already queued"),
    ("conn.state::<T>()", "the state stored with a connection"),
    ("counter.increment()", "adds one, and returns the new value"),
    ("counter.publish_to(room)", "pushes each change to a room"),
    ("table.set(key, row)", "writes a row"),
    ("table.get(key)", "reads a row"),
    ("Overflow::Disconnect", "disconnects a slow reader, which then reconnects"),
    ("Overflow::DropOldest", "drops the oldest messages for a slow reader"),
    ("Overflow::LatestPerKey", "sends a slow reader only the latest message of each key"),
];

#[derive(Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    q: String,
}

/// Only the results, which htmx inserts into the page.
#[derive(Template)]
#[template(path = "search_results.html")]
struct Results<'a> {
    asked: &'a str,
    found: Vec<Word>,
}

/// The results as a page, for browsers without JavaScript.
#[derive(Template)]
#[template(path = "search.html")]
struct Whole<'a> {
    asked: &'a str,
    results: Results<'a>,
}

/// Returns the names whose entries contain every word of the query.
fn find(asked: &str) -> Vec<Word> {
    let asked = asked.to_lowercase();
    let holds = |(word, does): &Word| {
        let text = format!("{word} {does}").to_lowercase();
        asked.split_whitespace().all(|part| text.contains(part))
    };
    WORDS.into_iter().filter(holds).take(SHOWN).collect()
}

pub(crate) async fn search(headers: HeaderMap, Query(Asked { q }): Query<Asked>) -> Response {
    let asked = q.trim();
    let asked = &asked[..asked.char_indices().nth(LONGEST).map_or(asked.len(), |(at, _)| at)];
    let found = if asked.is_empty() { Vec::new() } else { find(asked) };
    let results = Results { asked, found };
    let html =
        if headers.contains_key("hx-request") { results.render() } else { Whole { asked, results }.render() };
    let html = html.expect("rendering a built-in template cannot fail");
    let mut response = Html(address::relative(&html, "/learn/search")).into_response();
    response.headers_mut().insert(VARY, HeaderValue::from_static("hx-request"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_must_match_and_results_are_bounded() {
        assert_eq!(find("PUSH one").first().map(|(word, _)| *word), Some("conn.push(message)"));
        assert!(find("push nonsense").is_empty());
        assert_eq!(find("a").len(), SHOWN);
    }
}
