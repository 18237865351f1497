//! patches/0032: what is late is not taken for lost again and again, and a reduction in error is undone.

use std::thread::sleep;
use std::time::Duration;

use quiche::PathStats;

use crate::pair::{deliver, flight, Pair};

const WINDOW: usize = 60;

/// A server that sends as much as its congestion window allows.
struct Download(Pair);

impl Download {
    fn new(algorithm: &str) -> Download {
        let mut pair = Pair::established_with(|config| {
            config.set_cc_algorithm_name(algorithm).unwrap();
            config.set_initial_congestion_window_packets(WINDOW);
        });
        pair.server.stream_send(1, b"x", false).unwrap();
        pair.settle();
        Download(pair)
    }

    fn path(&self) -> PathStats {
        self.0.server.path_stats().next().unwrap()
    }

    /// What the window holds, after a round trip that is long beside all that this test does.
    fn window(&mut self) -> Vec<Vec<u8>> {
        // It takes what the window has room for.
        self.0.server.stream_send(1, &[0; 500_000], false).unwrap();
        let packets = flight(&mut self.0.server);
        assert!(packets.len() > WINDOW / 2);
        sleep(Duration::from_millis(200));
        packets
    }

    /// The client gets these, and what it acknowledges arrives.
    fn arrive(&mut self, packets: Vec<Vec<u8>>) {
        deliver(packets, &mut self.0.client);
        self.0.to_server();
    }
}

/// RFC 9438 section 4.9.2: a congestion event is undone, to slow start too, when all that it lost has arrived.
#[test]
fn spurious_congestion_events_are_undone() {
    for algorithm in ["cubic", "reno"] {
        let mut download = Download::new(algorithm);
        let before = download.path().cwnd;
        let mut late = download.window();
        let in_time = late.split_off(8);
        download.arrive(in_time);
        assert!(download.path().lost >= 5 && download.path().cwnd < before, "{algorithm}");
        let last = late.split_off(7);
        download.arrive(late);
        assert!(download.path().cwnd < before, "{algorithm}: one is still missing");
        download.arrive(last);
        assert!(download.path().cwnd >= before, "{algorithm}: {} after {before}", download.path().cwnd);
        // Slow start goes on: what is acknowledged now makes the window as much larger.
        let window = download.window();
        let size: usize = window.iter().map(Vec::len).sum();
        download.arrive(window);
        assert!(download.path().cwnd >= before + size / 2, "{algorithm}: {}", download.path().cwnd);
    }
}

/// RFC 9002 section 6.1.2: once packets were late, those behind them count for nothing, only the time does.
#[test]
fn late_packets_are_not_lost_a_second_time() {
    for algorithm in ["cubic", "reno", "bbr2_gcongestion"] {
        let mut download = Download::new(algorithm);
        let mut late = download.window();
        let in_time = late.split_off(1);
        download.arrive(in_time);
        download.arrive(late);
        let lost = download.path().lost;
        assert!(lost > 0, "{algorithm}: without any sign of reordering three packets are enough");
        let mut late = download.window();
        let in_time = late.split_off(1);
        download.arrive(in_time);
        assert_eq!(download.path().lost, lost, "{algorithm}");
        download.arrive(late);
    }
}
