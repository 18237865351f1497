//! patches/0040: a request stream that ends without a request.

use quiche::h3::Event;
use quiche::Shutdown;

use crate::h3_server::{H3Server, REQUEST};

const REQUEST_INCOMPLETE: u64 = 0x10d;

/// RFC 9114 section 4.1
#[test]
fn stream_that_ends_before_its_field_section() {
    for before in [&b""[..], b"\x21\x00", b"\x21\x02ab"] {
        let mut server = H3Server::established();
        server.receive(0, before, true);
        assert_eq!(server.h3.poll(&mut server.pair.server), Ok((0, Event::Reset(REQUEST_INCOMPLETE))));
        assert_eq!(server.events(), Ok(vec![]));
        server.assert_open();
    }
}

#[test]
fn stream_that_ends_later_than_it_begins() {
    let mut server = H3Server::established();
    server.receive(0, b"\x21\x02ab", false);
    assert_eq!(server.events(), Ok(vec![]));
    server.receive(0, b"", true);
    assert_eq!(server.h3.poll(&mut server.pair.server), Ok((0, Event::Reset(REQUEST_INCOMPLETE))));
    assert_eq!(server.events(), Ok(vec![]));
}

#[test]
fn requests_and_resets_are_told_as_before() {
    let mut server = H3Server::established();
    server.receive(0, REQUEST, true);
    assert_eq!(server.events(), Ok(vec![(0, "headers"), (0, "finished")]));
    server.receive(4, b"\x21", false);
    server.pair.client.stream_shutdown(4, Shutdown::Write, 7).unwrap();
    server.pair.settle();
    assert_eq!(server.h3.poll(&mut server.pair.server), Ok((4, Event::Reset(7))));
}
