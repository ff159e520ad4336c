//! Callbacks for messages in JSON.

use std::{fmt, future::Future, marker::PhantomData};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::handlers::{Handlers, MaybeCallback, Outcome, Stateless, WithState};
use crate::{CloseCode, Connection, Message, Result, log::cut};

/// What happens to a message that is not the expected JSON; see [`Handlers::on_json`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum InvalidJson {
    /// The client receives `{"error":"…"}`, with what is wrong in at most a few hundred bytes. A
    /// [request](Handlers::on_json_request) with a valid id receives `{"id":ID,"error":"…"}`.
    #[default]
    Answer,
    /// The connection is closed with 1007.
    Close,
}

/// A callback for messages in JSON, with the types of its future and its message.
pub struct Json<F, Fut, T> {
    callback: F,
    invalid: InvalidJson,
    types: PhantomData<fn() -> (Fut, T)>,
}

/// A callback for requests in JSON, with the types of its future and its request.
pub struct JsonRequest<F, Fut, T>(Json<F, Fut, T>);

impl<F, Fut, T> fmt::Debug for Json<F, Fut, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").field("invalid", &self.invalid).finish_non_exhaustive()
    }
}

impl<F, Fut, T> fmt::Debug for JsonRequest<F, Fut, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JsonRequest").field(&self.0).finish()
    }
}

impl<F, Fut, T> Json<F, Fut, T> {
    fn new(callback: F) -> Self {
        Self { callback, invalid: InvalidJson::default(), types: PhantomData }
    }
}

/// The id of a request. Other numbers could not be repeated as the client wrote them.
#[derive(Deserialize, Serialize)]
#[serde(untagged, expecting = "the id must be a text, or an integer of up to 64 bits")]
enum RequestId {
    Integer(i64),
    Large(u64),
    Text(String),
}

/// A request: its id, and its other fields.
#[derive(Deserialize)]
struct Identified {
    id: RequestId,
    #[serde(flatten)]
    fields: serde_json::Map<String, serde_json::Value>,
}

/// The answer to a request.
#[derive(Serialize)]
struct JsonReply<R> {
    id: RequestId,
    reply: R,
}

/// The answer to a message that is not valid.
#[derive(Serialize)]
struct JsonError {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<RequestId>,
    error: String,
}

impl InvalidJson {
    /// Does what is set with a message that is not valid.
    fn refuse(self, conn: &Connection, id: Option<RequestId>, error: &serde_json::Error) -> Result<()> {
        match self {
            Self::Answer => {
                let error = format!("the message is not valid: {}", cut(error));
                conn.push(Message::json(&JsonError { id, error })?).ignore();
            }
            Self::Close => {
                conn.close(CloseCode::INVALID_DATA, "the message is not the expected JSON").ignore();
            }
        }
        Ok(())
    }
}

impl<O, M, C> Handlers<Stateless, O, M, C> {
    /// Sets `on_message` to a callback for messages in JSON. A message that is not the JSON of `T` is answered
    /// with `{"error":"the message is not valid: …"}`; see [`invalid_json`](Handlers::invalid_json).
    ///
    /// Text and binary messages are both read. The callback returns what any callback may
    /// [return](Outcome).
    ///
    /// ```
    /// use ripplecast::{Connection, ws};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Deserialize)]
    /// #[serde(tag = "type", rename_all = "snake_case")]
    /// enum FromPage { Add { a: i64, b: i64 } }
    ///
    /// #[derive(Serialize)]
    /// struct Sum { sum: i64 }
    ///
    /// let endpoint = ws::handlers().on_json(async |conn: Connection, message: FromPage| {
    ///     let FromPage::Add { a, b } = message;
    ///     conn.push_json(&Sum { sum: a.saturating_add(b) })?.ignore();
    ///     Ok(())
    /// });
    /// # let _ = endpoint;
    /// ```
    pub fn on_json<T, F, Fut>(self, on_json: F) -> Handlers<Stateless, O, Json<F, Fut, T>, C>
    where
        F: Fn(Connection, T) -> Fut,
        Fut: Future<Output: Outcome> + Send,
        T: DeserializeOwned,
    {
        self.with_message(Json::new(on_json))
    }

    /// Sets `on_message` to a callback for requests in JSON, each of which gets a reply. A request is a JSON object
    /// with an `id` (a text, or an integer of up to 64 bits) and the fields of `T`, which does not see the id. The value that the callback returns is sent back as
    /// `{"id":ID,"reply":…}`.
    ///
    /// A request that is not valid is answered with `{"id":ID,"error":"…"}`; see
    /// [`invalid_json`](Handlers::invalid_json). An error of the callback closes the connection, as any callback's
    /// does: put what a client may expect, such as "the name is taken", into the reply.
    ///
    /// Requests of one connection are handled one at a time, in order. The reply is pushed, so it may be dropped if the
    /// endpoint's [`Overflow`](crate::Overflow) policy drops messages.
    ///
    /// ```
    /// use ripplecast::{Connection, Result, ws};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Deserialize)]
    /// struct Order { article: String }
    ///
    /// #[derive(Serialize)]
    /// struct Ordered { number: u32 }
    ///
    /// // {"id":7,"article":"tea"} is answered with {"id":7,"reply":{"number":1}}.
    /// let endpoint = ws::handlers().on_json_request(async |_: Connection, order: Order| {
    ///     Ok(Ordered { number: order.article.len() as u32 })
    /// });
    /// # let _ = endpoint;
    /// ```
    pub fn on_json_request<T, R, F, Fut>(
        self,
        on_request: F,
    ) -> Handlers<Stateless, O, JsonRequest<F, Fut, T>, C>
    where
        F: Fn(Connection, T) -> Fut,
        Fut: Future<Output = Result<R>> + Send,
        T: DeserializeOwned,
        R: Serialize,
    {
        self.with_message(JsonRequest(Json::new(on_request)))
    }
}

