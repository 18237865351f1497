//! One connection: HTTP/3 events in, responses out. `GET /hello`, `GET /bytes/N`, `POST /upload`, and
//! `POST /datagrams`, during which every datagram is sent back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Instant;

use quiche::h3::{Event, Header, NameValue};

const HELLO: &[u8] = b"Hello, HTTP/3!";
const LENGTH: usize = 65_521;

/// The content of large bodies: this block, repeated.
static BLOCK: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..LENGTH as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect());

enum Stream {
    Download { sent: u64, size: u64 },
    Upload { received: u64 },
    Datagrams,
    /// A small body that did not fit into the stream's window at once.
    Rest(Vec<u8>),
}

pub struct Connection {
    pub quic: quiche::Connection,
    pub peer: SocketAddr,
    pub ids: Vec<Vec<u8>>,
    pub due: Option<Instant>,
    pub touched: bool,
    http: Option<quiche::h3::Connection>,
    streams: HashMap<u64, Stream>,
}

impl Connection {
    pub fn new(quic: quiche::Connection, peer: SocketAddr, ids: Vec<Vec<u8>>) -> Connection {
        Connection { quic, peer, ids, due: None, touched: false, http: None, streams: HashMap::new() }
    }

    /// All that there is to do between the packets that came and those that go.
    pub fn service(&mut self, config: &quiche::h3::Config, buffer: &mut [u8]) {
        if self.http.is_none() && self.quic.is_established() {
            self.http = quiche::h3::Connection::with_transport(&mut self.quic, config).ok();
        }
        let Some(mut http) = self.http.take() else { return };
        while let Ok((id, event)) = http.poll(&mut self.quic) {
            match event {
                Event::Headers { list, .. } => self.request(&mut http, id, &list),
                Event::Data => self.data(&mut http, id, buffer),
                Event::Finished => self.finished(&mut http, id),
                Event::Reset(_) => drop(self.streams.remove(&id)),
                _ => (),
            }
        }
        while let Ok(length) = self.quic.dgram_recv(buffer) {
            let _ = self.quic.dgram_send(&buffer[..length]); // a full queue loses datagrams, as a network does
        }
        while let Some(id) = self.quic.stream_writable_next() {
            self.pump(&mut http, id);
        }
        self.http = Some(http);
    }

    fn request(&mut self, http: &mut quiche::h3::Connection, id: u64, fields: &[Header]) {
        let path = fields.iter().find(|field| field.name() == b":path").map_or(&b""[..], |field| field.value());
        if path == b"/hello" {
            self.respond(http, id, HELLO, b"text/plain; charset=utf-8");
        } else if path == b"/upload" {
            self.streams.insert(id, Stream::Upload { received: 0 });
        } else if path == b"/datagrams" {
            let _ = http.send_response(&mut self.quic, id, &[Header::new(b":status", b"200")], false);
            self.streams.insert(id, Stream::Datagrams);
        } else if let Some(size) = path.strip_prefix(b"/bytes/") {
            let response = [Header::new(b":status", b"200"), Header::new(b"content-length", size)];
            let size = String::from_utf8_lossy(size).parse().unwrap_or(0);
            if http.send_response(&mut self.quic, id, &response, size == 0).is_ok() && size > 0 {
                self.streams.insert(id, Stream::Download { sent: 0, size });
                self.pump(http, id);
            }
        }
    }

    fn respond(&mut self, http: &mut quiche::h3::Connection, id: u64, body: &[u8], kind: &[u8]) {
        let length = body.len().to_string();
        let response = [
            Header::new(b":status", b"200"),
            Header::new(b"content-type", kind),
            Header::new(b"content-length", length.as_bytes()),
        ];
        // Streams are far from blocked by responses of this size: a window that is closed now stays an error.
        if http.send_response(&mut self.quic, id, &response, false).is_err() {
            return;
        }
        let taken = http.send_body(&mut self.quic, id, body, true).unwrap_or(0);
        if taken < body.len() {
            self.streams.insert(id, Stream::Rest(body[taken..].to_vec()));
        }
    }

    fn data(&mut self, http: &mut quiche::h3::Connection, id: u64, buffer: &mut [u8]) {
        let mut received = 0;
        while let Ok(length) = http.recv_body(&mut self.quic, id, buffer) {
            received += length as u64;
        }
        if let Some(Stream::Upload { received: total }) = self.streams.get_mut(&id) {
            *total += received;
        }
    }

    fn finished(&mut self, http: &mut quiche::h3::Connection, id: u64) {
        match self.streams.get(&id) {
            Some(Stream::Upload { received }) => {
                let total = received.to_string();
                self.streams.remove(&id);
                self.respond(http, id, total.as_bytes(), b"text/plain; charset=utf-8");
            }
            Some(Stream::Datagrams) => {
                self.streams.remove(&id);
                let _ = http.send_body(&mut self.quic, id, b"", true);
            }
            _ => (),
        }
    }

    /// Sends what the stream's window takes.
    fn pump(&mut self, http: &mut quiche::h3::Connection, id: u64) {
        let quic = &mut self.quic;
        let done = match self.streams.get_mut(&id) {
            Some(Stream::Download { sent, size }) => loop {
                let at = (*sent % LENGTH as u64) as usize;
                let length = (LENGTH - at).min((*size - *sent) as usize);
                let last = *sent + length as u64 == *size;
                match http.send_body(quic, id, &BLOCK[at..at + length], last) {
                    Ok(taken) => *sent += taken as u64,
                    Err(quiche::h3::Error::Done) => break false,
                    Err(_) => break true,
                }
                if *sent == *size {
                    break true;
                }
            },
            Some(Stream::Rest(rest)) => match http.send_body(quic, id, rest, true) {
                Ok(taken) => {
                    rest.drain(..taken);
                    rest.is_empty()
                }
                Err(error) => error != quiche::h3::Error::Done,
            },
            _ => false,
        };
        if done {
            self.streams.remove(&id);
        }
    }
}
