//! patches/0002: HTTP/3 frees a request stream that the application has reset or stopped reading.

use quiche::h3::{self, Error, Event, Header, NameValue};
use quiche::Shutdown;

use crate::pair::Pair;

const NOTHING: [&str; 0] = [];

struct Http3 {
    pair: Pair,
    client: h3::Connection,
    server: h3::Connection,
}

fn headers(pairs: &[(&str, &str)]) -> Vec<Header> {
    pairs.iter().map(|(name, value)| Header::new(name.as_bytes(), value.as_bytes())).collect()
}

impl Http3 {
    fn established() -> Http3 {
        let mut pair = Pair::established();
        let config = h3::Config::new().unwrap();
        let client = h3::Connection::with_transport(&mut pair.client, &config).unwrap();
        let server = h3::Connection::with_transport(&mut pair.server, &config).unwrap();
        let mut http3 = Http3 { pair, client, server };
        http3.pair.settle();
        assert_eq!(http3.server_events(), NOTHING);
        http3
    }

    /// A request, received by the server, which has sent a part of the response.
    fn half_answered(fin: bool) -> Http3 {
        let mut http3 = Http3::established();
        let request = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];
        assert_eq!(http3.client.send_request(&mut http3.pair.client, &headers(&request), fin), Ok(0));
        http3.pair.settle();
        let expected = if fin { vec!["headers", "finished"] } else { vec!["headers"] };
        assert_eq!(http3.server_events(), expected);
        let response = headers(&[(":status", "200")]);
        http3.server.send_response(&mut http3.pair.server, 0, &response, false).unwrap();
        http3.server.send_body(&mut http3.pair.server, 0, b"part", false).unwrap();
        http3.pair.settle();
        http3
    }

    fn server_events(&mut self) -> Vec<&'static str> {
        let mut events = Vec::new();
        loop {
            match self.server.poll(&mut self.pair.server) {
                Ok((0, Event::Headers { list, .. })) => {
                    assert_eq!(list[0].name(), b":method");
                    events.push("headers");
                },
                Ok((0, Event::Data)) => events.push("data"),
                Ok((0, Event::Finished)) => events.push("finished"),
                Ok((0, Event::Reset(_))) => events.push("reset"),
                Err(Error::Done) => return events,
                other => panic!("{other:?}"),
            }
        }
    }

    fn reset_by_server(&mut self) {
        self.pair.server.stream_shutdown(0, Shutdown::Write, 0x10c).unwrap();
    }

    fn discard(&mut self) {
        self.server.stream_discard(&self.pair.server, 0);
    }

    /// Whether the server's HTTP/3 still knows the stream: sending on it fails in another way then.
    fn assert_freed(&mut self, expected: bool) {
        let sent = self.server.send_body(&mut self.pair.server, 0, b"more", false);
        assert_eq!(sent == Err(Error::FrameUnexpected), expected, "{sent:?}");
    }
}

#[test]
fn response_given_up_by_the_server() {
    let mut http3 = Http3::half_answered(true);
    http3.reset_by_server();
    http3.discard();
    http3.pair.settle();
    assert_eq!(http3.server_events(), NOTHING);
    http3.assert_freed(true);
}

#[test]
fn response_cancelled_by_the_client() {
    let mut http3 = Http3::half_answered(false);
    http3.pair.client.stream_shutdown(0, Shutdown::Read, 0x10c).unwrap();
    http3.pair.client.stream_shutdown(0, Shutdown::Write, 0x10c).unwrap();
    http3.pair.settle();
    assert_eq!(http3.server_events(), ["reset"]);
    http3.discard();
    http3.pair.settle();
    assert_eq!(http3.server_events(), NOTHING);
    http3.assert_freed(true);
}

#[test]
fn reset_that_was_not_polled_yet_is_still_told() {
    let mut http3 = Http3::half_answered(false);
    http3.pair.client.stream_shutdown(0, Shutdown::Write, 0x10c).unwrap();
    http3.pair.settle();
    http3.reset_by_server();
    http3.discard();
    assert_eq!(http3.server_events(), ["reset"]);
    http3.pair.settle();
    assert_eq!(http3.server_events(), NOTHING);
    http3.assert_freed(true);
}

#[test]
fn body_is_read_to_its_end_first() {
    let mut http3 = Http3::half_answered(false);
    http3.reset_by_server();
    http3.discard();
    http3.client.send_body(&mut http3.pair.client, 0, b"body", true).unwrap();
    http3.pair.settle();
    assert_eq!(http3.server_events(), ["data"]);
    let mut body = [0; 100];
    assert_eq!(http3.server.recv_body(&mut http3.pair.server, 0, &mut body), Ok(4));
    assert_eq!(http3.server_events(), ["finished"]);
    http3.assert_freed(true);
}

#[test]
fn body_that_nobody_will_read() {
    let mut http3 = Http3::half_answered(false);
    http3.server.send_body(&mut http3.pair.server, 0, b"done", true).unwrap();
    http3.pair.server.stream_shutdown(0, Shutdown::Read, 0x100).unwrap();
    http3.client.send_body(&mut http3.pair.client, 0, b"unwanted", true).unwrap();
    http3.discard();
    http3.pair.settle();
    assert_eq!(http3.server_events(), NOTHING);
    http3.assert_freed(true);
}

#[test]
fn critical_streams_are_kept() {
    let mut http3 = Http3::half_answered(true);
    for stream_id in [2, 3, 6, 7] {
        http3.server.stream_discard(&http3.pair.server, stream_id);
    }
    http3.client.send_goaway(&mut http3.pair.client, 0).unwrap();
    http3.pair.settle();
    assert!(matches!(http3.server.poll(&mut http3.pair.server), Ok((_, Event::GoAway))));
}
