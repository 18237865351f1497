//! patches/0011: streams that HTTP/3 leaves to the application (draft-ietf-webtrans-http3 sections 4.2 and 4.3).

use quiche::h3::{self, Error};
use quiche::Shutdown;

use crate::h3_server::{H3Server, CONTROL, REQUEST};
use crate::memory::held;
use crate::pair::Pair;

const NOTHING: Vec<(u64, &str)> = vec![];
const UNI: u64 = 6;
/// Their types, the session ID 0, and data.
const UNI_STREAM: &[u8] = b"\x40\x54\x00unidirectional";
const BIDI_STREAM: &[u8] = b"\x40\x41\x00bidirectional";

fn claiming() -> h3::Config {
    let mut config = h3::Config::new().unwrap();
    config.claim_streams(true);
    config
}

fn claiming_server() -> H3Server {
    H3Server::with_config(&claiming())
}

fn read(server: &mut H3Server, stream_id: u64) -> Result<(Vec<u8>, bool), quiche::Error> {
    let mut data = vec![0; 1000];
    let (len, fin) = server.pair.server.stream_recv(stream_id, &mut data)?;
    data.truncate(len);
    Ok((data, fin))
}

#[test]
fn claimed_streams_are_left_alone() {
    for (stream_id, stream) in [(UNI, UNI_STREAM), (4, BIDI_STREAM)] {
        let mut server = claiming_server();
        server.receive(stream_id, stream, false);
        assert_eq!(server.h3.next_claimed_stream(), None);
        assert_eq!(server.events(), Ok(NOTHING));
        assert_eq!(server.h3.next_claimed_stream(), Some(stream_id));
        assert_eq!(server.h3.next_claimed_stream(), None);
        server.receive(0, REQUEST, true);
        server.receive(stream_id, b" and more", true);
        assert_eq!(server.events(), Ok(vec![(0, "headers"), (0, "finished")]));
        assert_eq!(server.body(stream_id), Err(Error::Done));
        let expected = [&stream[2..], b" and more"].concat();
        assert_eq!(read(&mut server, stream_id), Ok((expected, true)));
        assert_eq!(server.events(), Ok(NOTHING));
        assert_eq!(server.h3.next_claimed_stream(), None);
        server.assert_open();
    }
}

#[test]
fn type_that_arrives_in_parts() {
    for (stream_id, types) in [
        (UNI, [&b"\x40\x54"[..], b"\x80\x00\x00\x54", b"\xc0\x00\x00\x00\x00\x00\x00\x54"]),
        (4, [&b"\x40\x41"[..], b"\x80\x00\x00\x41", b"\xc0\x00\x00\x00\x00\x00\x00\x41"]),
    ] {
        for type_ in types {
            let mut server = claiming_server();
            for (i, byte) in type_.iter().enumerate() {
                assert_eq!(server.h3.next_claimed_stream(), None, "after {i} bytes");
                server.receive(stream_id, &[*byte], false);
                assert_eq!(server.events(), Ok(NOTHING));
            }
            assert_eq!(server.h3.next_claimed_stream(), Some(stream_id));
            assert_eq!(read(&mut server, stream_id), Err(quiche::Error::Done));
            server.receive(stream_id, b"\x00", false);
            assert_eq!(server.events(), Ok(NOTHING));
            assert_eq!(read(&mut server, stream_id), Ok((b"\x00".to_vec(), false)));
        }
    }
}

#[test]
fn other_types_are_not_claimed() {
    let mut server = claiming_server();
    server.receive(UNI, b"\x40\x55ignored", true);
    server.receive(UNI + 4, b"\x21ignored", false);
    server.receive(0, &[b"\x40\x42\x01x", REQUEST].concat(), true); // an unknown frame first
    assert_eq!(server.events(), Ok(vec![(0, "headers"), (0, "finished")]));
    assert_eq!(server.h3.next_claimed_stream(), None);
    assert!(read(&mut server, UNI).is_err());
    assert_eq!(read(&mut server, UNI + 4), Err(quiche::Error::Done));
    server.assert_open();
}

#[test]
fn nothing_is_claimed_by_default() {
    let mut server = H3Server::established();
    server.receive(UNI, UNI_STREAM, false);
    server.receive(0, &[&b"\x40\x41\x01x"[..], REQUEST].concat(), true);
    assert_eq!(server.events(), Ok(vec![(0, "headers"), (0, "finished")]));
    assert_eq!(server.h3.next_claimed_stream(), None);
    assert_eq!(read(&mut server, UNI), Err(quiche::Error::Done));
    server.assert_open();
}

#[test]
fn signal_in_another_place() {
    for (stream_id, before) in [(0, REQUEST), (0, &b"\x21\x00"[..]), (CONTROL, b"")] {
        let mut server = claiming_server();
        server.receive(stream_id, &[before, BIDI_STREAM].concat(), false);
        while server.h3.poll(&mut server.pair.server).is_ok() {}
        server.assert_closed(0x106); // H3_FRAME_ERROR
        assert_eq!(server.h3.next_claimed_stream(), None);
    }
}

#[test]
fn reset_before_the_type() {
    for (stream_id, first) in [(UNI, b"\x40"), (4, b"\x40")] {
        for len in [0, 1] {
            let mut server = claiming_server();
            if len > 0 {
                server.receive(stream_id, &first[..len], false);
                assert_eq!(server.events(), Ok(NOTHING));
            } else {
                server.pair.client.stream_send(stream_id, b"", false).unwrap();
            }
            server.pair.client.stream_shutdown(stream_id, Shutdown::Write, 7).unwrap();
            server.pair.settle();
            assert_eq!(server.events(), Ok(vec![(stream_id, "reset")]));
            assert_eq!(server.h3.next_claimed_stream(), None);
            server.assert_open();
        }
    }
}

