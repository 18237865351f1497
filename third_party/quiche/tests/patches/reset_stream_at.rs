//! patches/0012: RESET_STREAM_AT (draft-ietf-quic-reliable-stream-reset).

use std::thread::sleep;

use quiche::{Error, Shutdown};

use crate::pair::{deliver, flight, Pair};
use crate::raw::RawClient;

const UNI: u64 = 2;
const NOT_ANNOUNCED: fn(&mut quiche::Config) = |config| config.enable_reset_stream_at(false);

fn read(server: &mut quiche::Connection, stream_id: u64) -> Result<(Vec<u8>, bool), Error> {
    let mut data = vec![0; 5000];
    let (len, fin) = server.stream_recv(stream_id, &mut data)?;
    data.truncate(len);
    Ok((data, fin))
}

/// The stream has `expected` and was reset with 7; then neither side has anything left of it.
fn assert_reset(pair: &mut Pair, stream_id: u64, expected: &[u8]) {
    if !expected.is_empty() {
        assert_eq!(read(&mut pair.server, stream_id), Ok((expected.to_vec(), false)));
    }
    assert!(pair.server.readable().any(|id| id == stream_id), "the reset is not told");
    assert_eq!(read(&mut pair.server, stream_id), Err(Error::StreamReset(7)));
    assert_eq!(pair.server.readable().count(), 0);
    pair.settle();
    assert_eq!(read(&mut pair.server, stream_id), Err(Error::InvalidStreamState(stream_id)));
    assert_eq!(pair.client.stream_capacity(stream_id), Err(Error::InvalidStreamState(stream_id)));
}

/// What the client has sent is lost; it finds out.
fn lose(pair: &mut Pair) {
    assert!(!flight(&mut pair.client).is_empty());
    sleep(pair.client.timeout().unwrap());
    pair.client.on_timeout();
    pair.settle();
}

#[test]
fn both_sides_have_to_announce_it() {
    let mut pair = Pair::established();
    assert!(pair.client.is_reset_stream_at_negotiated() && pair.server.is_reset_stream_at_negotiated());
    pair = Pair::established_with(NOT_ANNOUNCED);
    assert!(!pair.client.is_reset_stream_at_negotiated() && !pair.server.is_reset_stream_at_negotiated());
    pair.client.stream_send(0, b"header", false).unwrap();
    assert_eq!(pair.client.stream_reset_at(0, 7, 6), Err(Error::InvalidState));
}

#[test]
fn data_that_has_arrived() {
    let mut pair = Pair::established();
    pair.client.stream_send(UNI, b"header, body", false).unwrap();
    pair.settle();
    pair.client.stream_reset_at(UNI, 7, 6).unwrap();
    pair.settle();
    assert_reset(&mut pair, UNI, b"header");
}

#[test]
fn data_that_was_read_before() {
    let mut pair = Pair::established();
    pair.client.stream_send(UNI, b"header, body", false).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(UNI, &mut [0; 8]), Ok((8, false)));
    pair.client.stream_reset_at(UNI, 7, 6).unwrap();
    pair.settle();
    assert_reset(&mut pair, UNI, b"");
}

/// The reliable data is read in pieces; the reset comes after the last.
#[test]
fn data_that_is_read_in_pieces() {
    let mut pair = Pair::established();
    pair.client.stream_send(UNI, b"header, body", false).unwrap();
    pair.client.stream_reset_at(UNI, 7, 12).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(UNI, &mut [0; 5]), Ok((5, false)));
    assert!(!pair.server.stream_finished(UNI));
    assert_eq!(pair.server.stream_recv(UNI, &mut [0; 7]), Ok((7, false)));
    assert_reset(&mut pair, UNI, b"");
}

/// Of what waits to be sent the reliable part goes out, the rest does not; another stream's data follows.
#[test]
fn data_that_was_not_sent() {
    for (size, expected) in [(0, &b""[..]), (6, b"header"), (12, b"header, body"), (100, b"header, body")] {
        let mut pair = Pair::established();
        pair.client.stream_send(UNI, b"header, body", true).unwrap();
        pair.client.stream_reset_at(UNI, 7, size).unwrap();
        pair.client.stream_send(UNI + 4, b"other", true).unwrap();
        pair.settle();
        assert_eq!(read(&mut pair.server, UNI + 4), Ok((b"other".to_vec(), true)));
        assert_reset(&mut pair, UNI, expected);
    }
}

