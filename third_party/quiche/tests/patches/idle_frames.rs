//! patches/0041: frames that bring nothing are counted, and bounded.

use std::thread::sleep;
use std::time::Duration;

use quiche::h3::Config;

use crate::h3_server::{H3Server, CONTROL, REQUEST};

const EXCESSIVE_LOAD: u64 = 0x107;

/// Ten times as many at once.
fn limited(rate: u64) -> H3Server {
    let mut config = Config::new().unwrap();
    config.set_idle_frame_rate(rate);
    H3Server::with_config(&config)
}

#[test]
fn frames_that_bring_nothing() {
    let cases: [(u64, &[u8]); 5] = [
        (0, b"\x21\x00"),         // unknown, empty
        (0, b"\x21\x02ab"),       // unknown
        (CONTROL, b"\x21\x00"),   // unknown, on the control stream
        (CONTROL, b"\x0d\x01\x01"), // MAX_PUSH_ID
        (CONTROL, b"\x07\x01\x00"), // GOAWAY
    ];
    for (stream_id, frame) in cases {
        let mut server = limited(5);
        server.receive(stream_id, &frame.repeat(50), false);
        server.events().unwrap();
        server.assert_open();
        assert!(server.h3.idle_frames_spent());
        server.receive(stream_id, frame, false);
        while server.h3.poll(&mut server.pair.server).is_ok() {}
        server.assert_closed(EXCESSIVE_LOAD);
    }
}

#[test]
fn empty_data_frames() {
    let mut server = limited(1);
    server.receive(0, REQUEST, false);
    server.events().unwrap();
    server.receive(0, &b"\x00\x00".repeat(12), false);
    for _ in 0..20 {
        server.events().unwrap();
        let _ = server.body(0);
    }
    server.assert_open();
    assert!(server.h3.idle_frames_spent());
    server.receive(0, b"\x00\x00", false);
    for _ in 0..2 {
        let _ = server.events();
        let _ = server.body(0);
    }
    server.assert_closed(EXCESSIVE_LOAD);
}

#[test]
fn streams_of_unknown_types() {
    let mut server = limited(1);
    for n in 0..10 {
        server.receive(6 + 4 * n, b"\x21ignored", true);
        server.events().unwrap();
    }
    server.assert_open();
    server.receive(46, b"\x21", false);
    assert!(server.events().is_err());
    server.assert_closed(EXCESSIVE_LOAD);
}

/// What a second allows again comes in the next.
#[test]
fn frames_that_come_slowly() {
    let mut server = limited(50);
    server.receive(0, &b"\x21\x00".repeat(500), false);
    server.events().unwrap();
    assert!(server.h3.idle_frames_spent());
    sleep(Duration::from_millis(100));
    server.receive(0, b"\x21\x00\x21\x00", false);
    server.events().unwrap();
    server.assert_open();
}

/// A frame or two beside each request cost it nothing, however many there are.
#[test]
fn requests_pay_for_two() {
    let mut server = limited(1);
    for n in 0..50 {
        server.receive(4 * n, &[b"\x21\x00\x21\x00", REQUEST].concat(), true);
        assert_eq!(server.events(), Ok(vec![(4 * n, "headers"), (4 * n, "finished")]));
    }
    server.receive(2, &b"\x21\x00".repeat(10), false);
    server.events().unwrap();
    assert!(server.h3.idle_frames_spent());
}

#[test]
fn frames_that_bring_something() {
    let mut server = limited(0);
    server.receive(0, &[REQUEST, b"\x00\x01a\x00\x01b"].concat(), true);
    let mut body = Vec::new();
    for _ in 0..3 {
        server.events().unwrap();
        body.extend(server.body(0).unwrap_or_default());
    }
    assert_eq!(body, b"ab");
    server.assert_open();
}
