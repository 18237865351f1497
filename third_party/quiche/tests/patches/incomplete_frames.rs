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
    frame.extend((len as u16 | 0x4000).to_be_bytes());
    frame.resize(frame.len() + len - 1, 0);
    frame
}

#[test]
fn incomplete_frames_of_all_streams() {
    let mut server = limited();
    let frame = nearly_complete();
    let before = held();
    for n in 0..100 {
        if server.pair.client.stream_send(4 * n, &frame, false).is_err() {
            break;
        }
        server.pair.settle();
        let told = server.events().is_ok();
        assert!(held() - before < 40 * LIMIT as isize + 200_000, "{n}: {}", held() - before);
        if !told {
            break;
        }
    }
    server.assert_closed(EXCESSIVE_LOAD);
}

/// Sixteen of the largest are fine.
#[test]
fn incomplete_frames_of_some_streams() {
    let mut server = limited();
    for n in 0..16 {
        server.receive(4 * n, &nearly_complete(), false);
        assert_eq!(server.events(), Ok(vec![]));
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
    assert!(held() - before < 49 * 6_500, "{} bytes a request", (held() - before) / 49);
}
