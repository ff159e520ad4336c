//! Masking: every byte of a client's payload is XORed with one of four (RFC 6455, section 5.3).

/// Unmasks (or masks) `bytes`, the first of which belongs to the mask's first byte.
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

/// The mask for what follows after `taken` bytes.
#[inline]
pub(super) fn advance(mut mask: [u8; 4], taken: usize) -> [u8; 4] {
    mask.rotate_left(taken % 4);
    mask
}
