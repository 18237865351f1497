//! patches/0048: a body that the application writes where quiche keeps it.

use std::mem::MaybeUninit;

use quiche::h3::{self, Error, Header};

use crate::h3_server::{H3Server, REQUEST};

const BODY: usize = 300_000;

/// The request was answered, the body is to follow. The client has no more than the response's head to read.
fn answered() -> H3Server {
    let mut server = H3Server::established();
    server.receive(0, REQUEST, true);
    server.events().unwrap();
    let head = [Header::new(b":status", b"200")];
    server.h3.send_response(&mut server.pair.server, 0, &head, false).unwrap();
    server.pair.settle();
    server
}

fn byte(offset: usize) -> u8 {
    (offset % 251) as u8
}

/// Writes the body's bytes from `offset` on, `most` at once, and notes how much room there was.
fn write(server: &mut H3Server, offset: usize, most: usize, room: &mut usize) -> h3::Result<usize> {
    let fill = |buf: &mut [MaybeUninit<u8>]| {
        *room = buf.len();
        let n = most.min(buf.len());
        buf[..n].iter_mut().enumerate().for_each(|(i, slot)| {
            slot.write(byte(offset + i));
        });
        n
    };
    unsafe { server.h3.send_body_with(&mut server.pair.server, 0, BODY - offset, fill) }
}

/// The DATA frames' payload that the client can read now. The frames are whole.
fn payload(server: &mut H3Server, into: &mut Vec<u8>) {
    let (mut bytes, mut buf) = (Vec::new(), vec![0; 1 << 20]);
    while let Ok((n, _)) = server.pair.client.stream_recv(0, &mut buf) {
        bytes.extend_from_slice(&buf[..n]);
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (size, head) = match rest[1] >> 6 {
            0 => (rest[1] as usize, 2),
            1 => (u16::from_be_bytes([rest[1] & 0x3f, rest[2]]) as usize, 3),
            _ => (u32::from_be_bytes([rest[1] & 0x3f, rest[2], rest[3], rest[4]]) as usize, 5),
        };
        if rest[0] == 0 {
            into.extend_from_slice(&rest[head..head + size]);
        }
        rest = &rest[head + size..];
    }
}

#[test]
fn body_that_is_written_in_place() {
    let mut server = answered();
    let (mut sent, mut room, mut got, mut partial) = (0, 0, Vec::new(), 0);
    while sent < BODY {
        match write(&mut server, sent, usize::MAX, &mut room) {
            Ok(n) => {
                assert_eq!(n, room);
                partial += usize::from(n < BODY - sent);
                sent += n;
            },
            Err(error) => {
                assert_eq!(error, Error::Done);
                server.pair.settle();
                payload(&mut server, &mut got);
                assert!(std::iter::from_fn(|| server.pair.server.stream_writable_next()).any(|id| id == 0));
            },
        }
    }
    server.h3.send_body(&mut server.pair.server, 0, b"", true).unwrap();
    server.pair.settle();
    payload(&mut server, &mut got);
    assert!(partial > 1);
    assert_eq!(got, (0..BODY).map(byte).collect::<Vec<_>>());
    assert!(server.pair.client.stream_finished(0));
}

#[test]
fn less_than_there_was_room_for() {
    let mut server = answered();
    let (mut room, mut got) = (0, Vec::new());
    assert_eq!(write(&mut server, 0, 10, &mut room), Ok(10));
    assert!(room > 1000);
    assert_eq!(write(&mut server, 10, 0, &mut room), Ok(0)); // nothing is sent
    assert_eq!(write(&mut server, 10, 5, &mut room), Ok(5));
    server.pair.settle();
    payload(&mut server, &mut got);
    assert_eq!(got, (0..15).map(byte).collect::<Vec<_>>());
}

#[test]
fn stream_that_takes_nothing() {
    let mut server = answered();
    let mut room = 0;
    while write(&mut server, 0, usize::MAX, &mut room).is_ok() {}
    room = 0;
    assert_eq!(write(&mut server, 0, usize::MAX, &mut room), Err(Error::Done));
    assert_eq!(room, 0); // it was not called
    server.pair.client.stream_shutdown(0, quiche::Shutdown::Read, 7).unwrap();
    server.pair.settle();
    let stopped = Err(Error::TransportError(quiche::Error::StreamStopped(7)));
    assert_eq!(write(&mut server, 0, usize::MAX, &mut room), stopped);
    assert_eq!(room, 0);
}
