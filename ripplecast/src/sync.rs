//! Locks and atomics of the concurrent core: `parking_lot` and `std` in a build, `loom` in a model.
//!
//! `--cfg ripplecast_loom` swaps them, so that the models run the same types that ship. It also replaces the
//! random hash keys of a build by fixed ones, because a model must run the same way each time.

#[cfg(not(ripplecast_loom))]
pub(crate) use {
    parking_lot::{Mutex, MutexGuard},
    std::{hash::RandomState, sync::atomic},
};

#[cfg(ripplecast_loom)]
pub(crate) use {
    loom::sync::{MutexGuard, atomic},
    model::{Mutex, RandomState},
};

#[cfg(ripplecast_loom)]
mod model {
    use std::hash::{BuildHasher, DefaultHasher};

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

    /// A substitute for `std`'s `RandomState`, with the same keys in every run.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct RandomState;

    impl RandomState {
        pub(crate) fn new() -> Self {
            Self
        }
    }

    impl BuildHasher for RandomState {
        type Hasher = DefaultHasher;

        fn build_hasher(&self) -> DefaultHasher {
            DefaultHasher::new()
        }
    }
}
