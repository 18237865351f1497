//! patches/0036: ECN (RFC 9000 section 13.4, RFC 9002 section 7.1).

use quiche::{accept, connect, CongestionControlAlgorithm, Config, Connection, ConnectionId, EcnState, RecvInfo};

use crate::pair::{config, deliver, flight, Pair, CLIENT, SERVER};

const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

fn pair(change: impl Fn(&mut Config)) -> Pair {
    let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
    let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&[2; 16]));
    let (mut ours, mut theirs) = (config(), config());
    for config in [&mut ours, &mut theirs] {
        config.enable_ecn(true);
        change(config);
    }
    Pair {
        client: connect(Some("quic.tech"), &cid, client, server, &mut ours).unwrap(),
        server: accept(&scid, None, server, client, &mut theirs).unwrap(),
    }
}

/// An established pair, over a network that shows these marks to client and server.
fn established(at_client: u8, at_server: u8) -> Pair {
    let mut pair = pair(|_| ());
    pair.client.set_received_ecn(at_client);
    pair.server.set_received_ecn(at_server);
    pair.settle();
    assert!(pair.client.is_established() && pair.server.is_established());
    pair
}

fn cwnd(conn: &Connection) -> usize {
    conn.path_stats().next().unwrap().cwnd
}

#[test]
fn marks_that_arrive() {
    let mut pair = established(ECT0, ECT0);
    for stream in 0..50 {
        pair.client.stream_send(4 * stream, &[7; 5000], true).unwrap();
        pair.settle();
    }
    assert_eq!(pair.client.ecn_state(), EcnState::Marking);
    assert_eq!(pair.server.ecn_state(), EcnState::Marking);
    assert_eq!(pair.client.ecn_ce_count(), 0);
}

/// RFC 9000 13.4.2.1: the network clears the marks, or the peer tells nothing of them. Each direction by itself.
#[test]
fn marks_that_are_cleared() {
    let pair = established(ECT0, NOT_ECT);
    assert_eq!(pair.client.ecn_state(), EcnState::Failed);
    assert_eq!(pair.server.ecn_state(), EcnState::Marking);
}

/// Some of them only, later on.
#[test]
fn marks_that_are_lost_on_the_way() {
    let mut pair = established(ECT0, ECT0);
    pair.client.stream_send(0, &[7; 5000], true).unwrap();
    let mut packets = flight(&mut pair.client);
    assert!(packets.len() > 2);
    deliver(packets.split_off(1), &mut pair.server);
    pair.server.set_received_ecn(NOT_ECT);
    deliver(packets, &mut pair.server);
    pair.settle();
    assert_eq!(pair.client.ecn_state(), EcnState::Failed);
}

#[test]
fn marks_that_are_changed() {
    assert_eq!(established(ECT0, ECT1).client.ecn_state(), EcnState::Failed);
}

/// RFC 9002 7.1: a mark of congestion is a loss to the congestion control, once in a round trip.
#[test]
fn congestion() {
    let mut pair = established(ECT0, ECT0);
    pair.client.stream_send(0, &[7; 8000], true).unwrap();
    let before = cwnd(&pair.client);
    pair.server.set_received_ecn(CE);
    for packet in flight(&mut pair.client) {
        deliver(vec![packet], &mut pair.server);
        pair.to_client();
    }
    assert!(pair.client.ecn_ce_count() > 4);
    assert!(cwnd(&pair.client) < before && cwnd(&pair.client) > before / 2, "{} of {before}", cwnd(&pair.client));
    assert_eq!(pair.client.ecn_state(), EcnState::Marking);
    assert_eq!(pair.client.path_stats().next().unwrap().lost, 0);
    pair.server.set_received_ecn(ECT0);
    pair.settle();
    let reduced = cwnd(&pair.client);
    pair.client.stream_send(4, &[7; 8000], true).unwrap();
    pair.server.set_received_ecn(CE);
    pair.settle();
    assert!(cwnd(&pair.client) < reduced, "not in the next round trip");
}

/// A mark is no guess: what was reduced stays so, whatever arrives late (compare RFC 9438 section 4.9).
#[test]
fn congestion_that_was_marked_is_not_undone() {
    let mut pair = established(ECT0, ECT0);
    let before = cwnd(&pair.client);
    pair.client.stream_send(0, &[7; 9000], true).unwrap();
    let mut packets = flight(&mut pair.client);
    let (late, last) = (packets.remove(0), packets.pop().unwrap());
    deliver(packets, &mut pair.server);
    pair.to_client();
    assert!(cwnd(&pair.client) < before, "the first packet was taken for lost");
    for (packet, mark) in [(last, CE), (late, ECT0)] {
        pair.server.set_received_ecn(mark);
        deliver(vec![packet], &mut pair.server);
        pair.to_client();
    }
    assert_eq!(pair.client.ecn_ce_count(), 1);
    assert!(cwnd(&pair.client) < before, "{} of {before}", cwnd(&pair.client));
}

