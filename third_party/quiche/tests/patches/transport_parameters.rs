//! patches/0003: a server accepts after a Retry, with all that its transport parameters then hold (RFC 9000 7.3).

use quiche::{accept, ConnectionId};

use crate::pair::{config, CLIENT, SERVER};

#[test]
fn accept_after_retry() {
    let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
    let mut config = config();
    config.set_max_idle_timeout(u64::from(u32::MAX));
    config.set_max_recv_udp_payload_size(65527);
    config.set_active_connection_id_limit(8);
    config.set_stateless_reset_token(Some(7));
    config.enable_dgram(true, 10, 10);
    config.set_initial_max_data(1 << 40);
    config.set_initial_max_stream_data_bidi_local(1 << 40);
    config.set_initial_max_stream_data_bidi_remote(1 << 40);
    config.set_initial_max_stream_data_uni(1 << 40);
    let (scid, odcid) = (ConnectionId::from_ref(&[2; 20]), ConnectionId::from_ref(&[3; 20]));
    assert!(accept(&scid, Some(&odcid), server, client, &mut config).is_ok());
}
