//! patches/0019 and 0028: a handshake gets through where packets are lost or changed.

use std::thread::sleep;
use std::time::Duration;

use quiche::{accept, connect, ConnectionId};

use crate::pair::{config, deliver, flight, Pair, CLIENT, SERVER};

fn pair() -> Pair {
    let mut config = config();
    config.set_initial_rtt(Duration::from_millis(5));
    let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
    let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&[2; 16]));
    Pair {
        client: connect(Some("quic.tech"), &cid, client, server, &mut config).unwrap(),
        server: accept(&scid, None, server, client, &mut config).unwrap(),
    }
}

/// An Initial packet for the client that nobody has sealed.
fn junk() -> Vec<u8> {
    let ids = [&[16][..], &[1; 16], &[16], &[2; 16]].concat();
    [&[0xc3, 0, 0, 0, 1][..], &ids, &[0, 0x40, 40], &[0x55; 40]].concat()
}

/// The server's second datagram arrives behind junk; `before` runs when the first one has.
fn established_behind_junk(before: impl FnOnce(&mut Pair)) -> bool {
    let mut pair = pair();
    pair.to_server();
    let mut answer = flight(&mut pair.server);
    let rest = answer.split_off(1);
    assert!(!rest.is_empty());
    deliver(answer, &mut pair.client);
    before(&mut pair);
    assert!(!pair.client.is_established());
    deliver(rest.into_iter().map(|packet| [junk(), packet].concat()).collect(), &mut pair.client);
    pair.client.is_established()
}

/// RFC 9000 section 12.2: each packet of a datagram is processed by itself.
#[test]
fn behind_a_packet_that_cannot_be_opened() {
    assert!(established_behind_junk(|_| ()));
}

/// The client discards its Initial keys when it first sends a Handshake packet (RFC 9001 section 4.9.1).
#[test]
fn behind_a_packet_whose_keys_are_gone() {
    assert!(established_behind_junk(|pair| {
        assert!(!flight(&mut pair.client).is_empty());
    }));
}

/// RFC 9002 section 6.2.4: a probe timeout sends one packet or two; here it is two from the first on.
#[test]
fn the_first_probe_is_two_packets() {
    for algorithm in ["cubic", "bbr2_gcongestion"] {
        let mut config = config();
        config.set_cc_algorithm_name(algorithm).unwrap();
        config.set_initial_rtt(Duration::from_millis(5));
        let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let cid = ConnectionId::from_ref(&[1; 16]);
        let mut client = connect(Some("quic.tech"), &cid, client, server, &mut config).unwrap();
        assert!(!flight(&mut client).is_empty());
        sleep(client.timeout().unwrap() + Duration::from_millis(1));
        client.on_timeout();
        assert_eq!(flight(&mut client).len(), 2, "{algorithm}");
    }
}