/// RFC 9000 13.4.2.1: an ACK that was overtaken tells less than is known already, which says nothing.
#[test]
fn late_acknowledgement() {
    let mut pair = established(ECT0, ECT0);
    let mut acks = Vec::new();
    for stream in 0..3 {
        pair.client.stream_send(4 * stream, b"x", true).unwrap();
        pair.to_server();
        acks.push(flight(&mut pair.server));
    }
    while let Some(late) = acks.pop() {
        deliver(late, &mut pair.client);
    }
    pair.settle();
    assert_eq!(pair.client.ecn_state(), EcnState::Marking);
}

/// The next probe timeouts of a connection that has something under way, and what it sends then is lost.
fn time_out(conn: &mut Connection, times: usize) {
    for _ in 0..times {
        assert_eq!(conn.ecn_state(), EcnState::Marking);
        assert!(!flight(conn).is_empty());
        std::thread::sleep(conn.timeout().unwrap());
        conn.on_timeout();
    }
}

/// Where nothing that is marked gets through: without marks from the third probe timeout on.
#[test]
fn marks_that_are_dropped() {
    let mut pair = pair(|config| config.set_initial_rtt(std::time::Duration::from_millis(1)));
    time_out(&mut pair.client, 3);
    assert_eq!(pair.client.ecn_state(), EcnState::Failed);
    pair.settle();
    assert!(pair.client.is_established());
}

/// A path that has carried marks may fall silent for other reasons.
#[test]
fn silence_after_marks_that_arrived() {
    let mut pair = established(ECT0, ECT0);
    pair.server.stream_send(1, b"x", false).unwrap();
    time_out(&mut pair.server, 5);
    assert_eq!(pair.server.ecn_state(), EcnState::Marking);
}

/// RFC 9000 13.4.2: each path by itself. What the old one has carried says nothing of the new one.
#[test]
fn marks_that_are_dropped_on_a_new_path() {
    let mut pair = established(ECT0, ECT0);
    pair.client.new_scid(&ConnectionId::from_ref(&[3; 16]), 3, false).unwrap();
    pair.settle();
    pair.server.stream_send(1, b"on the old path", false).unwrap();
    pair.to_client();
    let moved = RecvInfo { from: "127.0.0.1:3000".parse().unwrap(), to: SERVER.parse().unwrap() };
    for mut packet in flight(&mut pair.client) {
        pair.server.recv(&mut packet, moved).unwrap(); // acknowledges that
    }
    pair.server.stream_send(1, b"on the new path", false).unwrap();
    let mut timeouts = 0; // the first ones are of the old path, and of its validation
    while pair.server.ecn_state() == EcnState::Marking && timeouts < 10 {
        time_out(&mut pair.server, 1);
        timeouts += 1;
    }
    assert_eq!(pair.server.ecn_state(), EcnState::Failed);
}

/// It would not heed the marks of congestion.
#[test]
fn not_with_bbr2() {
    let pair = pair(|config| config.set_cc_algorithm(CongestionControlAlgorithm::Bbr2Gcongestion));
    assert_eq!(pair.client.ecn_state(), EcnState::Off);
}

/// Whoever marks nothing tells what he gets all the same, and only what was decrypted.
#[test]
fn counts_are_told_by_those_that_do_not_mark() {
    let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
    let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&[2; 16]));
    let mut marking = config();
    marking.enable_ecn(true);
    let mut pair = Pair {
        client: connect(Some("quic.tech"), &cid, client, server, &mut marking).unwrap(),
        server: accept(&scid, None, server, client, &mut config()).unwrap(),
    };
    pair.server.set_received_ecn(ECT0);
    pair.settle();
    let info = RecvInfo { from: client, to: server };
    for _ in 0..10 {
        let _ = pair.server.recv(&mut [0x55; 60], info);
    }
    pair.client.stream_send(0, b"x", true).unwrap();
    pair.settle();
    assert_eq!(pair.client.ecn_state(), EcnState::Marking);
    assert_eq!(pair.server.ecn_state(), EcnState::Off);
}
