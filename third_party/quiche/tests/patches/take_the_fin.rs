//! patches/0013: a FIN that is told is taken, and the stream is readable no more.

use quiche::h3::Error;

use crate::h3_server::{H3Server, REQUEST};
use crate::pair::Pair;

/// The FIN comes behind the data, both are read with a buffer that the data fills.
#[test]
fn read_that_the_data_fills() {
    let mut pair = Pair::established();
    pair.client.stream_send(2, b"data", false).unwrap();
    pair.settle();
    pair.client.stream_send(2, b"", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(2, &mut [0; 4]), Ok((4, true)));
    assert_eq!(pair.server.readable().count(), 0);
}

#[test]
fn read_without_room() {
    for (stream_id, both_ways) in [(2, false), (0, true)] {
        let mut pair = Pair::established();
        pair.client.stream_send(stream_id, b"", true).unwrap();
        pair.settle();
        assert_eq!(pair.server.stream_recv(stream_id, &mut []), Ok((0, true)));
        assert_eq!(pair.server.readable().count(), 0);
        if both_ways {
            pair.server.stream_send(stream_id, b"", true).unwrap();
            pair.settle();
            assert_eq!(pair.server.stream_capacity(stream_id), Err(quiche::Error::InvalidStreamState(0)));
        }
    }
}

/// No room leaves the data where it is.
#[test]
fn data_is_not_taken() {
    let mut pair = Pair::established();
    pair.client.stream_send(2, b"data", true).unwrap();
    pair.settle();
    assert_eq!(pair.server.stream_recv(2, &mut []), Ok((0, false)));
    assert_eq!(pair.server.stream_recv(2, &mut [0; 9]), Ok((4, true)));
}

/// HTTP/3 goes on after the FIN of an answered request was read into nothing.
#[test]
fn http3_goes_on() {
    let mut server = H3Server::established();
    server.receive(0, REQUEST, false);
    assert_eq!(server.events(), Ok(vec![(0, "headers")]));
    server.pair.server.stream_send(0, b"", true).unwrap();
    server.pair.settle();
    server.receive(0, b"", true);
    assert_eq!(server.pair.server.stream_recv(0, &mut []), Ok((0, true)));
    server.pair.settle();
    assert_eq!(server.events(), Ok(vec![]));
    server.receive(4, REQUEST, true);
    assert_eq!(server.events(), Ok(vec![(4, "headers"), (4, "finished")]));
    assert_eq!(server.body(0), Err(Error::Done));
}
