//! Masking: each byte of a client's payload is XORed with one of four bytes (RFC 6455, section 5.3).

/// Unmasks (or masks) `bytes`, starting with the mask's first byte.
#[inline]
pub(super) fn apply(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // The compiler turns this loop into vector instructions.
    let (words, rest) = bytes.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

/// Returns the mask for the bytes after the first `taken` ones.
#[inline]
pub(super) fn advance(mut mask: [u8; 4], taken: usize) -> [u8; 4] {
    mask.rotate_left(taken % 4);
    mask
}
