//! patches/0025 and 0045: the peer is told of an error in its first packets, in a packet that it can read (RFC 9000 10.2.3).

use quiche::{accept, connect, ConnectionId};

use crate::pair::{config, deliver, flight, Pair, CLIENT, SERVER};
use crate::raw::RawClient;

const UNKNOWN_FRAME: &[u8] = b"\x20";

fn is_initial(packet: &[u8]) -> bool {
    packet[0] & 0xf0 == 0xc0
}

#[test]
fn error_in_the_first_packet() {
    let mut client = RawClient::before_the_handshake();
    assert!(client.send(&[UNKNOWN_FRAME, &[0; 1000]].concat()).is_err());
    let mut out = [0; 1500];
    let (len, _) = client.server.send(&mut out).unwrap();
    assert!(is_initial(&out[..len]));
    assert!(client.server.is_draining());
}

#[test]
fn junk_gets_no_answer() {
    let mut client = RawClient::before_the_handshake();
    assert!(client.send_tampered(0x01, &[0; 1000]).is_err());
    assert!(client.server.send(&mut [0; 1500]).is_err());
}

/// The server has 1-RTT keys as soon as it has the ClientHello, the client has not.
#[test]
fn client_without_handshake_keys() {
    let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
    let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&[2; 16]));
    let mut pair = Pair {
        client: connect(Some("quic.tech"), &cid, client, server, &mut config()).unwrap(),
        server: accept(&scid, None, server, client, &mut config()).unwrap(),
    };
    deliver(flight(&mut pair.client), &mut pair.server);
    pair.server.close(false, 0x01, b"").unwrap();
    let packets = flight(&mut pair.server);
    assert!(is_initial(&packets[0]));
    deliver(packets, &mut pair.client);
    assert_eq!(pair.client.peer_error().unwrap().error_code, 0x01);
}

/// The client has given its Initial keys up; the server does not know it yet.
#[test]
fn client_without_initial_keys() {
    let mut pair = Pair::new();
    pair.to_server();
    pair.to_client();
    assert!(!flight(&mut pair.client).is_empty()); // its Handshake packets, which are on their way
    pair.server.close(false, 0x01, b"").unwrap();
    let packets = flight(&mut pair.server);
    assert_eq!(packets.len(), 1);
    assert!(is_initial(&packets[0]));
    deliver(packets, &mut pair.client);
    assert_eq!(pair.client.peer_error().unwrap().error_code, 0x01);
}
