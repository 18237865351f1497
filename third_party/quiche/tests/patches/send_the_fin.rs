//! patches/0001: a FIN written reaches the peer, whatever is acknowledged or lost before it
//! (RFC 9000 section 3.1: "Data Recvd" is reached when all data *and* the FIN are acknowledged).

use std::thread::sleep;

use quiche::{Error, Shutdown};

use crate::pair::{deliver, flight, Pair};

/// Stream 0 with the client's request read to its end by the server, which has answered nothing yet.
fn request_received() -> Pair {
    let mut pair = Pair::established();
    pair.client.stream_send(0, b"request", true).unwrap();
    pair.to_server();
    assert_eq!(pair.server.stream_recv(0, &mut [0; 100]), Ok((7, true)));
    pair.settle();
    pair
}

/// The client reads all, the end included; then the server has nothing left of the stream.
fn assert_finished(mut pair: Pair, expected: &[u8]) {
    pair.settle();
    let mut body = [0; 100];
    let (len, fin) = pair.client.stream_recv(0, &mut body).expect("the client waits for the FIN for ever");
    assert_eq!((&body[..len], fin), (expected, true));
    pair.settle();
    assert_eq!(pair.server.stream_capacity(0), Err(Error::InvalidStreamState(0)), "the stream leaks");
}

#[test]
fn data_acknowledged_before_the_fin_leaves() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"data", false).unwrap();
    pair.to_client();
    pair.server.stream_send(0, b"", true).unwrap();
    pair.to_server(); // the acknowledgement of the data
    assert_finished(pair, b"data");
}

#[test]
fn data_acknowledged_before_the_fin_is_written() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"data", false).unwrap();
    pair.settle();
    pair.server.stream_send(0, b"", true).unwrap();
    assert_finished(pair, b"data");
}

#[test]
fn fin_without_data() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"", true).unwrap();
    assert_finished(pair, b"");
}

#[test]
fn fin_lost_with_data_before_it() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"lost", false).unwrap();
    flight(&mut pair.server);
    pair.server.stream_send(0, b"here", false).unwrap();
    pair.to_client();
    pair.server.stream_send(0, b"", true).unwrap();
    flight(&mut pair.server);
    declare_lost(&mut pair);
    assert_finished(pair, b"losthere");
}

#[test]
fn fin_lost_alone() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"data", false).unwrap();
    pair.settle();
    pair.server.stream_send(0, b"", true).unwrap();
    flight(&mut pair.server);
    declare_lost(&mut pair);
    assert_finished(pair, b"data");
}

#[test]
fn fin_lost_where_an_older_packet_brought_its_data() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"data", false).unwrap();
    let late = flight(&mut pair.server);
    pair.server.stream_send(0, b"", true).unwrap();
    flight(&mut pair.server);
    // The probe timeout (RFC 9002 section 6.2) repeats the data, now with the FIN, and counts nothing as lost.
    sleep(pair.server.timeout().unwrap());
    pair.server.on_timeout();
    flight(&mut pair.server);
    deliver(late, &mut pair.client);
    pair.to_server();
    declare_lost(&mut pair);
    assert_finished(pair, b"data");
}

#[test]
fn fin_acknowledged_before_its_data() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"data", false).unwrap();
    flight(&mut pair.server);
    pair.server.stream_send(0, b"", true).unwrap();
    pair.settle();
    declare_lost(&mut pair);
    assert_finished(pair, b"data");
}

#[test]
fn reset_counts_as_acknowledged() {
    let mut pair = request_received();
    pair.server.stream_send(0, b"data", false).unwrap();
    pair.to_client();
    pair.server.stream_shutdown(0, Shutdown::Write, 42).unwrap();
    pair.settle();
    assert_eq!(pair.client.stream_recv(0, &mut [0; 100]), Err(Error::StreamReset(42)));
    assert_eq!(pair.server.stream_capacity(0), Err(Error::InvalidStreamState(0)), "the stream leaks");
}

/// Has more packets acknowledged than the reordering threshold allows for: what was sent before and did not
/// arrive is lost now (RFC 9002 section 6.1.1).
fn declare_lost(pair: &mut Pair) {
    for _ in 0..3 {
        pair.server.send_ack_eliciting().unwrap();
        pair.to_client();
    }
    pair.to_server();
}