#[test]
fn data_that_was_lost() {
    let long = vec![1; 4000];
    for (size, expected) in [(6, &long[..6]), (1500, &long[..1500]), (4000, &long[..])] {
        let mut pair = Pair::established();
        pair.client.stream_send(UNI, &long, true).unwrap();
        let mut packets = flight(&mut pair.client);
        assert!(packets.len() > 2);
        pair.client.stream_reset_at(UNI, 7, size).unwrap();
        deliver(packets.split_off(2), &mut pair.server);
        lose(&mut pair);
        assert_reset(&mut pair, UNI, expected);
    }
}

#[test]
fn reset_that_was_lost() {
    let mut pair = Pair::established();
    pair.client.stream_send(UNI, b"header, body", false).unwrap();
    pair.settle();
    pair.client.stream_reset_at(UNI, 7, 6).unwrap();
    lose(&mut pair);
    assert_reset(&mut pair, UNI, b"header");
}

/// Nothing can be written after it, and it cannot be changed.
#[test]
fn no_second_thoughts() {
    let mut pair = Pair::established();
    pair.client.stream_send(UNI, b"header, body", false).unwrap();
    pair.client.stream_reset_at(UNI, 7, 6).unwrap();
    assert_eq!(pair.client.stream_send(UNI, b"more", false), Err(Error::FinalSize));
    assert_eq!(pair.client.stream_send(UNI, b"", true), Ok(0));
    assert_eq!(pair.client.stream_reset_at(UNI, 8, 12), Err(Error::Done));
    assert_eq!(pair.client.stream_shutdown(UNI, Shutdown::Write, 8), Err(Error::Done));
    pair.settle();
    assert_reset(&mut pair, UNI, b"header");
}

/// The client neither drops what is reliable nor changes the code of its reset.
#[test]
fn stop_sending_after_it() {
    let mut pair = Pair::established();
    pair.client.stream_send(0, b"header, body", false).unwrap();
    pair.settle();
    pair.client.stream_reset_at(0, 7, 6).unwrap();
    let reset = flight(&mut pair.client);
    pair.server.stream_shutdown(0, Shutdown::Read, 9).unwrap();
    pair.to_client();
    assert!(pair.client.stream_capacity(0).is_ok(), "the stop is told");
    pair.settle();
    deliver(reset, &mut pair.server);
    pair.server.stream_send(0, b"", true).unwrap();
    pair.settle();
    assert_eq!(pair.client.stream_recv(0, &mut [0; 9]), Ok((0, true)));
    pair.settle();
    assert_eq!(pair.client.stream_capacity(0), Err(Error::InvalidStreamState(0)));
    assert_eq!(pair.server.stream_capacity(0), Err(Error::InvalidStreamState(0)));
}

#[test]
fn stop_sending_before_it() {
    let mut pair = Pair::established();
    pair.client.stream_send(0, b"header, body", false).unwrap();
    pair.settle();
    pair.server.stream_shutdown(0, Shutdown::Read, 9).unwrap();
    pair.settle();
    pair.client.stream_reset_at(0, 7, 6).unwrap();
    pair.settle();
    assert_eq!(read(&mut pair.server, 0), Err(Error::Done));
}

/// The application of the receiver gives up what is reliable, too.
#[test]
fn stopped_by_the_receiver() {
    let mut pair = Pair::established();
    pair.client.stream_send(UNI, b"header, body", false).unwrap();
    pair.client.stream_reset_at(UNI, 7, 6).unwrap();
    pair.settle();
    pair.server.stream_shutdown(UNI, Shutdown::Read, 9).unwrap();
    pair.settle();
    assert_eq!(pair.server.readable().count(), 0);
    assert_eq!(read(&mut pair.server, UNI), Err(Error::InvalidStreamState(UNI)));
}

/// 200 streams of 1,000 bytes in a connection window of 10,000: credit comes back for read and unread bytes, once.
#[test]
fn credit_comes_back() {
    let mut pair = Pair::established_with(|config| {
        config.set_initial_max_data(10_000);
        config.set_max_connection_window(10_000);
    });
    for n in 0..200 {
        let id = UNI + 4 * n;
        assert_eq!(pair.client.stream_send(id, &[1; 1000], false), Ok(1000), "stream {n}");
        if n % 2 == 0 {
            pair.settle();
        }
        pair.client.stream_reset_at(id, 7, 10).unwrap();
        pair.settle();
        match n % 3 {
            0 => pair.server.stream_shutdown(id, Shutdown::Read, 9).unwrap(),
            _ => assert_reset(&mut pair, id, &[1; 10]),
        }
        pair.settle();
    }
}

/// A STREAM frame of stream 2.
fn data(offset: u8, text: &[u8]) -> Vec<u8> {
    [&[0x0e, 2, offset, text.len() as u8], text].concat()
}

