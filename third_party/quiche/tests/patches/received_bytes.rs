//! patches/0035: how much of a stream was read, and how much has arrived.

use quiche::{Error, Shutdown};

use crate::pair::Pair;
use crate::raw::RawClient;

const UNI: u64 = 2;

#[test]
fn data_that_waits_to_be_read() {
    let mut pair = Pair::established();
    assert_eq!(pair.server.stream_offsets(UNI), None);
    pair.client.stream_send(UNI, b"12345", false).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_offsets(UNI), Some((0, 5)));
    pair.client.stream_send(UNI, b"67", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_offsets(UNI), Some((0, 7)));
    assert_eq!(pair.server.stream_recv(UNI, &mut [0; 6]), Ok((6, false)));
    assert_eq!(pair.server.stream_offsets(UNI), Some((6, 7)));
    assert_eq!(pair.server.stream_recv(UNI, &mut [0; 6]), Ok((1, true)));
    assert_eq!(pair.server.stream_offsets(UNI), None);
}

#[test]
fn data_behind_a_gap() {
    let mut client = RawClient::established();
    client.send(b"\x0e\x00\x0a\x02xy").unwrap(); // STREAM 0, offset 10, length 2
    assert_eq!(client.server.stream_offsets(0), Some((0, 12)));
    assert_eq!(client.server.stream_recv(0, &mut [0; 9]), Err(Error::Done));
}

/// A reset says how much was sent, of which less may have come.
#[test]
fn streams_that_are_reset() {
    let mut client = RawClient::established();
    client.send(b"\x0a\x00\x02xy\x04\x00\x07\x20").unwrap(); // and RESET_STREAM with 7, 32 bytes
    assert_eq!(client.server.stream_offsets(0), Some((32, 32)));
    assert_eq!(client.server.stream_recv(0, &mut [0; 9]), Err(Error::StreamReset(7)));
}

/// What is reliable is read first; only then the rest is passed over.
#[test]
fn streams_that_are_reset_at() {
    let mut pair = Pair::established();
    pair.client.stream_send(UNI, b"header, body", false).unwrap();
    pair.settle();
    pair.client.stream_reset_at(UNI, 7, 6).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_offsets(UNI), Some((0, 12)));
    assert_eq!(pair.server.stream_recv(UNI, &mut [0; 5]), Ok((5, false)));
    assert_eq!(pair.server.stream_offsets(UNI), Some((5, 12)));
    assert_eq!(pair.server.stream_recv(UNI, &mut [0; 5]), Ok((1, false)));
    assert_eq!(pair.server.stream_offsets(UNI), Some((12, 12)));
}

#[test]
fn streams_that_were_stopped() {
    let mut pair = Pair::established();
    pair.client.stream_send(0, b"12345", false).unwrap();
    pair.settle();
    pair.server.stream_shutdown(0, Shutdown::Read, 1).unwrap();
    assert_eq!(pair.server.stream_offsets(0), Some((5, 5)));
}
