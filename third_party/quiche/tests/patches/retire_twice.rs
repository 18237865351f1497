//! patches/0021: a RETIRE_CONNECTION_ID frame may come twice (RFC 9000 section 13.3).

use quiche::ConnectionId;

use crate::raw::RawClient;

/// RETIRE_CONNECTION_ID of sequence number 1 (RFC 9000 section 19.16).
const RETIRE: &[u8] = b"\x19\x01";

/// One ID is left, the one that the packets go to: the second frame asks for nothing.
#[test]
fn with_one_id_left() {
    let mut client = RawClient::established();
    client.server.new_scid(&ConnectionId::from_ref(&[3; 16]), 7, false).unwrap();
    client.send(RETIRE).unwrap();
    client.send(RETIRE).unwrap();
    assert!(client.server.local_error().is_none());
    assert_eq!(client.server.retired_scid_next().unwrap(), ConnectionId::from_ref(&[3; 16]));
    assert!(client.server.retired_scid_next().is_none());
}

/// An ID that was never given out is still an error (RFC 9000 section 19.16).
#[test]
fn of_an_unknown_id() {
    let mut client = RawClient::established();
    assert!(client.send(RETIRE).is_err());
    assert_eq!(client.server.local_error().unwrap().error_code, 0xa);
}
