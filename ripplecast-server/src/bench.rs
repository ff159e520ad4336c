//! `ripplecast bench`: a bare server to measure, and a generator of load for this and any other server.

pub(crate) mod load;
pub(crate) mod serve;
