//! Locks and atomics of the concurrent core: `parking_lot` and `std` in a build, `loom` in a model.
//!
//! `--cfg ripplecast_loom` swaps them, so that the models run the very types that ship.

#[cfg(not(ripplecast_loom))]
pub(crate) use {
    parking_lot::{Mutex, MutexGuard},
    std::sync::atomic,
};

#[cfg(ripplecast_loom)]
pub(crate) use {
    loom::sync::{MutexGuard, atomic},
    model::Mutex,
};

#[cfg(ripplecast_loom)]
mod model {
    use super::MutexGuard;

    /// loom's mutex with `parking_lot`'s signature.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a model does not poison its locks")
        }
    }
}
