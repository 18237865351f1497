//! patches/0004 and 0009: a client whose address changes is still served, however often, and without delay.

use quiche::{CongestionControlAlgorithm, Connection, ConnectionId, RecvInfo};

use crate::pair::{deliver, flight, Pair, SERVER};

fn issue_connection_ids(conn: &mut Connection, next: &mut u8) {
    while conn.scids_left() > 0 {
        *next += 1;
        conn.new_scid(&ConnectionId::from_ref(&[*next; 16]), u128::from(*next), false).unwrap();
    }
}

/// Carries packets to and fro; the server sees the client at `port`.
fn settle_at(pair: &mut Pair, port: u16) {
    let from = format!("127.0.0.1:{port}").parse().unwrap();
    loop {
        let (up, down) = (flight(&mut pair.client), flight(&mut pair.server));
        if up.is_empty() && down.is_empty() {
            return;
        }
        for mut packet in up {
            let _ = pair.server.recv(&mut packet, RecvInfo { from, to: SERVER.parse().unwrap() });
        }
        deliver(down, &mut pair.client);
    }
}

#[test]
fn twenty_rebindings() {
    let mut pair = Pair::established();
    let mut next = 10;
    for port in 3000..3020 {
        issue_connection_ids(&mut pair.client, &mut next);
        pair.client.stream_send(0, b"x", false).unwrap();
        settle_at(&mut pair, port);
        assert_eq!(pair.server.stream_recv(0, &mut [0; 10]), Ok((1, false)), "at port {port}");
        while pair.server.path_event_next().is_some() {}
        pair.server.stream_send(0, b"y", false).unwrap();
        settle_at(&mut pair, port);
        assert_eq!(pair.client.stream_recv(0, &mut [0; 10]), Ok((1, false)), "at port {port}");
    }
}

#[test]
fn back_and_forth() {
    let mut pair = Pair::established();
    let mut next = 10;
    for round in 0..30 {
        issue_connection_ids(&mut pair.client, &mut next);
        pair.client.stream_send(0, b"x", false).unwrap();
        let port = [3000, 3001, 3002, 3001][round % 4];
        settle_at(&mut pair, port);
        assert_eq!(pair.server.stream_recv(0, &mut [0; 10]), Ok((1, false)), "round {round}");
        while pair.server.path_event_next().is_some() {}
    }
}

fn resent_after_change(algorithm: CongestionControlAlgorithm) {
    let mut pair = Pair::established_with(|config| config.set_cc_algorithm(algorithm));
    let mut next = 10;
    issue_connection_ids(&mut pair.client, &mut next);
    pair.client.stream_send(0, b"x", false).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_send(0, &[7; 8000], true), Ok(8000));
    assert!(flight(&mut pair.server).len() > 5); // lost, with the address that they go to
    pair.client.stream_send(0, b"x", false).unwrap();
    settle_at(&mut pair, 3000);
    assert_eq!(pair.client.stream_recv(0, &mut [0; 10_000]), Ok((8000, true)));
}

#[test]
fn sent_again_at_once_under_cubic() {
    resent_after_change(CongestionControlAlgorithm::CUBIC);
}

#[test]
fn sent_again_at_once_under_bbr2() {
    resent_after_change(CongestionControlAlgorithm::Bbr2Gcongestion);
}

#[test]
fn flood_of_addresses() {
    let mut pair = Pair::established();
    let mut next = 10;
    issue_connection_ids(&mut pair.client, &mut next);
    pair.settle();
    while pair.server.path_event_next().is_some() {}
    for port in 3000..3500 {
        pair.client.stream_send(0, b"x", false).unwrap();
        let from = format!("127.0.0.1:{port}").parse().unwrap();
        for mut packet in flight(&mut pair.client) {
            let _ = pair.server.recv(&mut packet, RecvInfo { from, to: SERVER.parse().unwrap() });
        }
    }
    let mut events = 0;
    while pair.server.path_event_next().is_some() {
        events += 1;
    }
    assert!(events < 20, "{events} events for 500 addresses that never answered");
}
