//! Serves the files of /www.

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use quiche::{Connection, ConnectionId, Header, RecvInfo, Type};
use ring::hmac;

use crate::{configuration, flush, issue_ids, prepare, random, receive, Result};

/// A file on its way out.
struct Answer {
    body: Vec<u8>,
    sent: usize,
}

struct Client {
    connection: Connection,
    /// Its IDs lead to it.
    known: bool,
    lines: HashMap<u64, Vec<u8>>,
    answers: HashMap<u64, Answer>,
}

type Ids = HashMap<ConnectionId<'static>, usize>;

pub fn run(case: &str) -> Result<()> {
    let mut config = configuration(case)?;
    config.load_cert_chain_from_pem_file("/certs/cert.pem")?;
    config.load_priv_key_from_pem_file("/certs/priv.key")?;
    let socket = UdpSocket::bind("[::]:443")?;
    let local = socket.local_addr()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>());
    let mut clients: Vec<Client> = Vec::new();
    let mut ids: Ids = HashMap::new();
    let mut buf = [0; 65535];
    loop {
        let timeout = clients.iter().filter_map(|client| client.connection.timeout()).min();
        let received = receive(&socket, &mut buf, timeout)?;
        if let Some((len, from)) = received {
            if let Some(index) = find(&socket, &mut config, case, &key, &mut clients, &mut ids, &mut buf[..len], from)? {
                clients[index].connection.recv(&mut buf[..len], RecvInfo { from, to: local }).ok();
            }
        }
        for (index, client) in clients.iter_mut().enumerate() {
            if client.connection.is_closed() {
                // A first packet that is corrupt closes it: the next one has to find another.
                if client.known {
                    ids.retain(|_, known| *known != index);
                    client.known = false;
                }
                continue;
            }
            if client.connection.timeout() == Some(Duration::ZERO) {
                client.connection.on_timeout();
            }
            serve(client);
            ids.extend(issue_ids(&mut client.connection).into_iter().map(|id| (id, index)));
            while client.connection.path_event_next().is_some() {}
            flush(&socket, &mut client.connection).ok();
        }
    }
}

/// The connection that a packet is for: one there is, or a new one.
#[allow(clippy::too_many_arguments)]
fn find(
    socket: &UdpSocket, config: &mut quiche::Config, case: &str, key: &hmac::Key, clients: &mut Vec<Client>,
    ids: &mut Ids, packet: &mut [u8], from: SocketAddr,
) -> Result<Option<usize>> {
    let Ok(header) = Header::from_slice(packet, 16) else { return Ok(None) };
    if let Some(index) = ids.get(&header.dcid) {
        return Ok(Some(*index));
    }
    let mut out = [0; 1350];
    if header.ty != Type::Short && !quiche::version_is_supported(header.version) {
        let len = quiche::negotiate_version(&header.scid, &header.dcid, &mut out)?;
        socket.send_to(&out[..len], from)?;
        return Ok(None);
    }
    if header.ty != Type::Initial {
        return Ok(None);
    }
    let token = header.token.as_deref().unwrap_or_default();
    let address = from.to_string();
    let mut scid = ConnectionId::from_vec(random::<16>().to_vec());
    let mut odcid = None;
    if case == "retry" {
        if token.is_empty() {
            let mut token = hmac::sign(key, address.as_bytes()).as_ref().to_vec();
            token.extend_from_slice(&header.dcid);
            let len = quiche::retry(&header.scid, &header.dcid, &scid, &token, header.version, &mut out)?;
            socket.send_to(&out[..len], from)?;
            return Ok(None);
        }
        if token.len() < 32 || hmac::verify(key, address.as_bytes(), &token[..32]).is_err() {
            return Ok(None);
        }
        odcid = Some(ConnectionId::from_vec(token[32..].to_vec()));
        scid = header.dcid.clone();
    }
    let mut connection = quiche::accept(&scid, odcid.as_ref(), socket.local_addr()?, from, config)?;
    prepare(&mut connection)?;
    ids.insert(scid, clients.len());
    ids.insert(header.dcid, clients.len());
    clients.push(Client { connection, known: true, lines: HashMap::new(), answers: HashMap::new() });
    Ok(Some(clients.len() - 1))
}

/// Reads requests, and sends of the answers what the client takes.
fn serve(client: &mut Client) {
    let mut buf = [0; 4096];
    let connection = &mut client.connection;
    for stream in connection.readable() {
        while let Ok((len, fin)) = connection.stream_recv(stream, &mut buf) {
            let line = client.lines.entry(stream).or_default();
            line.extend_from_slice(&buf[..len]);
            if fin {
                let line = String::from_utf8_lossy(line).into_owned();
                let name = line.trim_end().trim_start_matches("GET /");
                let name = Path::new(name).file_name().unwrap_or_default();
                let body = fs::read(Path::new("/www").join(name)).unwrap_or_default();
                client.answers.insert(stream, Answer { body, sent: 0 });
                client.lines.remove(&stream);
            }
        }
    }
    client.answers.retain(|stream, answer| {
        match connection.stream_send(*stream, &answer.body[answer.sent..], true) {
            Ok(len) => answer.sent += len,
            Err(quiche::Error::Done) => (),
            Err(_) => return false,
        }
        answer.sent < answer.body.len()
    });
}
