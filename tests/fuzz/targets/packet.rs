//! A packet: a verdict for any bytes, and the same one each time.
#![no_main]

use std::cell::RefCell;

use gateway_ebpf::{
    layout::{self, Seen, Settings},
    verdict::classify,
};
#[path = "../../../gateway-ebpf/tests/table/sockets.rs"]
#[allow(dead_code, reason = "the tables' tests use more")]
mod sockets;
#[path = "../../../gateway-ebpf/tests/table/world.rs"]
#[allow(dead_code, reason = "the tables' tests use more")]
mod world;

fn settings() -> Settings {
    Settings {
        mode: layout::MODE_ON,
        flags: layout::DROP_MALFORMED | layout::HAS_ALLOW4 | layout::HAS_ALLOW6,
        cell_mask: 15,
        source_mask_v4: u32::MAX,
        source_mask_v6: u64::MAX,
        ..Settings::default()
    }
}

thread_local! {
    /// Two that are told the same, since what has been counted of a source may change its next verdict. Made once: their
    /// classes alone are megabytes.
    static HOSTS: RefCell<[world::Host; 2]> = RefCell::new([(); 2].map(|()| world::Host::new(&settings())));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let settings = settings();
    let judge = |host: &mut world::Host| {
        let before = host.drops();
        let mut seen = Seen::default();
        let reason = classify(&bytes, &settings, host, &world::Standing(world::NOW_NS), &mut seen);
        (reason, seen, host.drops() - before)
    };
    let [one, other] = HOSTS.with_borrow_mut(|hosts| hosts.each_mut().map(judge));
    assert_eq!(one, other);
    let (_, _, drops) = one;
    assert!(drops <= layout::WHOLE_DROPS_PER_CHARGE, "one packet counts once, or for those that were not counted yet");
    if bytes.len() < 14 {
        assert_eq!(drops, 0);
    }
});
