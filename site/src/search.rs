//! Search as you type, for the lesson's form: the words of the crate, by what they do.

use askama::Template;
use axum::{
    extract::Query,
    http::{HeaderMap, HeaderValue, header::VARY},
    response::{Html, IntoResponse, Response},
};
use serde::Deserialize;

use crate::address;

/// Characters of a search.
const LONGEST: usize = 60;
/// Results that are shown.
const SHOWN: usize = 6;

/// A word of the crate, and what it does.
type Word = (&'static str, &'static str);

/// What can be found.
const WORDS: [Word; 31] = [
    ("App", "routes and endpoints; builds an axum router, or runs the server itself"),
    ("App::ws", "puts a WebSocket endpoint on a path"),
    ("App::sse", "puts an event stream on a path"),
    ("Hub", "the handle to everything, to be cloned into any handler"),
    ("hub.room(name)", "a named set of connections"),
    ("hub.broadcast(frame)", "sends a frame to every connection"),
    ("hub.client(id)", "one identity, on whatever node its connections are"),
    ("hub.counter(name)", "a number that everybody shares"),
    ("hub.table(name, capacity)", "typed rows of bounded number and size"),
    ("hub.publish(channel, payload)", "a message to other parts of the application, at most once"),
    ("hub.subscribe(pattern, handler)", "hears what is published on a channel"),
    ("hub.nodes()", "all nodes that share the backend"),
    ("hub.stats()", "what has been counted: connections, messages, drops"),
    ("hub.shutdown()", "closes every connection in order"),
    ("room.push(frame)", "pushes a frame to every member; never waits"),
    ("room.len()", "the number of members, on all nodes"),
    ("room.members()", "the ids of the members, on all nodes"),
    ("conn.push(frame)", "sends a frame to one connection; never waits"),
    ("conn.join(room)", "makes a connection a member of a room"),
    ("conn.leave(room)", "makes it no member any more"),
    ("conn.join_confirmed(room)", "joins, and waits until the pushes of all nodes arrive"),
    ("conn.identify(client)", "says whose connection it is, on all nodes"),
    ("conn.close(code, reason)", "closes a connection behind what is on its way"),
    ("conn.state::<T>()", "what was kept with a connection"),
    ("counter.increment()", "adds one, and returns the new value"),
    ("counter.publish_to(room)", "pushes each change to a room"),
    ("table.set(key, row)", "writes a row"),
    ("table.get(key)", "reads a row"),
    ("Overflow::Disconnect", "a reader that is too slow is closed, and comes back"),
    ("Overflow::DropOldest", "a reader that is too slow loses the oldest frames"),
    ("Overflow::LatestPerKey", "a reader that is too slow gets the newest of each key"),
];

/// What was asked.
#[derive(Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    q: String,
}

/// The results alone, which htmx puts into the page.
#[derive(Template)]
#[template(path = "search_results.html")]
struct Results<'a> {
    asked: &'a str,
    found: Vec<Word>,
}

/// The results as a page, for a browser without a script.
#[derive(Template)]
#[template(path = "search.html")]
struct Whole<'a> {
    asked: &'a str,
    results: Results<'a>,
}

/// The words that hold each of the asked ones.
fn find(asked: &str) -> Vec<Word> {
    let asked = asked.to_lowercase();
    let holds = |(word, does): &Word| {
        let text = format!("{word} {does}").to_lowercase();
        asked.split_whitespace().all(|part| text.contains(part))
    };
    WORDS.into_iter().filter(holds).take(SHOWN).collect()
}

/// Answers a search.
pub(crate) async fn search(headers: HeaderMap, Query(Asked { q }): Query<Asked>) -> Response {
    let asked = q.trim();
    let asked = &asked[..asked.char_indices().nth(LONGEST).map_or(asked.len(), |(at, _)| at)];
    let found = if asked.is_empty() { Vec::new() } else { find(asked) };
    let results = Results { asked, found };
    let html =
        if headers.contains_key("hx-request") { results.render() } else { Whole { asked, results }.render() };
    let html = html.expect("our templates do not fail");
    let mut response = Html(address::relative(&html, "/learn/search")).into_response();
    response.headers_mut().insert(VARY, HeaderValue::from_static("hx-request"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_must_be_there_and_results_are_bounded() {
        assert_eq!(find("PUSH one").first().map(|(word, _)| *word), Some("conn.push(frame)"));
        assert!(find("push nonsense").is_empty());
        assert_eq!(find("a").len(), SHOWN);
    }
}
