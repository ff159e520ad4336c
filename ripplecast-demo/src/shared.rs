//! Shared by the lesson and the demos: admission, rate limits and notices.

use std::sync::Arc;

use axum::{
    extract::{Request as HttpRequest, State},
    http::request::Parts,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use ripplecast::{Accept, CloseCode, Connection, Hub, Message, Request, Result};
use serde::Serialize;

use crate::{
    limit::{Limiter, Limits, TooMuch},
    seen::Seen,
    visitor::Visitor,
    watched::Watched,
};

/// Decides whether the sender of a request is an operator, who may see what `/metrics` shows.
pub type Operators = Arc<dyn Fn(&Hub, &Parts) -> bool + Send + Sync>;

/// State shared by all demos; cheap to clone.
#[derive(Clone)]
pub struct Demos {
    /// The hub that the demos use.
    pub hub: Hub,
    /// Limits what one address may do.
    limits: Limits,
    /// The counter's connections, for the pages that watch them.
    pub(crate) watched: Watched,
    operators: Operators,
}

/// Connection state: the connection has been admitted.
struct Admitted;

impl Demos {
    /// Creates the demos of a hub. `limit_loopback` applies their limits to loopback too.
    pub fn new(hub: Hub, limit_loopback: bool, operators: Operators) -> Self {
        Self { hub, limits: Limits::new(limit_loopback), watched: Watched::default(), operators }
    }

    /// Returns whether the sender of a request is an operator.
    pub fn is_operator(&self, parts: &Parts) -> bool {
        (self.operators)(&self.hub, parts)
    }

    /// Accepts a connection, and records its visitor and its endpoint.
    pub fn accept(&self, request: &Request, what: &'static str) -> Accept {
        Accept::new().state(Visitor::of(&self.hub, request.parts())).state(Seen::now(what))
    }

    /// Takes one action from the allowance of the request's sender.
    ///
    /// # Errors
    /// Returns the response to send if the allowance is used up.
    pub(crate) fn allow(&self, parts: &Parts) -> Result<(), TooMuch> {
        self.limits.actions.take(Visitor::of(&self.hub, parts))
    }

    /// Returns whether a connection may enter a room of at most `most` members. If not, notifies and closes it.
    pub fn admit(&self, conn: &Connection, room: &str, most: usize) -> bool {
        let refusal = match check(&self.limits.actions, conn) {
            Err(too_much) => too_much.to_string(),
            Ok(()) if self.hub.room(room).len_here() >= most => {
                format!("This room is full ({most} people). Try again later, or choose another room.")
            }
            // Fails if the connection has closed in the meantime.
            Ok(()) => return conn.set_state(Admitted).is_ok(),
        };
        notice(conn, &refusal);
        conn.close(CloseCode::TRY_AGAIN, "try again later").ignore();
        false
    }

    /// Returns whether a connection was admitted. A rejected connection leaves no state behind, and is announced to no
    /// one.
    pub(crate) fn is_in(&self, conn: &Connection) -> bool {
        conn.state::<Admitted>().is_some()
    }

    /// Takes one action from a connection's allowance. If there is none left, notifies the connection and returns
    /// false.
    pub fn may_act(&self, conn: &Connection) -> bool {
        check(&self.limits.actions, conn).map_err(|too_much| notice(conn, &too_much.to_string())).is_ok()
    }

    /// Takes one move from a connection's allowance, and returns whether there was one.
    pub(crate) fn may_move(&self, conn: &Connection) -> bool {
        check(&self.limits.moves, conn).is_ok()
    }
}

fn check(limiter: &Limiter, conn: &Connection) -> Result<(), TooMuch> {
    // An unknown visitor counts as a stranger.
    limiter.take(
        conn.state::<Visitor>()
            .map_or(Visitor { addr: None, network: None, is_loopback: false }, |visitor| *visitor),
    )
}

/// Layer for routes that perform a person's actions: limits each address, before the body is read.
pub async fn limit_actions(State(demos): State<Demos>, request: HttpRequest, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match demos.allow(&parts) {
        Ok(()) => next.run(HttpRequest::from_parts(parts, body)).await,
        Err(too_much) => too_much.into_response(),
    }
}

/// Layer for small requests: limits each address to the rate of mouse moves.
pub(crate) async fn limit(State(demos): State<Demos>, request: HttpRequest, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match demos.limits.moves.take(Visitor::of(&demos.hub, &parts)) {
        Ok(()) => next.run(HttpRequest::from_parts(parts, body)).await,
        Err(too_much) => too_much.into_response(),
    }
}

/// Sends a notice to one connection.
pub(crate) fn notice(conn: &Connection, text: &str) {
    #[derive(Serialize)]
    struct Notice<'a> {
        notice: &'a str,
    }
    if let Ok(message) = Message::json(&Notice { notice: text }) {
        conn.push(message).ignore();
    }
}

/// Returns a person's input, trimmed and without invisible characters. Control characters become spaces. Returns `None`
/// if nothing is left, or more than `most` characters.
pub(crate) fn written(text: &str, most: usize) -> Option<String> {
    let seen = text.chars().filter(|&c| !is_invisible(c));
    let text: String = seen.map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.trim();
    (!text.is_empty() && text.chars().count() <= most).then(|| text.to_owned())
}

/// Returns whether a character is invisible but changes how others are displayed, or makes two names look alike:
/// direction marks, zero-width characters, fillers and tags. Emoji joined by such characters split into their parts.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_text_is_trimmed_and_bounded() {
        assert_eq!(written("  hi\n\u{7}there ", 20).as_deref(), Some("hi  there"));
        assert_eq!(written("Ad\u{202e}a\u{200b}\u{2066}\u{feff}", 3).as_deref(), Some("Ada"));
        assert_eq!(written("\u{200b}\u{202e}\u{2069}\u{200d}", 20), None, "nothing visible");
        assert_eq!(
            written("👍🏽 مرحبا שלום", 20).as_deref(),
            Some("👍🏽 مرحبا שלום"),
            "letters of both directions are kept"
        );
        assert_eq!(written("ééé", 3).as_deref(), Some("ééé"));
        assert_eq!(written("éééé", 3), None);
        assert_eq!(written(" \t\n", 3), None);
    }
}
