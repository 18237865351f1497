//! patches/0010: a reserved bit that is not 0 is a PROTOCOL_VIOLATION (RFC 9000 sections 17.2 and 17.3.1).

use quiche::Error;

use crate::raw::RawClient;

const PING: &[u8] = b"\x01";

fn assert_refused(mut client: RawClient, bits: u8) {
    client.send(PING).unwrap();
    assert!(client.server.local_error().is_none());
    assert_eq!(client.send_with_bits(bits, PING), Err(Error::InvalidPacket), "{bits:#x}");
    let error = client.server.local_error().unwrap();
    assert_eq!((error.is_app, error.error_code), (false, 0xa));
}

#[test]
fn long_header() {
    for bits in [0x04, 0x08, 0x0c] {
        assert_refused(RawClient::before_the_handshake(), bits);
    }
}

#[test]
fn short_header() {
    for bits in [0x08, 0x10, 0x18] {
        assert_refused(RawClient::established(), bits);
    }
}

/// What nobody has authenticated says nothing.
#[test]
fn packet_that_was_tampered_with() {
    let mut client = RawClient::established();
    for bits in [0x08, 0x10] {
        client.send_tampered(bits, PING).unwrap();
        assert!(client.server.local_error().is_none());
    }
    client.send(PING).unwrap();
}
