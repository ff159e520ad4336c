//! The slot of a key or channel on a Cluster.

/// Number of slots of a Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Returns the slot of a key: that of its hash tag, if it has one.
pub(super) fn of(key: &[u8]) -> u16 {
    crc16(tag(key)) % SLOTS
}

/// Returns what is between the first opening brace and the next closing one; the whole key if that is empty
/// or missing.
fn tag(key: &[u8]) -> &[u8] {
    let find = |part: &[u8], wanted| part.iter().position(|&byte| byte == wanted);
    let Some(open) = find(key, b'{') else { return key };
    let rest = &key[open + 1..];
    match find(rest, b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// Computes CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        let at = (crc >> 8) as u8 ^ byte;
        (crc << 8) ^ TABLE[usize::from(at)]
    })
}

/// The CRC of each single byte.
const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_match_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(of(b"foo"), 12_182);
        assert_eq!(of(b"a:{foo}:b"), of(b"foo"));
        assert_eq!(of(b"{foo"), crc16(b"{foo") % SLOTS);
        assert_eq!(of(b"{}foo"), crc16(b"{}foo") % SLOTS, "an empty tag is not a tag");
        assert_eq!(of(b"{{foo}}"), crc16(b"{foo") % SLOTS);
    }
}
