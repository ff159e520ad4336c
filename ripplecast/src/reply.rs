//! The reply of a backend.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::Result;

/// A backend's reply: either ready or pending.
pub(crate) enum Reply<'a, T> {
    /// The result; taken by the first poll.
    Ready(Option<Result<T>>),
    Pending(Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>),
}

impl<T> Reply<'_, T> {
    /// Creates a reply that is ready.
    pub(crate) fn now<E: Into<crate::Error>>(answer: Result<T, E>) -> Self {
        Self::Ready(Some(answer.map_err(Into::into)))
    }
}

impl<'a, T> Reply<'a, T> {
    /// Creates a reply that is pending until the future completes.
    pub(crate) fn later(answer: impl Future<Output = Result<T>> + Send + 'a) -> Self {
        Self::Pending(Box::pin(answer))
    }
}

impl<'a, T> From<Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>> for Reply<'a, T> {
    fn from(answer: Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>) -> Self {
        Self::Pending(answer)
    }
}

impl<T: Unpin> Future for Reply<'_, T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(answer) => {
                Poll::Ready(answer.take().expect("a reply is not polled after it was ready"))
            }
            Self::Pending(answer) => answer.as_mut().poll(cx),
        }
    }
}
