//! Stands in for `deflate.rs` without the feature `deflate`: nothing is compressed, and no extension is negotiated.

use bytes::Bytes;

use super::ProtocolError;

/// The compressed form of a payload, of which there is none.
#[derive(Debug, Default)]
pub(crate) struct Deflated;

impl Deflated {
    pub(crate) fn of(&self, _payload: &[u8]) -> Option<Bytes> {
        None
    }
}

pub(crate) fn take_compressed() -> u64 {
    0
}

pub(crate) fn compress(_payload: &[u8]) -> Option<Vec<u8>> {
    None
}

pub(crate) fn inflate(_compressed: &[u8], _max_message: usize) -> Result<Vec<u8>, ProtocolError> {
    Err(ProtocolError::NOT_DEFLATE)
}
