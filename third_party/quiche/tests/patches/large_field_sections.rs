//! patches/0027: a field section may be larger than the congestion window.

use quiche::h3::Header;

use crate::h3_server::{H3Server, REQUEST};
use crate::pair::{deliver, flight};

#[test]
fn response_that_fits_no_window() {
    let mut server = H3Server::established();
    server.receive(0, REQUEST, true);
    assert_eq!(server.events(), Ok(vec![(0, "headers"), (0, "finished")]));
    let value = "x".repeat(100_000);
    let response = [Header::new(b":status", b"200"), Header::new(b"large", value.as_bytes())];
    server.h3.send_response(&mut server.pair.server, 0, &response, true).unwrap();
    // No more goes out at once than the window has.
    let first = flight(&mut server.pair.server);
    assert!(first.iter().map(Vec::len).sum::<usize>() < 20_000);
    deliver(first, &mut server.pair.client);
    server.pair.settle();
    let (mut received, mut buf) = (0, vec![0; 200_000]);
    while let Ok((len, _)) = server.pair.client.stream_recv(0, &mut buf) {
        received += len;
        server.pair.settle();
    }
    assert!(received > 60_000); // Huffman coded
    assert!(server.pair.client.stream_finished(0));
}