/// RESET_STREAM_AT of stream 2 with 7.
fn reset_at(final_size: u8, reliable_size: u8) -> Vec<u8> {
    vec![0x24, 2, 7, final_size, reliable_size]
}

fn received(frames: &[Vec<u8>]) -> RawClient {
    let mut raw = RawClient::established();
    for frame in frames {
        raw.send(frame).unwrap();
    }
    raw
}

fn error(frames: &[Vec<u8>]) -> Error {
    let (last, first) = frames.split_last().unwrap();
    received(first).send(last).unwrap_err()
}

#[test]
fn data_in_any_order() {
    for frames in [
        [reset_at(12, 6), data(0, b"hea"), data(3, b"der, body")],
        [reset_at(12, 6), data(3, b"der, "), data(0, b"hea")],
        [data(3, b"der, body"), reset_at(12, 6), data(0, b"header")],
        [data(8, b"body"), data(0, b"header,"), reset_at(12, 6)],
        [reset_at(12, 6), data(6, b", body"), data(0, b"header")],
    ] {
        let mut server = received(&frames).server;
        assert_eq!(read(&mut server, 2), Ok((b"header".to_vec(), false)), "{frames:?}");
        assert_eq!(read(&mut server, 2), Err(Error::StreamReset(7)));
        assert_eq!(server.readable().count(), 0);
    }
}

/// The reliable size may be lowered, by RESET_STREAM to 0, not raised. The error code stays.
#[test]
fn more_than_one_reset() {
    let reset = || vec![0x04, 2, 8, 12];
    for (frames, expected) in [
        (vec![data(0, b"head"), reset_at(12, 6), reset_at(12, 4)], &b"head"[..]),
        (vec![data(0, b"header, body"), reset_at(12, 4), reset_at(12, 6)], b"head"),
        (vec![data(0, b"head"), reset_at(12, 6), reset()], b""),
        (vec![reset_at(12, 12), reset_at(12, 4), reset_at(12, 12), data(0, b"header, body")], b"head"),
    ] {
        let mut server = received(&frames).server;
        if !expected.is_empty() {
            assert_eq!(read(&mut server, 2), Ok((expected.to_vec(), false)), "{frames:?}");
        }
        assert_eq!(read(&mut server, 2), Err(Error::StreamReset(7)), "{frames:?}");
    }
}

/// Told once: what comes late is of no interest.
#[test]
fn repeats_after_the_end() {
    let mut raw = received(&[reset_at(12, 6), data(0, b"header")]);
    assert_eq!(read(&mut raw.server, 2), Ok((b"header".to_vec(), false)));
    for frame in [reset_at(12, 6), data(0, b"header, body"), vec![0x04, 2, 7, 12]] {
        raw.send(&frame).unwrap();
    }
    assert_eq!(read(&mut raw.server, 2), Err(Error::StreamReset(7)));
    raw.send(&reset_at(12, 6)).unwrap();
    assert_eq!(raw.server.readable().count(), 0);
}

/// A FIN is known, data before it is missing: the reset is told all the same.
#[test]
fn reset_after_a_fin() {
    for reset in [vec![0x04, 2, 7, 12], reset_at(12, 0)] {
        let mut server = received(&[vec![0x0f, 2, 8, 4, 1, 1, 1, 1], reset]).server;
        assert_eq!(read(&mut server, 2), Err(Error::StreamReset(7)));
    }
}

#[test]
fn final_size_is_final() {
    assert_eq!(error(&[data(0, b"header, body"), reset_at(11, 6)]), Error::FinalSize);
    assert_eq!(error(&[reset_at(12, 6), reset_at(13, 6)]), Error::FinalSize);
    assert_eq!(error(&[reset_at(12, 6), data(10, b"body")]), Error::FinalSize);
    assert_eq!(error(&[reset_at(12, 6), vec![0x0f, 2, 0, 1, 1]]), Error::FinalSize);
}

#[test]
fn frames_that_must_not_be() {
    assert_eq!(error(&[reset_at(5, 6)]), Error::InvalidFrame);
    // Beyond the stream's window of 2^20 bytes, and beyond the connection's of 2^24.
    assert_eq!(error(&[vec![0x24, 2, 7, 0x80, 0x10, 0, 1, 0]]), Error::FlowControl);
    assert_eq!(error(&[vec![0x24, 2, 7, 0x81, 0, 0, 1, 0]]), Error::FlowControl);
    // A stream of the server's own.
    assert_eq!(error(&[vec![0x24, 3, 7, 0, 0]]), Error::InvalidStreamState(3));
}
