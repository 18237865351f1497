//! patches/0022: a closing connection has an end of what it sends (RFC 9000 section 10.2).

use crate::pair::{deliver, flight, Pair};

/// The server has the client's Finished, but its answers are lost, and the client's probe timeout runs out. The close
/// waits for no Handshake packet, and is all that is left to send.
#[test]
fn of_a_client_whose_finished_is_not_acknowledged() {
    let mut pair = Pair::new();
    pair.to_server();
    pair.to_client();
    pair.to_server();
    assert!(pair.client.is_established() && pair.server.is_established());
    flight(&mut pair.server);
    std::thread::sleep(pair.client.timeout().unwrap());
    pair.client.on_timeout();

    pair.client.close(true, 0x1234, b"done").unwrap();
    let mut packets = Vec::new();
    let mut buf = [0; 1500];
    while let Ok((len, _)) = pair.client.send(&mut buf) {
        packets.push(buf[..len].to_vec());
        assert!(packets.len() < 10, "sends without end");
    }
    deliver(packets, &mut pair.server);
    assert_eq!(pair.server.peer_error().unwrap().error_code, 0x1234);
    assert!(pair.client.is_draining());
}
