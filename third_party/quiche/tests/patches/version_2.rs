//! patches/0049: QUIC version 2 (RFC 9369), and compatible version negotiation (RFC 9368).

use std::time::Duration;

use quiche::{
    accept, connect, negotiate_version, retry, Config, Connection, ConnectionId, RecvInfo, PROTOCOL_VERSION_V2 as V2,
};

use crate::pair::{deliver, flight, Pair, CLIENT, SERVER};

const V1: u32 = quiche::PROTOCOL_VERSION;
const BOTH: &[u32] = &[V2, V1];

fn config(version: u32, versions: &[u32]) -> Config {
    let mut config = crate::pair::config_of(version);
    if !versions.is_empty() {
        config.set_versions(versions).unwrap();
    }
    config.enable_early_data();
    config
}

/// Before the first packet. The server's own version is what it hears.
fn pair(version: u32, client: &[u32], server: &[u32]) -> Pair {
    let (here, there) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
    let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&[2; 16]));
    Pair {
        client: connect(Some("quic.tech"), &cid, here, there, &mut config(version, client)).unwrap(),
        server: accept(&scid, None, there, here, &mut config(V1, server)).unwrap(),
    }
}

/// Both sides speak this version, and understand each other.
fn assert_speak(pair: &mut Pair, version: u32) {
    pair.settle();
    assert!(pair.client.is_established() && pair.server.is_established());
    assert_eq!((pair.client.version(), pair.server.version()), (version, version));
    pair.client.stream_send(0, b"question", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(0, &mut [0; 20]), Ok((8, true)));
    pair.server.stream_send(0, b"answer", true).unwrap();
    pair.settle();
    assert_eq!(pair.client.stream_recv(0, &mut [0; 20]), Ok((6, true)));
}

fn version_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[1..5].try_into().unwrap())
}

/// RFC 9369 3.2: the bits of the type are others, too.
#[test]
fn begun_in_version_2() {
    let mut pair = pair(V2, &[], &[]);
    let first = flight(&mut pair.client);
    assert_eq!((version_of(&first[0]), first[0][0] & 0xf0), (V2, 0xd0));
    deliver(first, &mut pair.server);
    assert_speak(&mut pair, V2);
}

/// RFC 9369 3.3.2: keys have other labels, those of a key update, too.
#[test]
fn key_update() {
    let mut pair = pair(V2, &[], &[]);
    assert_speak(&mut pair, V2);
    pair.client.initiate_key_update().unwrap();
    pair.client.stream_send(4, b"with new keys", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(4, &mut [0; 20]), Ok((13, true)));
}

/// RFC 9368 2.3: the server chooses, by its own preference, among those that the client has.
#[test]
fn changed_by_the_server() {
    for (begun, client, server, spoken) in [
        (V1, BOTH, BOTH, V2),
        (V2, BOTH, BOTH, V2),
        (V2, BOTH, &[V1, V2][..], V1),
        (V1, &[V1, V2][..], BOTH, V2),
        (V1, BOTH, &[V1, V2][..], V1),
        (V1, BOTH, &[][..], V1),
        (V1, &[][..], BOTH, V1),
        (V1, &[V1][..], BOTH, V1),
        (V2, &[][..], BOTH, V2),
    ] {
        assert_speak(&mut pair(begun, client, server), spoken);
    }
}

/// RFC 9369 4.1: from its first packet on that answers the ClientHello, the server speaks what it has chosen.
#[test]
fn packets_of_a_change() {
    let mut pair = pair(V1, BOTH, BOTH);
    let first = flight(&mut pair.client);
    assert!(first.iter().all(|packet| version_of(packet) == V1));
    deliver(first, &mut pair.server);
    let second = flight(&mut pair.server);
    assert!(!second.is_empty() && second.iter().all(|packet| version_of(packet) == V2));
    deliver(second, &mut pair.client);
    assert!(flight(&mut pair.client).iter().all(|packet| packet[0] & 0x80 == 0 || version_of(packet) == V2));
}

/// A client that has not heard of the change repeats its packets as they were.
#[test]
fn change_that_is_lost() {
    let mut pair = pair(V1, BOTH, BOTH);
    pair.to_server();
    flight(&mut pair.server);
    std::thread::sleep(pair.client.timeout().unwrap() + Duration::from_millis(1));
    pair.client.on_timeout();
    let again = flight(&mut pair.client);
    assert!(!again.is_empty() && again.iter().all(|packet| version_of(packet) == V1));
    deliver(again, &mut pair.server);
    std::thread::sleep(pair.server.timeout().unwrap_or_default() + Duration::from_millis(1));
    pair.server.on_timeout();
    assert_speak(&mut pair, V2);
}

