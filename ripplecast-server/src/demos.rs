//! The demos: each one page, one file here, and one script in `site/assets`. The page shows the file.

mod chat;
mod cursors;
mod dashboard;
pub(crate) mod limit;
mod notifications;

use axum::{
    extract::{Request as HttpRequest, State},
    http::request::Parts,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use ripplecast::{Accept, App, CloseCode, Connection, Frame, Hub, Request, Result};
use serde::Serialize;

use crate::{
    inspect::{Gate, Seen},
    learn::life::Watched,
    visitor::Visitor,
};
use limit::{Limiter, Limits, TooMuch};

/// What all demos share; cheap to clone.
#[derive(Clone)]
pub(crate) struct Demos {
    /// Rooms, connections, state.
    pub(crate) hub: Hub,
    /// How much one address may do.
    limits: Limits,
    /// The counter's connections that a page watches.
    pub(crate) watched: Watched,
}

/// Noted with a connection that has been let in.
struct Admitted;

impl Demos {
    /// The demos of a hub; whether their limits hold for loopback too.
    pub(crate) fn new(hub: Hub, limit_loopback: bool) -> Self {
        Self { hub, limits: Limits::new(limit_loopback), watched: Watched::default() }
    }

    /// Accepts a connection, and notes whose it is and of what.
    pub(crate) fn accept(&self, request: &Request, what: &'static str) -> Accept {
        Accept::new().state(Visitor::of(&self.hub, request.parts())).state(Seen::now(what))
    }

    /// Takes one action of what the sender of a plain request has left.
    ///
    /// # Errors
    /// The response to give instead.
    pub(crate) fn allow(&self, parts: &Parts) -> Result<(), TooMuch> {
        self.limits.actions.take(Visitor::of(&self.hub, parts))
    }

    /// Whether a connection may come into a room that holds `most`. If not, it is told why, and closed.
    pub(crate) fn admit(&self, conn: &Connection, room: &str, most: usize) -> bool {
        let refusal = match check(&self.limits.actions, conn) {
            Err(too_much) => too_much.to_string(),
            Ok(()) if self.hub.room(room).len_here() >= most => {
                format!("This room is full: {most} are here. Try again later, or another one.")
            }
            // Whoever has closed meanwhile need not come in.
            Ok(()) => return conn.set_state(Admitted).is_ok(),
        };
        notice(conn, &refusal);
        conn.close(CloseCode::TRY_AGAIN, "try again later").ignore();
        false
    }

    /// Whether a connection has been let in. One that was refused leaves nothing behind, and nobody has to hear of it.
    pub(crate) fn is_in(&self, conn: &Connection) -> bool {
        conn.state::<Admitted>().is_some()
    }

    /// Whether a connection may do one thing more; if not, it is told why.
    pub(crate) fn may_act(&self, conn: &Connection) -> bool {
        check(&self.limits.actions, conn).map_err(|too_much| notice(conn, &too_much.to_string())).is_ok()
    }

    /// Whether a connection may move once more.
    pub(crate) fn may_move(&self, conn: &Connection) -> bool {
        check(&self.limits.moves, conn).is_ok()
    }
}

fn check(limiter: &Limiter, conn: &Connection) -> Result<(), TooMuch> {
    // Whoever is not known is nobody from this machine.
    limiter.take(
        conn.state::<Visitor>()
            .map_or(Visitor { addr: None, network: None, is_loopback: false }, |visitor| *visitor),
    )
}

/// A layer for routes that do what people do: one address may do so much of it, and is refused before the body is read.
pub(crate) async fn limit_actions(State(demos): State<Demos>, request: HttpRequest, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match demos.allow(&parts) {
        Ok(()) => next.run(HttpRequest::from_parts(parts, body)).await,
        Err(too_much) => too_much.into_response(),
    }
}

/// A layer for routes that change or ask little: what one address may do of that in a second is what a mouse may.
pub(crate) async fn limit(State(demos): State<Demos>, request: HttpRequest, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match demos.limits.moves.take(Visitor::of(&demos.hub, &parts)) {
        Ok(()) => next.run(HttpRequest::from_parts(parts, body)).await,
        Err(too_much) => too_much.into_response(),
    }
}

/// Tells one connection something in words.
pub(crate) fn notice(conn: &Connection, text: &str) {
    #[derive(Serialize)]
    struct Notice<'a> {
        notice: &'a str,
    }
    if let Ok(frame) = Frame::json(&Notice { notice: text }) {
        conn.push(frame).ignore();
    }
}

/// Returns what a person wrote, without invisible characters and space around it; `None` when nothing is left, or more than
/// `most` characters. Control characters become spaces.
pub(crate) fn written(text: &str, most: usize) -> Option<String> {
    let seen = text.chars().filter(|&c| !is_invisible(c));
    let text: String = seen.map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.trim();
    (!text.is_empty() && text.chars().count() <= most).then(|| text.to_owned())
}

/// Whether a character shows nothing by itself, but changes how others are shown, or makes two names look alike: marks of
/// direction, zero-width characters, fillers, and tags. Emoji that are joined by such characters fall apart into their parts.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Puts all demos on the app.
pub(crate) fn add(app: App, demos: &Demos, gate: &Gate) -> Result<App> {
    let app = chat::add(app, demos)?;
    let app = cursors::add(app, demos);
    let app = dashboard::add(app, demos, gate);
    notifications::add(app, demos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_trimmed_and_bounded() {
        assert_eq!(written("  hi\n\u{7}there ", 20).as_deref(), Some("hi  there"));
        assert_eq!(written("Ad\u{202e}a\u{200b}\u{2066}\u{feff}", 3).as_deref(), Some("Ada"));
        assert_eq!(written("\u{200b}\u{202e}\u{2069}\u{200d}", 20), None, "nothing to see");
        assert_eq!(
            written("👍🏽 مرحبا שלום", 20).as_deref(),
            Some("👍🏽 مرحبا שלום"),
            "letters of all directions stay"
        );
        assert_eq!(written("ééé", 3).as_deref(), Some("ééé"));
        assert_eq!(written("éééé", 3), None);
        assert_eq!(written(" \t\n", 3), None);
    }
}
