//! An interop endpoint on quiche as it is released, both roles: HTTP/0.9, by the interop runner's contract.

mod client;
mod server;

use std::env;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use quiche::{Config, Connection, ConnectionId};
use ring::rand::{SecureRandom, SystemRandom};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

const UNSUPPORTED: u8 = 127;
const MAX_UDP_PAYLOAD: usize = 1350;
const CASES: [&str; 6] = ["handshake", "transfer", "multiconnect", "retry", "resumption", "zerortt"];

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    bytes
}

pub fn configuration(case: &str) -> Result<Config> {
    let mut config = Config::new(quiche::PROTOCOL_VERSION)?;
    config.set_application_protos(&[b"hq-interop"])?;
    config.set_max_idle_timeout(180_000);
    config.set_max_recv_udp_payload_size(MAX_UDP_PAYLOAD);
    config.set_max_send_udp_payload_size(MAX_UDP_PAYLOAD);
    config.set_initial_max_data(10_000_000);
    config.set_initial_max_stream_data_bidi_local(1_000_000);
    config.set_initial_max_stream_data_bidi_remote(1_000_000);
    config.set_initial_max_streams_bidi(100);
    config.set_active_connection_id_limit(4);
    if env::var_os("SSLKEYLOGFILE").is_some() {
        config.log_keys();
    }
    if case == "zerortt" {
        config.enable_early_data();
    }
    Ok(config)
}

/// What every new connection gets.
pub fn prepare(connection: &mut Connection) -> Result<()> {
    if let Some(path) = env::var_os("SSLKEYLOGFILE") {
        let file: File = OpenOptions::new().create(true).append(true).open(path)?;
        connection.set_keylog(Box::new(file));
    }
    Ok(())
}

/// Spare connection IDs, so that the peer may change its path. Returns the new ones.
pub fn issue_ids(connection: &mut Connection) -> Vec<ConnectionId<'static>> {
    let mut issued = Vec::new();
    while connection.is_established() && connection.scids_left() > 0 {
        let id = ConnectionId::from_vec(random::<16>().to_vec());
        if connection.new_scid(&id, u128::from_be_bytes(random()), false).is_err() {
            break;
        }
        issued.push(id);
    }
    issued
}

/// Everything that a connection has to send.
pub fn flush(socket: &UdpSocket, connection: &mut Connection) -> Result<()> {
    let mut out = [0; MAX_UDP_PAYLOAD];
    loop {
        match connection.send(&mut out) {
            Ok((len, info)) => {
                // The pacing that quiche asks for.
                if let Some(wait) = info.at.checked_duration_since(std::time::Instant::now()) {
                    std::thread::sleep(wait.min(Duration::from_millis(5)));
                }
                socket.send_to(&out[..len], info.to)?;
            },
            Err(quiche::Error::Done) => return Ok(()),
            Err(error) => {
                connection.close(false, 1, b"").ok();
                return Err(error.into());
            },
        }
    }
}

/// The next datagram, or None when `timeout` has passed.
pub fn receive(socket: &UdpSocket, buf: &mut [u8], timeout: Option<Duration>) -> Result<Option<(usize, SocketAddr)>> {
    let timeout = timeout.unwrap_or(Duration::from_secs(1)).clamp(Duration::from_micros(10), Duration::from_secs(1));
    socket.set_read_timeout(Some(timeout))?;
    match socket.recv_from(buf) {
        Ok(received) => Ok(Some(received)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn main() -> ExitCode {
    let case = env::var("TESTCASE").unwrap_or_default();
    if !CASES.contains(&case.as_str()) {
        return ExitCode::from(UNSUPPORTED);
    }
    let done = if env::var("ROLE").is_ok_and(|role| role == "server") { server::run(&case) } else { client::run(&case) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
    }
}
