//! An HTTP/3 server, and a client of which the tests write each byte of each stream.

use quiche::h3::{self, Error, Event};

use crate::pair::Pair;

/// A GET request's HEADERS frame, by QPACK's static table alone.
pub const REQUEST: &[u8] = b"\x01\x08\x00\x00\xd1\xd7\xc1\x50\x01a";
/// The client's control stream.
pub const CONTROL: u64 = 2;

pub struct H3Server {
    pub pair: Pair,
    pub h3: h3::Connection,
}

impl H3Server {
    pub fn established() -> H3Server {
        H3Server::with_config(&h3::Config::new().unwrap())
    }

    /// The client has opened no stream yet.
    pub fn connected(config: &h3::Config) -> H3Server {
        let mut pair = Pair::established();
        let h3 = h3::Connection::with_transport(&mut pair.server, config).unwrap();
        H3Server { pair, h3 }
    }

    pub fn with_config(config: &h3::Config) -> H3Server {
        let mut server = H3Server::connected(config);
        server.receive(CONTROL, b"\x00\x04\x00", false); // empty SETTINGS
        assert_eq!(server.events(), Ok(vec![]));
        server
    }

    /// Writes these bytes as the client and carries them over.
    pub fn receive(&mut self, stream_id: u64, bytes: &[u8], fin: bool) {
        assert_eq!(self.pair.client.stream_send(stream_id, bytes, fin), Ok(bytes.len()));
        self.pair.settle();
    }

    /// What the server tells the application until it has nothing more to tell.
    pub fn events(&mut self) -> Result<Vec<(u64, &'static str)>, Error> {
        let mut events = Vec::new();
        loop {
            match self.h3.poll(&mut self.pair.server) {
                Ok((id, Event::Headers { .. })) => events.push((id, "headers")),
                Ok((id, Event::Data)) => events.push((id, "data")),
                Ok((id, Event::Finished)) => events.push((id, "finished")),
                Ok((id, Event::Reset(_))) => events.push((id, "reset")),
                Ok((id, Event::GoAway)) => events.push((id, "goaway")),
                Ok((id, Event::PriorityUpdate)) => events.push((id, "priority")),
                Err(Error::Done) => return Ok(events),
                Err(error) => return Err(error),
            }
        }
    }

    pub fn body(&mut self, stream_id: u64) -> Result<Vec<u8>, Error> {
        let mut body = vec![0; 1000];
        let len = self.h3.recv_body(&mut self.pair.server, stream_id, &mut body)?;
        body.truncate(len);
        Ok(body)
    }

    /// The server has ended the connection with this HTTP/3 error code.
    pub fn assert_closed(&self, code: u64) {
        let error = self.pair.server.local_error().expect("the connection goes on");
        assert_eq!((error.is_app, error.error_code), (true, code), "{:?}", error.reason);
    }

    pub fn assert_open(&self) {
        assert!(self.pair.server.local_error().is_none(), "{:?}", self.pair.server.local_error());
    }
}
