//! patches/0019, 0028 and 0037: a handshake gets through where packets are lost or changed.

use std::thread::sleep;
use std::time::Duration;

use quiche::{accept, connect, ConnectionId};

use crate::pair::{config, deliver, flight, Pair, CLIENT, SERVER};

fn pair() -> Pair {
    pair_with("cubic")
}

fn pair_with(algorithm: &str) -> Pair {
    let mut config = config();
    config.set_cc_algorithm_name(algorithm).unwrap();
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

/// What a client sends at its first probe timeout, when its Finished and what came with it are lost, and the server.
fn probes_of_a_finished(algorithm: &str) -> (Vec<Vec<u8>>, quiche::Connection) {
    let Pair { mut client, mut server } = pair_with(algorithm);
    deliver(flight(&mut client), &mut server);
    deliver(flight(&mut server), &mut client);
    assert!(client.is_established());
    client.stream_send(0, b"request", true).unwrap();
    assert!(!flight(&mut client).is_empty());
    sleep(client.timeout().unwrap() + Duration::from_millis(1));
    client.on_timeout();
    (flight(&mut client), server)
}

/// RFC 9002 section 6.2.4: the second probe carries the Finished like the first, so that either will do.
#[test]
fn each_probe_carries_the_handshake() {
    for algorithm in ["cubic", "bbr2_gcongestion"] {
        for index in 0..2 {
            let (mut probes, mut server) = probes_of_a_finished(algorithm);
            deliver(vec![probes.swap_remove(index)], &mut server);
            assert!(server.is_established(), "{algorithm}, probe {index}");
        }
    }
}

/// RFC 9002 section 6.2.4: what is in flight in other spaces is probed with it; the request does not wait for its turn.
#[test]
fn spaces_are_probed_together() {
    for algorithm in ["cubic", "bbr2_gcongestion"] {
        let (probes, mut server) = probes_of_a_finished(algorithm);
        deliver(probes, &mut server);
        assert!(server.is_established(), "{algorithm}");
        assert_eq!(server.readable().collect::<Vec<_>>(), [0], "{algorithm}");
    }
}

/// RFC 9002 section 6.2.2: the backoff ends with the Initial keys; the handshake does not begin with slow probes.
#[test]
fn the_backoff_ends_with_the_keys() {
    for algorithm in ["cubic", "bbr2_gcongestion"] {
        let Pair { mut client, mut server } = pair_with(algorithm);
        for _ in 0..4 {
            flight(&mut client);
            sleep(client.timeout().unwrap() + Duration::from_millis(1));
            client.on_timeout();
        }
        deliver(flight(&mut client), &mut server);
        let answer = flight(&mut server);
        // Late enough for a round trip that is no longer than the one assumed.
        deliver(answer, &mut client);
        assert!(client.is_established());
        flight(&mut client);
        // Three round trips as measured, and not sixteen times that, also where a busy machine makes them long.
        let limit = Duration::from_millis(100) + 8 * client.path_stats().next().unwrap().rtt;
        assert!(client.timeout().unwrap() < limit, "{algorithm}: {:?}", client.timeout());
    }
}
