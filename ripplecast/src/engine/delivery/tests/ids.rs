//! Connection ids.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_id_round_trips(node: u64, shard: u8, slot in 0..crate::limits::SLOTS as u32, generation: u32) {
        let local = Local { shard, slot, generation };
        prop_assert_eq!(Local::unpack(local.pack()), local);
        let id = ConnectionId::new(node, local);
        prop_assert_eq!(id.to_string().parse::<ConnectionId>().unwrap(), id);
        prop_assert_eq!(id.on(node), Some(local));
        prop_assert_eq!(id.on(node.wrapping_add(1)), None);
    }

    #[test]
    fn different_connections_have_different_ids(a: (u8, u32, u32), b: (u8, u32, u32)) {
        let local = |(shard, slot, generation)| Local { shard, slot: slot & 0xff_ffff, generation };
        prop_assert_eq!(local(a) == local(b), local(a).pack() == local(b).pack());
    }

    #[test]
    fn only_canonical_text_parses_as_an_id(text in "[0-9a-fF+ ]{15,17}-[0-9a-fF+]{15,17}") {
        if let Ok(id) = text.parse::<ConnectionId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}

#[test]
fn the_largest_value_of_each_part_of_an_id_fits() {
    let slot = (crate::limits::SLOTS - 1) as u32;
    let largest = Local { shard: u8::MAX, slot, generation: u32::MAX };
    assert_eq!(largest.pack(), u64::MAX);
    assert_eq!(Local::unpack(u64::MAX), largest);
}
