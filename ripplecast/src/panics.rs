//! Runs application code that may panic and contains the panic.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
};

use crate::log::{cut, limited};

/// Runs an application future to completion, or returns the message of its panic. Creating the future and
/// dropping what it holds may panic, too.
pub(crate) async fn caught<F>(make: impl FnOnce() -> Pin<Box<F>>) -> Result<F::Output, String>
where
    F: Future + ?Sized,
{
    let (mut make, mut call) = (Some(make), None);
    let outcome = poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let call = call.get_or_insert_with(|| make.take().expect("a future is made once")());
            call.as_mut().poll(cx)
        }));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(said(panic))),
        }
    })
    .await;
    match catch_unwind(AssertUnwindSafe(move || drop(call))) {
        Ok(()) => outcome,
        Err(panic) => Err(said(panic)),
    }
}

/// Runs application code such as a destructor. A panic is logged and contained; the result is then `None`.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(panic) => {
            limited!(ERROR, message = %cut(said(panic)), "the application panicked outside of its callbacks");
            None
        }
    }
}

/// Returns the message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// Consumes a panic that is no longer needed and returns its message.
fn said(panic: Box<dyn Any + Send>) -> String {
    let message = panic_message(&*panic);
    std::mem::forget(panic); // its destructor could panic again
    message
}
