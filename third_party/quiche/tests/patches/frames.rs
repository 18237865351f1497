//! patches/0007: HTTP/3 frames, to the letter.

use quiche::h3::Error;
use quiche::Shutdown;

use crate::h3_server::{H3Server, CONTROL, REQUEST};
use crate::memory::held;

const FRAME_UNEXPECTED: u64 = 0x105;
const FRAME_ERROR: u64 = 0x106;

/// RFC 9114 section 7.2.8.
#[test]
fn types_reserved_for_http2() {
    for frame_type in [0x02, 0x06, 0x08, 0x09] {
        for (stream_id, before) in [(0, &b""[..]), (0, REQUEST), (CONTROL, b"")] {
            let mut server = H3Server::established();
            server.receive(stream_id, &[before, &[frame_type, 0]].concat(), false);
            while server.h3.poll(&mut server.pair.server).is_ok() {}
            server.assert_closed(FRAME_UNEXPECTED);
        }
    }
}

/// RFC 9114 section 7.1: what a request stream may not end with.
const CUT_OFF: [&[u8]; 7] = [
    b"\x40",             // a type of two bytes
    b"\x21",             // no length
    b"\x21\x40",         // a length of two bytes
    b"\x21\x03ab",       // an unknown frame
    b"\x01\x08\x00\x00", // HEADERS
    b"\x00\x03",         // DATA without a byte of it
    b"\x00\x03ab",       // DATA
];

fn assert_frame_error(server: &mut H3Server, stream_id: u64) {
    let mut ended = server.events();
    while ended.is_ok() && server.body(stream_id).is_ok() {
        ended = server.events();
    }
    server.assert_closed(FRAME_ERROR);
}

#[test]
fn frame_cut_off_by_the_fin() {
    for end in CUT_OFF {
        let mut server = H3Server::established();
        server.receive(0, &[REQUEST, end].concat(), true);
        assert_frame_error(&mut server, 0);
    }
}

#[test]
fn frame_cut_off_by_a_fin_that_comes_later() {
    for end in CUT_OFF {
        let mut server = H3Server::established();
        server.receive(0, &[REQUEST, end].concat(), false);
        server.events().unwrap();
        let _ = server.body(0);
        server.assert_open();
        server.receive(0, b"", true);
        assert_frame_error(&mut server, 0);
    }
}

/// The transport forgets the stream as soon as its end has been read.
#[test]
fn frame_cut_off_after_the_response() {
    for end in CUT_OFF {
        let mut server = H3Server::established();
        server.receive(0, REQUEST, false);
        assert_eq!(server.events(), Ok(vec![(0, "headers")]));
        let response = [quiche::h3::Header::new(b":status", b"200")];
        server.h3.send_response(&mut server.pair.server, 0, &response, true).unwrap();
        server.pair.settle();
        server.receive(0, end, true);
        assert_frame_error(&mut server, 0);
    }
}

#[test]
fn frame_cut_off_by_a_reset() {
    for end in CUT_OFF {
        let mut server = H3Server::established();
        server.receive(0, &[REQUEST, end].concat(), false);
        server.events().unwrap();
        server.pair.client.stream_shutdown(0, Shutdown::Write, 7).unwrap();
        server.pair.settle();
        assert_eq!(server.events(), Ok(vec![(0, "reset")]));
        assert_eq!(server.body(0), Err(Error::Done));
        assert_eq!(server.events(), Ok(vec![]));
        server.assert_open();
    }
}

#[test]
fn frame_that_nobody_will_read() {
    let mut server = H3Server::established();
    server.receive(0, &[REQUEST, b"\x00\x40\x80part"].concat(), false);
    assert_eq!(server.events(), Ok(vec![(0, "headers"), (0, "data")]));
    server.pair.server.stream_shutdown(0, Shutdown::Read, 0x100).unwrap();
    server.pair.client.stream_send(0, b"more", true).unwrap();
    server.pair.settle();
    assert_eq!(server.events(), Ok(vec![]));
    server.assert_open();
}

#[test]
fn complete_frames_are_no_error() {
    for end in [&b""[..], b"\x21\x00", b"\x21\x02ab"] {
        let mut server = H3Server::established();
        server.receive(0, &[REQUEST, end].concat(), true);
        assert_eq!(server.events(), Ok(vec![(0, "headers"), (0, "finished")]), "{end:?}");
        server.assert_open();
    }
}

