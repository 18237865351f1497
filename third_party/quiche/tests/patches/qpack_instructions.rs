//! patches/0008: QPACK instructions are checked, with a dynamic table of capacity 0 (RFC 9204 section 4).

use quiche::h3::{self, Error};

use crate::h3_server::H3Server;

const ENCODER: u64 = 6;
const DECODER: u64 = 10;
const DECOMPRESSION_FAILED: u64 = 0x200;
const ENCODER_STREAM_ERROR: u64 = 0x201;
const DECODER_STREAM_ERROR: u64 = 0x202;

/// The server, with the client's QPACK streams open.
fn qpack_server(config: &h3::Config) -> H3Server {
    let mut server = H3Server::with_config(config);
    server.receive(ENCODER, b"\x02", false);
    server.receive(DECODER, b"\x03", false);
    assert_eq!(server.events(), Ok(vec![]));
    server
}

/// The instructions at once, and byte by byte.
fn after(stream_id: u64, instructions: &[u8], check: fn(&H3Server)) {
    for size in [instructions.len(), 1] {
        let mut server = qpack_server(&h3::Config::new().unwrap());
        for part in instructions.chunks(size) {
            server.receive(stream_id, part, false);
            if server.events().is_err() {
                break;
            }
        }
        check(&server);
    }
}

#[test]
fn encoder_instructions_that_need_a_table() {
    let instructions: [&[u8]; 5] = [
        b"\x21",         // Set Dynamic Table Capacity, 1
        b"\x20\x3f\x01", // 0, then 32
        b"\xc1\x01a",    // Insert with Name Reference, static
        b"\x41a\x01b",   // Insert with Literal Name
        b"\x00",         // Duplicate
    ];
    for instruction in instructions {
        after(ENCODER, instruction, |server| server.assert_closed(ENCODER_STREAM_ERROR));
    }
}

#[test]
fn decoder_instructions_that_need_an_insert() {
    let instructions: [&[u8]; 5] = [
        b"\x80",             // Section Acknowledgment, stream 0
        b"\xff\x01",         // stream 128
        b"\x00",             // Insert Count Increment, 0
        b"\x01",             // 1
        b"\x7f\x80\x01\x00", // Stream Cancellation, stream 191, then Insert Count Increment
    ];
    for instruction in instructions {
        after(DECODER, instruction, |server| server.assert_closed(DECODER_STREAM_ERROR));
    }
}

#[test]
fn instructions_that_need_nothing() {
    after(ENCODER, b"\x20\x20", |server| server.assert_open());
    after(DECODER, b"\x40\x7f\x00\x7f\x80\x80\x01\x44", |server| server.assert_open());
}

#[test]
fn table_that_was_offered() {
    let mut config = h3::Config::new().unwrap();
    config.set_qpack_max_table_capacity(100);
    let mut server = qpack_server(&config);
    server.receive(ENCODER, b"\x3f\x45\xc1\x01a", false);
    assert_eq!(server.events(), Ok(vec![]));
    server.assert_open();
}

#[test]
fn field_section_that_needs_an_insert() {
    // Required Insert Count 1; a negative Base; a reference to the dynamic table without either.
    for section in [b"\x02\x00\xd1", b"\x00\x80\xd1", b"\x00\x00\x80"] {
        let mut server = qpack_server(&h3::Config::new().unwrap());
        server.receive(0, &[b"\x01\x03", &section[..]].concat(), true);
        assert_eq!(server.events(), Err(Error::QpackDecompressionFailed));
        server.assert_closed(DECOMPRESSION_FAILED);
    }
}
