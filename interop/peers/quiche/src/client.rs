//! Fetches the files that REQUESTS names.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

use quiche::{Config, ConnectionId, RecvInfo};

use crate::{configuration, flush, issue_ids, prepare, random, receive, Result};

struct Url {
    host: String,
    path: String,
}

fn urls() -> Result<Vec<Url>> {
    env::var("REQUESTS")?
        .split_whitespace()
        .map(|text| {
            let (host, path) =
                text.strip_prefix("https://").and_then(|rest| rest.split_once('/')).ok_or("no https URL")?;
            let host = host.strip_suffix(":443").unwrap_or(host);
            Ok(Url { host: host.to_owned(), path: path.to_owned() })
        })
        .collect()
}

pub fn run(case: &str) -> Result<()> {
    let mut config = configuration(case)?;
    config.load_verify_locations_from_file("/certs/ca.pem")?;
    config.verify_peer(true);
    let urls = urls()?;
    match case {
        "multiconnect" => urls.chunks(1).try_for_each(|url| fetch(&mut config, url, None).map(|_| ())),
        "resumption" | "zerortt" => {
            let session = fetch(&mut config, &urls[..1], None)?.ok_or("no session ticket")?;
            fetch(&mut config, &urls[1..], Some(&session)).map(|_| ())
        },
        _ => fetch(&mut config, &urls, None).map(|_| ()),
    }
}

/// Everything over one connection. Returns the session for a later one.
fn fetch(config: &mut Config, urls: &[Url], session: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
    let peer = (urls[0].host.as_str(), 443).to_socket_addrs()?.next().ok_or("no address")?;
    let socket = UdpSocket::bind(if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    let local: SocketAddr = socket.local_addr()?;
    let scid = random::<16>();
    let mut connection =
        quiche::connect(Some(&urls[0].host), &ConnectionId::from_ref(&scid), local, peer, config)?;
    prepare(&mut connection)?;
    if let Some(session) = session {
        connection.set_session(session)?;
    }
    let mut waiting: VecDeque<&Url> = urls.iter().collect();
    let mut bodies: HashMap<u64, (&Url, Vec<u8>)> = HashMap::new();
    let (mut next_stream, mut left) = (0, urls.len());
    let mut line = Vec::new(); // of the request on `next_stream`, as far as it was not taken
    let mut buf = [0; 65535];
    flush(&socket, &mut connection)?;
    loop {
        let ready = connection.is_established() || connection.is_in_early_data();
        while ready && connection.peer_streams_left_bidi() > 0 {
            if line.is_empty() {
                let Some(url) = waiting.pop_front() else { break };
                line.extend_from_slice(format!("GET /{}\r\n", url.path).as_bytes());
                bodies.insert(next_stream, (url, Vec::new()));
            }
            match connection.stream_send(next_stream, &line, true) {
                Ok(sent) => drop(line.drain(..sent)),
                Err(quiche::Error::Done) => break,
                Err(error) => return Err(error.into()),
            }
            if line.is_empty() {
                next_stream += 4;
            }
        }
        issue_ids(&mut connection);
        flush(&socket, &mut connection)?;
        if connection.is_closed() {
            return Err("the connection was closed".into());
        }
        match receive(&socket, &mut buf, connection.timeout())? {
            Some((len, from)) => {
                connection.recv(&mut buf[..len], RecvInfo { from, to: local }).ok();
            },
            None => connection.on_timeout(),
        }
        for stream in connection.readable() {
            let Some((url, body)) = bodies.get_mut(&stream) else { continue };
            while let Ok((len, fin)) = connection.stream_recv(stream, &mut buf) {
                body.extend_from_slice(&buf[..len]);
                if fin {
                    fs::write(Path::new("/downloads").join(&url.path), &body)?;
                    left -= 1;
                }
            }
        }
        while connection.path_event_next().is_some() {}
        if left == 0 && (session.is_some() || connection.session().is_some()) {
            break;
        }
    }
    let session = connection.session().map(<[u8]>::to_vec);
    connection.close(true, 0, b"")?;
    flush(&socket, &mut connection)?;
    Ok(session)
}
