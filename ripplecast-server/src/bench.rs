//! `ripplecast bench`: a bare server to measure, a generator of load for this and any other server, a soak test, attacks on a
//! server of one's own, and what Redis behind a hub costs.

pub(crate) mod backend;
pub(crate) mod hostile;
pub(crate) mod load;
pub(crate) mod serve;
pub(crate) mod soak;
