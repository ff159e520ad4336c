//! `ripplecast bench`: a bare server to measure, a generator of load for this and any other server, and a soak test.

pub(crate) mod load;
pub(crate) mod serve;
pub(crate) mod soak;
