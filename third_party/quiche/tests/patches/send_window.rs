//! patches/0044: what an application may write before it is acknowledged.

use std::thread::sleep;

use quiche::{Config, Connection};

use crate::pair::{flight, Pair};

const LARGE: [u8; 1 << 20] = [0; 1 << 20];
/// Ten packets (RFC 9002 section 7.2), and what the handshake has added.
const WINDOW: usize = 20_000;

/// The client has asked for something, the server has not written yet.
fn asked(change: impl FnOnce(&mut Config)) -> Pair {
    let mut pair = Pair::established_with(change);
    pair.client.stream_send(0, b"?", true).unwrap();
    pair.settle();
    pair.server.stream_recv(0, &mut [0; 10]).unwrap();
    pair
}

/// As much as is taken.
fn write(server: &mut Connection) -> usize {
    let mut written = 0;
    while let Ok(n) = server.stream_send(0, &LARGE, false) {
        written += n;
    }
    written
}

#[test]
fn packets_that_arrive_open_no_room_for_what_is_unsent() {
    let mut pair = asked(|_| ());
    let mut written = write(&mut pair.server);
    assert!(written > 10_000);
    for _ in 0..50 {
        pair.client.send_ack_eliciting().unwrap();
        pair.to_server();
        written += write(&mut pair.server);
    }
    assert!(written < WINDOW, "{written}");
}

#[test]
fn probes_open_no_room() {
    let mut pair = asked(|_| ());
    let mut written = write(&mut pair.server);
    assert!(!flight(&mut pair.server).is_empty()); // lost
    sleep(pair.server.timeout().unwrap());
    pair.server.on_timeout();
    pair.client.send_ack_eliciting().unwrap();
    pair.to_server();
    written += write(&mut pair.server);
    assert!(written < 2 * WINDOW, "{written}");
}

#[test]
fn window_that_the_application_sets() {
    let mut pair = asked(|config| config.set_max_send_window(5000));
    let mut written = 0;
    for _ in 0..50 {
        let taken = write(&mut pair.server);
        assert!(taken <= 5000, "{taken}");
        written += taken;
        pair.settle();
        while pair.client.stream_recv(0, &mut [0; 5000]).is_ok() {}
    }
    assert!(written > 20 * 5000, "{written}");
}
