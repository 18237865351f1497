//! A client and a server in memory. Nothing moves but by a call, so that a test decides which packet arrives.

use std::net::SocketAddr;

use quiche::{accept, connect, Config, Connection, ConnectionId, RecvInfo};

pub const CLIENT: &str = "127.0.0.1:1000";
pub const SERVER: &str = "127.0.0.1:2000";

pub struct Pair {
    pub client: Connection,
    pub server: Connection,
}

/// Large limits, no pacing and no grease: one `send()` is one packet with what the test wrote, no more.
pub fn config() -> Config {
    config_of(quiche::PROTOCOL_VERSION)
}

pub fn config_of(version: u32) -> Config {
    let mut config = Config::new(version).unwrap();
    // The certificate that quiche's own examples use. build_quiche.sh says where its sources lie.
    let sources = std::env::var("QUICHE_SOURCES").expect("run by build_quiche.sh --test");
    config.load_cert_chain_from_pem_file(&format!("{sources}/examples/cert.crt")).unwrap();
    config.load_priv_key_from_pem_file(&format!("{sources}/examples/cert.key")).unwrap();
    config.set_application_protos(quiche::h3::APPLICATION_PROTOCOL).unwrap();
    config.set_initial_max_data(1 << 24);
    config.set_initial_max_stream_data_bidi_local(1 << 20);
    config.set_initial_max_stream_data_bidi_remote(1 << 20);
    config.set_initial_max_stream_data_uni(1 << 20);
    config.set_initial_max_streams_bidi(100);
    config.set_initial_max_streams_uni(100);
    config.verify_peer(false);
    config.enable_pacing(false);
    config.grease(false);
    config.enable_reset_stream_at(true);
    config
}

/// Every packet that `from` has to send.
pub fn flight(from: &mut Connection) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut buf = [0; 1500];
    while let Ok((len, _)) = from.send(&mut buf) {
        packets.push(buf[..len].to_vec());
    }
    packets
}

pub fn deliver(packets: Vec<Vec<u8>>, to: &mut Connection) {
    let (from_addr, to_addr) = if to.is_server() { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
    let from: SocketAddr = from_addr.parse().unwrap();
    let to_: SocketAddr = to_addr.parse().unwrap();
    for mut packet in packets {
        to.recv(&mut packet, RecvInfo { from, to: to_ }).unwrap();
    }
}

impl Pair {
    /// Both sides established, with nothing left to say.
    pub fn established() -> Pair {
        Pair::established_with(|_| ())
    }

    /// The same, with the server's configuration changed.
    pub fn established_with(change: impl FnOnce(&mut Config)) -> Pair {
        let mut server_config = config();
        change(&mut server_config);
        let mut pair = Pair::between(&mut server_config);
        pair.settle();
        assert!(pair.client.is_established() && pair.server.is_established());
        pair
    }

    /// Before the first packet.
    pub fn new() -> Pair {
        Pair::between(&mut config())
    }

    fn between(server_config: &mut Config) -> Pair {
        let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&[2; 16]));
        Pair {
            client: connect(Some("quic.tech"), &cid, client, server, &mut config()).unwrap(),
            server: accept(&scid, None, server, client, server_config).unwrap(),
        }
    }

    /// Carries packets to and fro until neither side has one.
    pub fn settle(&mut self) {
        loop {
            let (up, down) = (flight(&mut self.client), flight(&mut self.server));
            if up.is_empty() && down.is_empty() {
                return;
            }
            deliver(up, &mut self.server);
            deliver(down, &mut self.client);
        }
    }

    pub fn to_client(&mut self) {
        deliver(flight(&mut self.server), &mut self.client);
    }

    pub fn to_server(&mut self) {
        deliver(flight(&mut self.client), &mut self.server);
    }
}
