//! patches/0023: an ID that the peer has retired is not announced again (RFC 9000 section 19.15), and stops nothing.

use std::thread::sleep;

use quiche::ConnectionId;

use crate::pair::flight;
use crate::raw::RawClient;

/// RETIRE_CONNECTION_ID of sequence number 1, PING.
const RETIRE_AND_PING: &[u8] = b"\x19\x01\x01";

fn client_with_two_ids() -> RawClient {
    let mut client = RawClient::established();
    client.server.new_scid(&ConnectionId::from_ref(&[3; 16]), 7, false).unwrap();
    client
}

#[test]
fn retired_before_the_frame_left() {
    let mut client = client_with_two_ids();
    client.send(RETIRE_AND_PING).unwrap();
    assert_eq!(flight(&mut client.server).len(), 1);
}

/// The packet is taken for lost, though it has arrived.
#[test]
fn retired_before_the_frame_is_sent_again() {
    let mut client = client_with_two_ids();
    assert_eq!(flight(&mut client.server).len(), 1);
    client.send(RETIRE_AND_PING).unwrap();
    flight(&mut client.server);
    sleep(client.server.timeout().unwrap());
    client.server.on_timeout();
    assert!(!flight(&mut client.server).is_empty());
    client.send(b"\x01").unwrap();
    assert_eq!(flight(&mut client.server).len(), 1);
}
