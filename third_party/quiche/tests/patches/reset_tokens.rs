//! patches/0034: a stateless reset is known by the token of any connection ID in use (RFC 9000 section 10.3.1).

use quiche::{ConnectionId, RecvInfo};

use crate::pair::{flight, Pair, CLIENT, SERVER};

const OTHER: &str = "127.0.0.1:3000";

/// Of a server, as far as a client can tell: 43 bytes, the token of one of its connection IDs at the end.
fn reset(token: u128) -> Vec<u8> {
    [&[0x55; 27][..], &token.to_be_bytes()].concat()
}

/// A client with the token 1 of the server's first connection ID, and the token 5 of its second.
fn established() -> Pair {
    let mut pair = Pair::established_with(|config| config.set_stateless_reset_token(Some(1)));
    pair.server.new_scid(&ConnectionId::from_ref(&[3; 16]), 5, false).unwrap();
    pair.client.new_scid(&ConnectionId::from_ref(&[4; 16]), 6, false).unwrap();
    pair.settle();
    pair
}

#[test]
fn token_of_the_second_connection_id() {
    let mut pair = established();
    pair.client.migrate(OTHER.parse().unwrap(), SERVER.parse().unwrap()).unwrap();
    pair.client.send_ack_eliciting().unwrap();
    assert!(!flight(&mut pair.client).is_empty());
    let info = RecvInfo { from: SERVER.parse().unwrap(), to: OTHER.parse().unwrap() };
    let _ = pair.client.recv(&mut reset(5), info);
    assert!(pair.client.is_closed());
}

#[test]
fn token_of_one_that_was_not_used() {
    let mut pair = established();
    let info = RecvInfo { from: SERVER.parse().unwrap(), to: CLIENT.parse().unwrap() };
    let _ = pair.client.recv(&mut reset(5), info);
    assert!(!pair.client.is_closed());
    let _ = pair.client.recv(&mut reset(1), info);
    assert!(pair.client.is_closed());
}
