//! Code of the application's own that may panic: run so that the panic goes no further.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
};

use crate::log::{cut, limited};

/// Runs a future of the application's own to its end, or until it panics; then it says what the panic said. Making the
/// future may panic too, and so may the drop of what it holds.
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

/// Runs code of the application's own, such as a destructor; `None` when it panics, which is logged and goes no further.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(panic) => {
            limited!(ERROR, message = %cut(said(panic)), "the application panicked outside of its callbacks");
            None
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// What a panic said that nobody needs any more.
fn said(panic: Box<dyn Any + Send>) -> String {
    let message = panic_message(&*panic);
    std::mem::forget(panic); // its destructor could panic again
    message
}