/// RFC 9114 section 7.1: additional bytes after the fields of a frame, and a field that the frame's end cuts off.
#[test]
fn length_that_does_not_fit_the_fields() {
    for frame_type in [0x03, 0x07, 0x0d] {
        for payload in [&b"\x02\x00\x00"[..], b"\x01\x40"] {
            let mut server = H3Server::established();
            server.receive(CONTROL, &[&[frame_type], payload].concat(), false);
            assert_eq!(server.events(), Err(Error::FrameError));
            server.assert_closed(FRAME_ERROR);
        }
    }
    for frame_type in [0x07, 0x0d] {
        let mut server = H3Server::established();
        server.receive(CONTROL, &[frame_type, 2, 0x40, 0], false);
        server.events().unwrap();
        server.assert_open();
    }
}

#[test]
fn empty_data_frames() {
    let parts: [&[u8]; 5] = [b"\x00\x00", b"\x00\x02ab", b"\x00\x00\x00\x00", b"\x00\x01c", b"\x00\x00"];
    // At once, each frame alone, and each byte alone.
    let whole = parts.concat();
    let cuts: [Vec<&[u8]>; 3] = [vec![&whole[..]], parts.to_vec(), whole.chunks(1).collect()];
    for pieces in cuts {
        let mut server = H3Server::established();
        server.receive(0, REQUEST, false);
        assert_eq!(server.events(), Ok(vec![(0, "headers")]));
        let mut body = Vec::new();
        let mut events = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            server.receive(0, piece, i + 1 == pieces.len());
            for (_, event) in server.events().unwrap() {
                events.push(event);
                if event == "data" {
                    while let Ok(data) = server.body(0) {
                        body.extend(data);
                    }
                }
            }
            for (_, event) in server.events().unwrap() {
                events.push(event);
            }
        }
        assert_eq!(body, b"abc", "{events:?}");
        assert_eq!(events.last(), Some(&"finished"), "{events:?}");
    }
}

/// RFC 9114 section 6.2: a stream of unknown type may be dropped, and then costs nothing.
#[test]
fn ignored_unidirectional_streams_give_their_credit_back() {
    type Ending = fn(&mut H3Server, u64);
    let endings: [Ending; 5] = [
        |server, id| server.receive(id, b"\x21ignored", true),
        |server, id| {
            server.receive(id, b"\x21ignored", false);
            server.events().unwrap();
            server.receive(id, b"", true);
        },
        |server, id| {
            server.receive(id, b"\x21ignored", false);
            server.events().unwrap();
            server.pair.client.stream_shutdown(id, Shutdown::Write, 7).unwrap();
        },
        |server, id| server.receive(id, b"\x40", true),
        |server, id| {
            server.receive(id, b"\x40", false);
            server.pair.client.stream_shutdown(id, Shutdown::Write, 7).unwrap();
        },
    ];
    for (i, end) in endings.into_iter().enumerate() {
        let mut server = H3Server::established();
        let mut streams = (0..).map(|n| CONTROL + 4 + 4 * n);
        let mut churn = |server: &mut H3Server, count| {
            for id in streams.by_ref().take(count) {
                end(server, id);
                server.pair.settle();
                server.events().unwrap();
                server.pair.settle();
                let _ = server.pair.client.stream_capacity(id); // or the client keeps it
            }
        };
        churn(&mut server, 1000);
        let before = held();
        churn(&mut server, 1000);
        assert!(held() - before < 60_000, "way {i}: {} bytes held", held() - before);
    }
}

/// The transport forgets a stream that is complete, though nobody will read it.
#[test]
fn refused_uploads_give_their_credit_back() {
    let mut server = H3Server::established();
    for id in (0..1000).map(|n| 4 * n) {
        server.receive(id, &[REQUEST, b"\x00\x04part"].concat(), false);
        assert_eq!(server.events(), Ok(vec![(id, "headers"), (id, "data")]));
        let response = [quiche::h3::Header::new(b":status", b"413")];
        server.h3.send_response(&mut server.pair.server, id, &response, true).unwrap();
        server.pair.settle();
        server.pair.server.stream_shutdown(id, Shutdown::Read, 0x100).unwrap();
        server.pair.settle();
        assert_eq!(server.pair.client.stream_recv(id, &mut [0; 100]).map(|(_, fin)| fin), Ok(true));
        assert!(server.pair.client.stream_capacity(id).is_err()); // it was told to stop
        server.pair.settle();
    }
}
