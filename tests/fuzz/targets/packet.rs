//! A packet: a verdict for any bytes, and the same one each time.
#![no_main]

use gateway_ebpf::{
    layout::{self, Settings},
    verdict::classify,
};
#[path = "../../../gateway-ebpf/tests/table/world.rs"]
#[allow(dead_code, reason = "the tables' tests use more")]
mod world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let settings = Settings {
        mode: layout::MODE_ON,
        flags: layout::DROP_MALFORMED | layout::HAS_ALLOW4 | layout::HAS_ALLOW6,
        cell_mask: 15,
        source_mask_v4: u32::MAX,
        source_mask_v6: u64::MAX,
        ..Settings::default()
    };
    let judge = |packet: &[u8]| {
        let mut host = world::Host::new(&settings);
        let outcome = classify(&packet, &settings, &mut host, &world::Standing(world::NOW_NS));
        (outcome.reason, outcome.source, outcome.port, host.drops())
    };
    let (reason, source, port, drops) = judge(bytes);
    assert_eq!(judge(bytes), (reason, source, port, drops));
    assert!(drops <= 1, "one packet counts once");
    if bytes.len() < 14 {
        assert_eq!(drops, 0);
    }
});