impl<S, O, M, C> Handlers<WithState<S>, O, M, C> {
    /// Sets `on_message` to a callback for messages in JSON. A message that is not the JSON of `T` is answered
    /// with `{"error":"the message is not valid: …"}`; see [`invalid_json`](Handlers::invalid_json).
    pub fn on_json<T, F, Fut>(self, on_json: F) -> Handlers<WithState<S>, O, Json<F, Fut, T>, C>
    where
        F: Fn(S, Connection, T) -> Fut,
        Fut: Future<Output: Outcome> + Send,
        T: DeserializeOwned,
    {
        self.with_message(Json::new(on_json))
    }

    /// Sets `on_message` to a callback for requests in JSON, each of which gets a reply: `{"id":ID,…}` is answered
    /// with `{"id":ID,"reply":…}`. It is the same as without a state, where it is
    /// [described](Handlers::on_json_request).
    pub fn on_json_request<T, R, F, Fut>(
        self,
        on_request: F,
    ) -> Handlers<WithState<S>, O, JsonRequest<F, Fut, T>, C>
    where
        F: Fn(S, Connection, T) -> Fut,
        Fut: Future<Output = Result<R>> + Send,
        T: DeserializeOwned,
        R: Serialize,
    {
        self.with_message(JsonRequest(Json::new(on_request)))
    }
}

impl<S, O, F, Fut, T, C> Handlers<S, O, Json<F, Fut, T>, C> {
    /// Sets what happens to a message that is not the expected JSON; default [`InvalidJson::Answer`].
    pub fn invalid_json(mut self, invalid: InvalidJson) -> Self {
        self.message_mut().invalid = invalid;
        self
    }
}

impl<S, O, F, Fut, T, C> Handlers<S, O, JsonRequest<F, Fut, T>, C> {
    /// Sets what happens to a request that is not the expected JSON; default [`InvalidJson::Answer`].
    pub fn invalid_json(mut self, invalid: InvalidJson) -> Self {
        self.message_mut().0.invalid = invalid;
        self
    }
}

/// Implements [`MaybeCallback`] for JSON callbacks, without and with state.
macro_rules! json_callback {
    ($state:ty, [$($generic:ident)?], |$given:ident| $($argument:expr)?; ($($parameter:ty)?)) => {
        impl<$($generic,)? F, Fut, T> MaybeCallback<$state, (Connection, Message)> for Json<F, Fut, T>
        where
            $($generic: Clone + Send + Sync + 'static,)?
            F: Fn($($parameter,)? Connection, T) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: Outcome> + Send + 'static,
            T: DeserializeOwned + 'static,
        {
            fn call(
                &self,
                $given: &$state,
                (conn, message): (Connection, Message),
            ) -> impl Future<Output = Result<()>> + Send {
                let called = match serde_json::from_slice(message.as_bytes()) {
                    Ok(message) => Ok((self.callback)($($argument,)? conn, message)),
                    Err(error) => Err(self.invalid.refuse(&conn, None, &error)),
                };
                async move {
                    match called {
                        Ok(future) => future.await.into_result(),
                        Err(refused) => refused,
                    }
                }
            }
        }

        impl<$($generic,)? F, Fut, T, R> MaybeCallback<$state, (Connection, Message)> for JsonRequest<F, Fut, T>
        where
            $($generic: Clone + Send + Sync + 'static,)?
            F: Fn($($parameter,)? Connection, T) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<R>> + Send + 'static,
            T: DeserializeOwned + 'static,
            R: Serialize,
        {
            fn call(
                &self,
                $given: &$state,
                (conn, message): (Connection, Message),
            ) -> impl Future<Output = Result<()>> + Send {
                let Self(Json { callback, invalid, .. }) = self;
                let called = match serde_json::from_slice(message.as_bytes()) {
                    Err(error) => Err(invalid.refuse(&conn, None, &error)),
                    Ok(Identified { id, fields }) => match serde_json::from_value(fields.into()) {
                        Err(error) => Err(invalid.refuse(&conn, Some(id), &error)),
                        Ok(request) => Ok((id, conn.clone(), callback($($argument,)? conn, request))),
                    },
                };
                async move {
                    let (id, conn, future) = match called {
                        Ok(called) => called,
                        Err(refused) => return refused,
                    };
                    let reply = future.await?;
                    conn.push(Message::json(&JsonReply { id, reply })?).ignore();
                    Ok(())
                }
            }
        }
    };
}

json_callback!(Stateless, [], |_state|; ());
json_callback!(WithState<S>, [S], |state| state.get(); (S));
