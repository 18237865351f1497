//! patches/0026: errors of HTTP/3 have the codes that the RFCs give them.

use quiche::h3::Config;

use crate::h3_server::{H3Server, CONTROL};

const ID_ERROR: u64 = 0x108;
const SETTINGS_ERROR: u64 = 0x109;
const DECOMPRESSION_FAILED: u64 = 0x200;

fn assert_code(stream_id: u64, bytes: &[u8], code: u64) {
    let mut server = H3Server::established();
    server.receive(stream_id, bytes, false);
    assert!(server.events().is_err(), "{bytes:?}");
    server.assert_closed(code);
}

/// RFC 9114 section 7.2.3, RFC 9218 section 7.2: of a server without pushes.
#[test]
fn pushes_that_were_never_promised() {
    for push_id in [0, 1, 3] {
        assert_code(CONTROL, &[0x03, 1, push_id], ID_ERROR);
        assert_code(CONTROL, &[0x80, 0x0f, 0x07, 0x01, 1, push_id], ID_ERROR);
    }
}

/// RFC 9218 section 7.2
#[test]
fn priority_of_no_request_stream() {
    for stream_id in [1, 2, 3] {
        assert_code(CONTROL, &[0x80, 0x0f, 0x07, 0x00, 1, stream_id], ID_ERROR);
    }
}

/// RFC 9114 section 7.2.4
#[test]
fn setting_that_comes_twice() {
    let mut server = H3Server::connected(&Config::new().unwrap());
    server.receive(CONTROL, b"\x00\x04\x04\x21\x01\x21\x02", false);
    assert!(server.events().is_err());
    server.assert_closed(SETTINGS_ERROR);
}

/// RFC 9204 section 2.2: in a value, and in a name.
#[test]
fn bad_huffman_code() {
    assert_code(0, b"\x01\x09\x00\x00\x21a\x84\xff\xff\xff\xff", DECOMPRESSION_FAILED);
    assert_code(0, b"\x01\x08\x00\x00\x2c\xff\xff\xff\xff\x00", DECOMPRESSION_FAILED);
}