#[test]
fn reset_after_the_type() {
    for (stream_id, stream) in [(UNI, UNI_STREAM), (4, BIDI_STREAM)] {
        let mut server = claiming_server();
        server.receive(stream_id, stream, false);
        assert_eq!(server.events(), Ok(NOTHING));
        assert_eq!(server.h3.next_claimed_stream(), Some(stream_id));
        server.pair.client.stream_shutdown(stream_id, Shutdown::Write, 7).unwrap();
        server.pair.settle();
        assert_eq!(server.events(), Ok(NOTHING));
        assert_eq!(read(&mut server, stream_id), Err(quiche::Error::StreamReset(7)));
        server.assert_open();
    }
}

#[test]
fn end_right_after_the_type() {
    let mut server = claiming_server();
    server.receive(UNI, b"\x40\x54", true);
    server.receive(4, b"\x40\x41", true);
    assert_eq!(server.events(), Ok(NOTHING));
    assert_eq!(server.h3.next_claimed_stream(), Some(4));
    assert!(server.pair.server.stream_finished(4));
    assert_eq!(server.h3.next_claimed_stream(), None);
}

/// Both sides open streams of both kinds between requests.
#[test]
fn streams_that_we_open() {
    let mut pair = Pair::established();
    let mut client = h3::Connection::with_transport(&mut pair.client, &claiming()).unwrap();
    let mut server = h3::Connection::with_transport(&mut pair.server, &claiming()).unwrap();
    pair.settle();
    assert_eq!(client.open_claimed_stream(&mut pair.client, true), Ok(0));
    let request = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
    assert_eq!(client.send_request(&mut pair.client, &request, true), Ok(4));
    assert_eq!(client.open_claimed_stream(&mut pair.client, false), Ok(14));
    assert_eq!(server.open_claimed_stream(&mut pair.server, true), Ok(1));
    assert_eq!(server.open_claimed_stream(&mut pair.server, true), Ok(5));
    assert_eq!(server.open_claimed_stream(&mut pair.server, false), Ok(15));
    pair.client.stream_send(0, BIDI_STREAM, false).unwrap();
    pair.client.stream_send(14, UNI_STREAM, true).unwrap();
    pair.server.stream_send(5, BIDI_STREAM, false).unwrap();
    pair.server.stream_send(15, UNI_STREAM, true).unwrap();
    pair.settle();
    assert!(matches!(server.poll(&mut pair.server), Ok((4, h3::Event::Headers { .. }))));
    assert!(matches!(server.poll(&mut pair.server), Ok((4, h3::Event::Finished))));
    assert!(matches!(server.poll(&mut pair.server), Err(Error::Done)));
    assert!(matches!(client.poll(&mut pair.client), Err(Error::Done)));
    let mut claimed = [server.next_claimed_stream().unwrap(), server.next_claimed_stream().unwrap()];
    claimed.sort();
    assert_eq!(claimed, [0, 14]);
    let mut claimed = [client.next_claimed_stream().unwrap(), client.next_claimed_stream().unwrap()];
    claimed.sort();
    assert_eq!(claimed, [5, 15]);
    // The answers, on streams of our own.
    pair.server.stream_send(0, b"\x00\x04\x00answer", true).unwrap();
    pair.client.stream_send(5, b"\x01\x04answer", true).unwrap();
    pair.settle();
    assert!(matches!(server.poll(&mut pair.server), Err(Error::Done)));
    assert!(matches!(client.poll(&mut pair.client), Err(Error::Done)));
    let mut data = [0; 100];
    assert_eq!(pair.client.stream_recv(0, &mut data), Ok((9, true)));
    assert_eq!(pair.server.stream_recv(5, &mut data), Ok((8, true)));
    assert_eq!((client.next_claimed_stream(), server.next_claimed_stream()), (None, None));
}

#[test]
fn streams_that_the_peer_gave_no_credit_for() {
    let mut pair = Pair::established();
    let mut server = h3::Connection::with_transport(&mut pair.server, &claiming()).unwrap();
    for bidi in [true, false] {
        let mut opened = 0;
        while server.open_claimed_stream(&mut pair.server, bidi).is_ok() {
            opened += 1;
        }
        assert_eq!(opened, if bidi { 100 } else { 97 });
        assert_eq!(server.open_claimed_stream(&mut pair.server, bidi), Err(Error::StreamBlocked));
    }
}

#[test]
fn nothing_is_left_of_finished_streams() {
    let mut server = claiming_server();
    let churn = |server: &mut H3Server, ids: std::ops::Range<u64>| {
        for n in ids {
            server.receive(UNI + 4 * n, UNI_STREAM, true);
            server.receive(4 * n, BIDI_STREAM, true);
            assert_eq!(server.events(), Ok(NOTHING));
            while let Some(stream_id) = server.h3.next_claimed_stream() {
                assert_eq!(read(server, stream_id).unwrap().1, true);
                if stream_id % 4 == 0 {
                    server.pair.server.stream_send(stream_id, b"", true).unwrap();
                }
            }
            server.pair.settle();
            assert_eq!(server.pair.client.stream_recv(4 * n, &mut [0]), Ok((0, true)));
        }
    };
    churn(&mut server, 0..1000);
    let before = held();
    churn(&mut server, 1000..3000);
    assert!(held() - before < 20_000, "{} bytes held", held() - before);
}
