//! patches/0033: the server's preferred address (RFC 9000 sections 9.6 and 18.2).

use std::net::SocketAddr;

use quiche::{accept, connect, Connection, ConnectionId, PathEvent, PreferredAddress, RecvInfo};

use crate::pair::{config, Pair, CLIENT, SERVER};

const PREFERRED: &str = "127.0.0.1:3000";
const CID: [u8; 16] = [3; 16];

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn preferred() -> PreferredAddress {
    PreferredAddress {
        v4: Some(PREFERRED.parse().unwrap()),
        v6: None,
        cid: CID.to_vec().into(),
        reset_token: 5,
    }
}

/// A client that knows the preferred address, and a server that has connection IDs for its paths.
fn established() -> Pair {
    let mut pair = Pair::new();
    pair.server.set_preferred_address(preferred()).unwrap();
    pair.settle();
    pair.client.new_scid(&ConnectionId::from_ref(&[4; 16]), 6, false).unwrap();
    pair.settle();
    pair
}

/// Every packet of `from` arrives with the addresses it was sent with. Returns those of the sender, and the packets.
fn carry(from: &mut Connection, to: &mut Connection) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut sent = Vec::new();
    let mut buf = [0; 1500];
    while let Ok((len, info)) = from.send(&mut buf) {
        sent.push((info.from, buf[..len].to_vec()));
        to.recv(&mut buf[..len], RecvInfo { from: info.from, to: info.to }).unwrap();
    }
    sent
}

fn settle(pair: &mut Pair) {
    while !carry(&mut pair.client, &mut pair.server).is_empty()
        || !carry(&mut pair.server, &mut pair.client).is_empty()
    {}
}

fn events(conn: &mut Connection) -> Vec<PathEvent> {
    std::iter::from_fn(|| conn.path_event_next()).collect()
}

#[test]
fn told_when_the_handshake_is_confirmed() {
    let mut pair = Pair::new();
    pair.server.set_preferred_address(preferred()).unwrap();
    pair.to_server();
    pair.to_client();
    assert!(pair.client.is_established() && !pair.client.is_handshake_confirmed());
    assert_eq!(pair.client.preferred_address(), None);
    pair.settle();
    assert!(pair.client.is_handshake_confirmed());
    assert_eq!(pair.client.preferred_address(), Some(&preferred()));
}

#[test]
fn client_goes_there() {
    let mut pair = established();
    pair.client.probe_path(address(CLIENT), address(PREFERRED)).unwrap();
    settle(&mut pair);
    let validated = PathEvent::Validated(address(CLIENT), address(PREFERRED));
    assert!(events(&mut pair.client).contains(&validated));
    pair.client.migrate(address(CLIENT), address(PREFERRED)).unwrap();
    pair.client.stream_send(0, b"here", true).unwrap();
    let sent = carry(&mut pair.client, &mut pair.server);
    assert!(sent.iter().all(|(_, packet)| packet[1..17] == CID), "not with the connection ID that came along");
    assert!(events(&mut pair.server).contains(&PathEvent::PeerMigrated(address(PREFERRED), address(CLIENT))));
    assert_eq!(pair.server.stream_recv(0, &mut [0; 10]), Ok((4, true)));
    pair.server.stream_send(0, b"there", true).unwrap();
    let sent = carry(&mut pair.server, &mut pair.client);
    assert!(!sent.is_empty() && sent.iter().all(|(from, _)| *from == address(PREFERRED)));
    assert_eq!(pair.client.stream_recv(0, &mut [0; 10]), Ok((5, true)));
}

/// RFC 9000 9.6.1: a client that does not wait is answered, but the data go on coming from the original address.
#[test]
fn server_stays_until_the_path_is_validated() {
    let mut pair = established();
    pair.client.migrate(address(CLIENT), address(PREFERRED)).unwrap();
    pair.client.stream_send(0, b"here", true).unwrap();
    carry(&mut pair.client, &mut pair.server);
    pair.server.stream_send(0, &[7; 8000], true).unwrap();
    let (mut buf, mut original) = ([0; 1500], 0);
    while let Ok((len, info)) = pair.server.send(&mut buf) {
        if info.from == address(SERVER) {
            original += len;
        }
        pair.client.recv(&mut buf[..len], RecvInfo { from: info.from, to: info.to }).unwrap();
    }
    assert!(original > 8000, "{original} bytes from the original address");
    settle(&mut pair);
    pair.client.stream_send(4, b"now", true).unwrap();
    settle(&mut pair);
    assert!(events(&mut pair.server).contains(&PathEvent::PeerMigrated(address(PREFERRED), address(CLIENT))));
}

/// RFC 9000 7.4.1: it is of one connection, not of those that are resumed.
#[test]
fn not_remembered() {
    let (client, server) = (address(CLIENT), address(SERVER));
    let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&[2; 16]));
    let (mut ours, mut theirs) = (config(), config());
    let mut pair = |session: Option<&[u8]>| {
        let mut pair = Pair {
            client: connect(Some("quic.tech"), &cid, client, server, &mut ours).unwrap(),
            server: accept(&scid, None, server, client, &mut theirs).unwrap(),
        };
        match session {
            Some(session) => pair.client.set_session(session).unwrap(),
            None => pair.server.set_preferred_address(preferred()).unwrap(),
        }
        pair.settle();
        pair
    };
    let first = pair(None);
    let second = pair(first.client.session());
    assert!(second.client.is_resumed());
    assert_eq!(second.client.preferred_address(), None);
}

#[test]
fn one_without_a_connection_id_is_an_error() {
    let mut pair = Pair::new();
    let without = PreferredAddress { cid: Vec::new().into(), ..preferred() };
    pair.server.set_preferred_address(without).unwrap();
    pair.to_server();
    let mut buf = [0; 1500];
    while let Ok((len, info)) = pair.server.send(&mut buf) {
        let _ = pair.client.recv(&mut buf[..len], RecvInfo { from: info.from, to: info.to });
    }
    assert_eq!(pair.client.local_error().unwrap().error_code, 0x08);
}