/// Once the handshake is over nobody makes the client read Initial packets again (RFC 9001 4.9.1).
#[test]
fn change_that_comes_too_late() {
    let mut pair = pair(V1, BOTH, &[V1]);
    let first = flight(&mut pair.client);
    deliver(first.clone(), &mut pair.server);
    assert_speak(&mut pair, V1);
    let mut other = self::pair(V1, BOTH, BOTH).server;
    deliver(first, &mut other);
    let before = pair.client.stats().recv;
    flight(&mut other); // the numbers of these packets would be known already
    std::thread::sleep(other.timeout().unwrap());
    other.on_timeout();
    let late = flight(&mut other);
    assert_eq!(version_of(&late[0]), V2);
    deliver(late, &mut pair.client);
    assert_eq!((pair.client.stats().recv, pair.client.version()), (before, V1));
}

/// The client's packet, and the answer to it that tells it to begin anew.
fn answered(client: &mut Connection, answer: impl Fn(&quiche::Header, &mut [u8]) -> usize) {
    let mut first = flight(client).remove(0);
    let header = quiche::Header::from_slice(&mut first, 16).unwrap();
    let mut buf = [0; 1500];
    let len = answer(&header, &mut buf);
    let info = RecvInfo { from: SERVER.parse().unwrap(), to: CLIENT.parse().unwrap() };
    let _ = client.recv(&mut buf[..len], info);
}

/// RFC 9369 3.3.3: a Retry has a key of its own; the keys of what follows come from its connection ID.
#[test]
fn after_a_retry() {
    for (begun, spoken) in [(V1, V2), (V2, V2)] {
        let mut pair = pair(begun, BOTH, BOTH);
        let new = ConnectionId::from_ref(&[2; 16]);
        let odcid = std::cell::Cell::new(None);
        answered(&mut pair.client, |header, buf| {
            odcid.set(Some(header.dcid.to_vec()));
            retry(&header.scid, &header.dcid, &new, b"token", header.version, buf).unwrap()
        });
        let odcid = ConnectionId::from_vec(odcid.take().unwrap());
        let (here, there) = (SERVER.parse().unwrap(), CLIENT.parse().unwrap());
        pair.server = accept(&new, Some(&odcid), here, there, &mut config(V1, BOTH)).unwrap();
        assert_speak(&mut pair, spoken);
    }
}

/// A Version Negotiation packet with only one version in it.
fn only(version: u32) -> impl Fn(&quiche::Header, &mut [u8]) -> usize {
    move |header, buf| {
        let len = negotiate_version(&header.scid, &header.dcid, buf).unwrap();
        buf[len - 4..len].copy_from_slice(&version.to_be_bytes());
        len
    }
}

/// RFC 9368 2.1: a client that has another version goes on with that.
#[test]
fn version_that_the_server_lacks() {
    let mut pair = pair(V2, BOTH, &[V1]);
    answered(&mut pair.client, only(V1));
    assert_speak(&mut pair, V1);
}

/// RFC 9368 4: somebody on the path made the client believe so.
#[test]
fn version_that_the_server_does_not_lack() {
    let mut pair = pair(V2, BOTH, BOTH);
    answered(&mut pair.client, only(V1));
    pair.to_server();
    let info = RecvInfo { from: SERVER.parse().unwrap(), to: CLIENT.parse().unwrap() };
    for mut packet in flight(&mut pair.server) {
        let _ = pair.client.recv(&mut packet, info);
    }
    assert_eq!(pair.client.local_error().map(|e| (e.is_app, e.error_code)), Some((false, 0x11)));
}

/// The session that the client was given.
fn session(pair: &mut Pair) -> Option<Vec<u8>> {
    pair.settle();
    pair.client.session().map(<[u8]>::to_vec)
}

/// RFC 9369 5: a session is of the version that it was given in, and of none where that has changed.
#[test]
fn sessions() {
    for (version, other) in [(V1, V2), (V2, V1)] {
        // A server's tickets are good with its own keys alone.
        let (mut server, cid) = (config(V1, BOTH), ConnectionId::from_ref(&[1; 16]));
        server.set_versions(&[version]).unwrap();
        server.set_ticket_key(&[7; 48]).unwrap();
        let (here, there) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let mut between = |version: u32, session: Option<&[u8]>| {
            let mut client = connect(Some("quic.tech"), &cid, here, there, &mut config(version, &[])).unwrap();
            session.iter().for_each(|session| client.set_session(session).unwrap());
            let scid = ConnectionId::from_ref(&[2; 16]);
            Pair { client, server: accept(&scid, None, there, here, &mut server).unwrap() }
        };
        let mut first = between(version, None);
        let session = session(&mut first).unwrap();
        let mut second = between(version, Some(&session));
        flight(&mut second.client); // early data
        assert!(second.client.is_in_early_data());
        second = between(version, Some(&session));
        second.settle();
        assert!(second.client.is_resumed());
        let mut third = between(other, Some(&session));
        third.settle();
        assert!(third.client.is_established() && !third.client.is_resumed());
    }
    assert!(session(&mut pair(V1, &[], BOTH)).is_some());
    assert!(session(&mut pair(V1, BOTH, BOTH)).is_none());
}

#[test]
fn versions_that_nobody_has() {
    assert_eq!(config(V1, &[]).set_versions(&[V1, 3]), Err(quiche::Error::UnknownVersion));
}
