//! patches/0046: `poll()` finds every event, however many readable streams without one come before it.

use crate::h3_server::{H3Server, REQUEST};

#[test]
fn an_event_behind_bodies_that_nobody_reads() {
    let mut server = H3Server::established();
    for n in 0..20 {
        server.receive(4 * n, &[REQUEST, b"\x00\x04data"].concat(), false);
        assert_eq!(server.events(), Ok(vec![(4 * n, "headers"), (4 * n, "data")]));
    }
    assert_eq!(server.events(), Ok(vec![]));
    server.receive(80, REQUEST, true);
    assert_eq!(server.events(), Ok(vec![(80, "headers"), (80, "finished")]));
    server.receive(76, b"", true);
    assert_eq!(server.events(), Ok(vec![]));
    for n in 0..20 {
        assert_eq!(server.body(4 * n), Ok(b"data".to_vec()));
    }
    assert_eq!(server.events(), Ok(vec![(76, "finished")]));
}
