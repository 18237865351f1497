//! patches/0042: what a client closes the connection with.

use quiche::h3::{Config, Connection, Error, Header};

use crate::pair::Pair;

const STREAM_CREATION_ERROR: u64 = 0x103;
const ID_ERROR: u64 = 0x108;
const CONTROL: u64 = 3;

/// A server that writes these bytes on a stream, and the code that the client closes the connection with.
fn code(config: &Config, stream_id: u64, bytes: &[u8]) -> Option<u64> {
    let mut pair = Pair::established();
    let mut client = Connection::with_transport(&mut pair.client, config).unwrap();
    pair.server.stream_send(CONTROL, b"\x00\x04\x00", false).unwrap();
    pair.server.stream_send(stream_id, bytes, false).unwrap();
    pair.settle();
    while !matches!(client.poll(&mut pair.client), Err(Error::Done)) {}
    let error = pair.client.local_error()?;
    assert!(error.is_app);
    Some(error.error_code)
}

/// RFC 9114 section 5.2
#[test]
fn goaway_with_the_id_of_no_request() {
    for id in 1..4 {
        assert_eq!(code(&Config::new().unwrap(), CONTROL, &[7, 1, id]), Some(ID_ERROR));
    }
    assert_eq!(code(&Config::new().unwrap(), CONTROL, &[7, 1, 4]), None);
}

/// RFC 9114 section 7.2.5: no push is allowed without MAX_PUSH_ID.
#[test]
fn push_promise() {
    let mut pair = Pair::established();
    let mut client = Connection::with_transport(&mut pair.client, &Config::new().unwrap()).unwrap();
    let get = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
    let get = get.map(|(name, value)| Header::new(name.as_bytes(), value.as_bytes()));
    pair.settle();
    let stream_id = client.send_request(&mut pair.client, &get, true).unwrap();
    pair.settle();
    pair.server.stream_send(stream_id, b"\x05\x03\x00\x00\x00", false).unwrap();
    pair.settle();
    while !matches!(client.poll(&mut pair.client), Err(Error::Done)) {}
    assert_eq!(pair.client.local_error().unwrap().error_code, ID_ERROR);
}

/// RFC 9114 section 6.1
#[test]
fn bidirectional_stream_of_the_server() {
    for bytes in [&b"\x01\x00"[..], b"\x40", b"\x40\x41\x00"] {
        assert_eq!(code(&Config::new().unwrap(), 1, bytes), Some(STREAM_CREATION_ERROR), "{bytes:?}");
    }
}

/// Where WebTransport claims some of them, the others are refused all the same.
#[test]
fn bidirectional_stream_that_is_not_claimed() {
    let mut config = Config::new().unwrap();
    config.claim_streams(true);
    assert_eq!(code(&config, 1, b"\x01\x00"), Some(STREAM_CREATION_ERROR));
    assert_eq!(code(&config, 1, b"\x40\x41\x00"), None);
}
