//! patches/0020: key updates that begin on our side (RFC 9001 section 6).

use std::io::{Result, Write};
use std::sync::{Arc, Mutex};

use quiche::Error;

use crate::pair::{deliver, flight, Pair};

/// A qlog that the test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().write(data)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Log {
    fn updates(&self) -> usize {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().matches("remote_update").count()
    }
}

/// An established pair, and the qlog of its server.
fn logged() -> (Pair, Log) {
    let mut pair = Pair::established();
    let log = Log::default();
    pair.server.set_qlog(Box::new(log.clone()), "".into(), "".into());
    (pair, log)
}

/// Data of the client, to the server and back.
fn echo(pair: &mut Pair, stream: u64) {
    let mut buf = [0; 64];
    pair.client.stream_send(stream, b"to and fro", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(stream, &mut buf), Ok((10, true)));
    pair.server.stream_send(stream, &buf[..10], true).unwrap();
    pair.settle();
    assert_eq!(pair.client.stream_recv(stream, &mut buf), Ok((10, true)));
    assert_eq!(&buf[..10], b"to and fro");
}

/// The server sees the new phase, opens its packets and answers in it. Both directions count as updated.
#[test]
fn peer_follows() {
    let (mut pair, log) = logged();
    echo(&mut pair, 0);
    pair.client.initiate_key_update().unwrap();
    echo(&mut pair, 4);
    assert_eq!(log.updates(), 2);
    echo(&mut pair, 8);
    assert_eq!(log.updates(), 2);
}

/// RFC 9001 section 6.1: no second update before the first one is over.
#[test]
fn one_at_a_time() {
    let (mut pair, _) = logged();
    pair.client.initiate_key_update().unwrap();
    assert_eq!(pair.client.initiate_key_update(), Err(Error::InvalidState));
    echo(&mut pair, 0);
    assert_eq!(pair.client.initiate_key_update(), Err(Error::InvalidState));
    std::thread::sleep(pair.client.timeout().unwrap());
    pair.client.on_timeout();
    pair.client.initiate_key_update().unwrap();
    echo(&mut pair, 4);
}

/// RFC 9001 section 6.3: packets that were sent before the peer heard of the update are still opened.
#[test]
fn what_was_under_way() {
    let (mut pair, log) = logged();
    pair.client.stream_send(0, b"?", true).unwrap();
    pair.settle();
    pair.server.stream_send(0, b"old", false).unwrap();
    let old = flight(&mut pair.server);
    pair.client.initiate_key_update().unwrap();
    echo(&mut pair, 4);
    assert_eq!(log.updates(), 2);
    deliver(old, &mut pair.client);
    let mut buf = [0; 16];
    assert_eq!(pair.client.stream_recv(0, &mut buf), Ok((3, false)));
}

/// Both begin at once: they end in the same phase.
#[test]
fn both_at_once() {
    let (mut pair, _) = logged();
    pair.client.initiate_key_update().unwrap();
    pair.server.initiate_key_update().unwrap();
    echo(&mut pair, 0);
    echo(&mut pair, 4);
}

/// RFC 9001 section 6: not before the handshake is confirmed, which the client learns from the server.
#[test]
fn not_before_the_handshake_is_confirmed() {
    let mut pair = Pair::new();
    assert_eq!(pair.client.initiate_key_update(), Err(Error::InvalidState));
    pair.to_server();
    pair.to_client();
    assert!(pair.client.is_established());
    assert_eq!(pair.client.initiate_key_update(), Err(Error::InvalidState));
    pair.settle();
    pair.client.initiate_key_update().unwrap();
    echo(&mut pair, 0);
}

/// patches/0047: the server's HANDSHAKE_DONE comes in a packet with new keys, and the client follows.
#[test]
fn update_with_the_end_of_the_handshake() {
    let mut pair = Pair::new();
    pair.to_server();
    pair.to_client();
    pair.to_server();
    assert!(pair.server.is_established());
    assert_eq!(pair.server.initiate_key_update(), Ok(()));
    pair.server.stream_send(3, b"new keys", true).unwrap();
    pair.to_client();
    assert_eq!(pair.client.stream_recv(3, &mut [0; 64]), Ok((8, true)));
    pair.settle();
    echo(&mut pair, 0);
}
