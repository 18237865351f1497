//! A native HTTP/3 server on quiche, as fast as one thread goes: the socket is drained, then the events of every
//! touched connection are handled, then each sends once, in trains.
//!
//! `bench-native CERTIFICATE KEY` prints its port as JSON and ends with its standard input.

mod connection;
mod udp;

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use connection::Connection;
use udp::Udp;

type Failure = Box<dyn std::error::Error>;

const PACKET: usize = 1350;
const TRAIN: usize = 65_507 / PACKET * PACKET;
const TRAINS_PER_TURN: usize = 16;
const RECEIVES_PER_TURN: usize = 4;
const ID: usize = 16;

/// The engine of quiche_h3 with its default configuration, as far as the two can be alike.
fn quic_config(certificate: &str, key: &str) -> quiche::Result<quiche::Config> {
    let mut config = quiche::Config::new(quiche::PROTOCOL_VERSION)?;
    config.load_cert_chain_from_pem_file(certificate)?;
    config.load_priv_key_from_pem_file(key)?;
    config.set_application_protos(quiche::h3::APPLICATION_PROTOCOL)?;
    config.set_max_idle_timeout(60_000);
    config.set_max_recv_udp_payload_size(65_527);
    config.set_max_send_udp_payload_size(PACKET);
    config.set_initial_max_data(2 << 20);
    config.set_initial_max_stream_data_bidi_local(1 << 20);
    config.set_initial_max_stream_data_bidi_remote(1 << 20);
    config.set_initial_max_stream_data_uni(1 << 20);
    config.set_max_connection_window(16 << 20);
    config.set_max_stream_window(8 << 20);
    config.set_initial_max_streams_bidi(100);
    config.set_initial_max_streams_uni(16);
    config.set_active_connection_id_limit(8);
    config.enable_dgram(true, 1024, 1024);
    if let Ok(algorithm) = std::env::var("BENCH_CC") {
        config.set_cc_algorithm_name(&algorithm)?;
    }
    Ok(config)
}

struct Server {
    udp: Udp,
    quic: quiche::Config,
    http: quiche::h3::Config,
    connections: HashMap<usize, Connection>,
    ids: HashMap<Vec<u8>, usize>,
    due: BTreeSet<(Instant, usize)>,
    touched: Vec<usize>,
    accepted: usize,
    random: std::fs::File,
    train: Vec<u8>,
    buffer: Vec<u8>,
}

impl Server {
    fn new(certificate: &str, key: &str) -> Result<Server, Failure> {
        Ok(Server {
            udp: Udp::bind()?,
            quic: quic_config(certificate, key)?,
            http: quiche::h3::Config::new()?,
            connections: HashMap::new(),
            ids: HashMap::new(),
            due: BTreeSet::new(),
            touched: Vec::new(),
            accepted: 0,
            random: std::fs::File::open("/dev/urandom")?,
            train: vec![0; 65_536],
            buffer: vec![0; 65_536],
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        let mut behind = false; // a turn ended with work left
        loop {
            let mut fds = [
                libc::pollfd { fd: self.udp.fd(), events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 },
            ];
            let wait = match self.due.first() {
                _ if behind => Duration::ZERO,
                Some((due, _)) => due.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            let wait = libc::timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ };
            if unsafe { libc::ppoll(fds.as_mut_ptr(), 2, &wait, std::ptr::null()) } < 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            if fds[1].revents != 0 && std::io::stdin().read(&mut [0; 16])? == 0 {
                return Ok(());
            }
            if fds[0].revents != 0 {
                self.receive()?;
            }
            behind = self.turn()?;
        }
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let local = self.udp.local;
        let Server { udp, quic, connections, ids, touched, accepted, random, .. } = self;
        for _ in 0..RECEIVES_PER_TURN {
            let more = udp.receive(|packet, from| {
                let Ok(header) = quiche::Header::from_slice(packet, ID) else { return };
                let number = match ids.get(header.dcid.as_ref()) {
                    Some(number) => *number,
                    None if header.ty == quiche::Type::Initial => {
                        let mut id = [0; ID];
                        let scid = random.read_exact(&mut id).map(|_| quiche::ConnectionId::from_ref(&id));
                        let Ok(scid) = scid else { return };
                        let Ok(connection) = quiche::accept(&scid, None, local, from, quic) else { return };
                        *accepted += 1;
                        // A ClientHello may take several Initials, all with the ID that the client chose.
                        let both = vec![id.to_vec(), header.dcid.to_vec()];
                        ids.extend(both.iter().map(|id| (id.clone(), *accepted)));
                        connections.insert(*accepted, Connection::new(connection, from, both));
                        *accepted
                    }
                    None => return,
                };
                let Some(connection) = connections.get_mut(&number) else { return };
                let _ = connection.quic.recv(packet, quiche::RecvInfo { from, to: local });
                if !connection.touched {
                    connection.touched = true;
                    touched.push(number);
                }
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Expired timers, then events, then one send pass. True when there is more to send right away.
    fn turn(&mut self) -> Result<bool, Failure> {
        let now = Instant::now();
        while let Some((due, number)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, number));
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.due = None;
                connection.quic.on_timeout();
                if !connection.touched {
                    connection.touched = true;
                    self.touched.push(number);
                }
            }
        }
        let touched = std::mem::take(&mut self.touched);
        for number in &touched {
            let connection = self.connections.get_mut(number).expect("a touched connection");
            connection.service(&self.http, &mut self.buffer);
        }
        for number in touched {
            let connection = self.connections.get_mut(&number).expect("a touched connection");
            connection.touched = send(&self.udp, connection, &mut self.train)?;
            if connection.quic.is_closed() {
                let connection = self.connections.remove(&number).expect("a touched connection");
                for id in &connection.ids {
                    self.ids.remove(id);
                }
                connection.due.map(|due| self.due.remove(&(due, number)));
                continue;
            }
            if connection.touched {
                self.touched.push(number);
            }
            let due = connection.quic.timeout_instant();
            if due != connection.due {
                connection.due.map(|due| self.due.remove(&(due, number)));
                due.map(|due| self.due.insert((due, number)));
                connection.due = due;
            }
        }
        Ok(!self.touched.is_empty())
    }
}

/// Sends for one connection: trains of packets of one size. True when it has more to send.
fn send(udp: &Udp, connection: &mut Connection, train: &mut [u8]) -> Result<bool, Failure> {
    for _ in 0..TRAINS_PER_TURN {
        let mut used = 0;
        let mut to: SocketAddr = connection.peer;
        let mut segment = 0;
        let mut drained = false;
        while used + PACKET <= TRAIN {
            match connection.quic.send(&mut train[used..used + PACKET]) {
                Ok((length, info)) => {
                    if used == 0 {
                        (segment, to) = (length, info.to);
                    }
                    used += length;
                    if length > segment {
                        // It cannot ride with shorter ones before it: they go now, it goes alone.
                        udp.send(&train[..used - length], segment, to)?;
                        udp.send(&train[used - length..used], length, to)?;
                        used = 0;
                    } else if length < segment {
                        break;
                    }
                }
                Err(_) => {
                    drained = true;
                    break;
                }
            }
        }
        if used > 0 && !udp.send(&train[..used], segment, to)? {
            return Ok(false); // lost, as far as QUIC is concerned
        }
        if drained {
            return Ok(false);
        }
    }
    Ok(true)
}

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let (certificate, key) = (words.next().ok_or("no certificate")?, words.next().ok_or("no key")?);
    let mut server = Server::new(&certificate, &key)?;
    println!("{{\"port\": {}}}", server.udp.local.port());
    server.run()
}
