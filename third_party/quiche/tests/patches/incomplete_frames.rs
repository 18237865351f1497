//! patches/0043: what frames hold until they are complete, and after.

use quiche::h3;

use crate::h3_server::H3Server;
use crate::memory::held;

const EXCESSIVE_LOAD: u64 = 0x107;
const LIMIT: u64 = 1 << 14;

fn limited() -> H3Server {
    let mut config = h3::Config::new().unwrap();
    config.set_max_field_section_size(LIMIT);
    H3Server::with_config(&config)
}

/// HEADERS of the largest size there may be, cut off before its last byte.
fn nearly_complete() -> Vec<u8> {
    let len = LIMIT as usize * 3 / 2;
    let mut frame = vec![0x01];
    frame.extend((len as u32 | 0x8000_0000).to_be_bytes());
    frame.resize(frame.len() + len - 1, 0);
    frame
}

/// In pieces that the congestion window takes. Whether the connection goes on.
fn receive(server: &mut H3Server, stream_id: u64) -> bool {
    nearly_complete().chunks(8000).all(|part| {
        server.receive(stream_id, part, false);
        server.events().is_ok()
    })
}

#[test]
fn incomplete_frames_of_all_streams() {
    let mut server = limited();
    let before = held();
    let mut streams = (0..100).map(|n| 4 * n);
    while receive(&mut server, streams.next().expect("the connection goes on")) {
        assert!(held() - before < 40 * LIMIT as isize, "{}", held() - before);
    }
    server.assert_closed(EXCESSIVE_LOAD);
}

/// A dozen of the largest are fine; the memory for each grows by doubling.
#[test]
fn incomplete_frames_of_some_streams() {
    let mut server = limited();
    for n in 0..12 {
        assert!(receive(&mut server, 4 * n));
    }
    server.assert_open();
}

/// A field section of 5,000 bytes that decodes: the prefix, one literal field.
#[test]
fn frames_that_are_complete_hold_nothing() {
    let mut server = limited();
    let mut section = b"\x00\x00\x21a\x7f".to_vec();
    section.extend([0xe6, 0x26]); // 127 + 102 + 38 * 128 = 5093
    section.resize(section.len() + 5093, b'v');
    let mut frame = vec![0x01];
    frame.extend((section.len() as u16 | 0x4000).to_be_bytes());
    frame.extend(section);
    server.receive(0, &frame, false);
    assert_eq!(server.events(), Ok(vec![(0, "headers")]));
    let before = held();
    for n in 1..50 {
        server.receive(4 * n, &frame, false);
        assert_eq!(server.events(), Ok(vec![(4 * n, "headers")]));
    }
    assert!(held() - before < 49 * 8_000, "{} bytes a request", (held() - before) / 49);
}
