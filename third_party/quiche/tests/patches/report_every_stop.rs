//! patches/0005: STOP_SENDING makes a stream writable once more, so that the application learns of it.

use quiche::{Error, Shutdown};

use crate::pair::{deliver, flight, Pair};

#[test]
fn stop_of_an_idle_stream() {
    let mut pair = Pair::established();
    pair.client.stream_send(0, b"request", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(0, &mut [0; 100]), Ok((7, true)));
    pair.server.stream_send(0, b"part", false).unwrap();
    pair.settle();
    while pair.server.stream_writable_next().is_some() {}
    pair.client.stream_shutdown(0, Shutdown::Read, 7).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_writable_next(), Some(0));
    assert_eq!(pair.server.stream_capacity(0), Err(Error::StreamStopped(7)));
    assert_eq!(pair.server.stream_writable_next(), None);
}

#[test]
fn stop_while_the_congestion_window_is_spent() {
    let mut pair = Pair::established();
    pair.client.stream_send(0, b"request", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(0, &mut [0; 100]), Ok((7, true)));
    let mut sent = 0;
    while let Ok(n) = pair.server.stream_send(0, &[0; 1000], false) {
        sent += n;
    }
    assert!(sent > 10_000);
    let _ = flight(&mut pair.server); // lost on the way
    while pair.server.stream_writable_next().is_some() {}
    pair.client.stream_shutdown(0, Shutdown::Read, 7).unwrap();
    deliver(flight(&mut pair.client), &mut pair.server);
    assert_eq!(pair.server.stream_writable_next(), Some(0));
    assert_eq!(pair.server.stream_capacity(0), Err(Error::StreamStopped(7)));
}
