//! patches/0006: received fragments take little more memory than the data in them, and many gaps are refused
//! (RFC 9000 sections 7.5 and 21.7).

use std::ops::Range;

use quiche::{Error, Shutdown};

use crate::memory::held;
use crate::raw::RawClient;

const CRYPTO: u8 = 0x06;
/// With offset and length.
const STREAM: u8 = 0x0e;
const FIN: u8 = 0x01;
const STREAM_FIN: u8 = STREAM | FIN;

/// What the stream carries at an offset.
fn byte(offset: u32) -> u8 {
    (offset ^ offset >> 8).wrapping_mul(31) as u8
}

fn content(range: Range<u32>) -> Vec<u8> {
    range.map(byte).collect()
}

/// A frame of stream 0, or of the CRYPTO stream, that carries `range`.
fn frame(kind: u8, range: Range<u32>) -> Vec<u8> {
    let mut frame = vec![kind];
    if kind != CRYPTO {
        frame.push(0);
    }
    frame.extend((0x8000_0000 | range.start).to_be_bytes());
    frame.extend((0x4000 | range.len() as u16).to_be_bytes());
    frame.extend(content(range));
    frame
}

/// Sends the ranges, many to a packet. Returns what the server said, and the memory that it holds after.
fn send(client: &mut RawClient, kind: u8, ranges: impl Iterator<Item = Range<u32>>) -> Result<isize, Error> {
    let before = held();
    let mut frames = Vec::with_capacity(1500);
    for range in ranges {
        let frame = frame(kind, range);
        if frames.len() + frame.len() > 1300 {
            client.send(&frames)?;
            frames.clear();
        }
        frames.extend(frame);
    }
    client.send(&frames)?;
    drop(frames);
    Ok(held() - before)
}

fn bytes(start: u32, count: u32, stride: usize) -> impl Iterator<Item = Range<u32>> {
    (start..start + count * stride as u32).step_by(stride).map(|offset| offset..offset + 1)
}

fn read(client: &mut RawClient) -> Result<Vec<u8>, Error> {
    let mut data = vec![0; 1 << 20];
    let (len, _) = client.server.stream_recv(0, &mut data)?;
    data.truncate(len);
    Ok(data)
}

fn assert_closed(client: &RawClient, is_app: bool, code: u64) {
    let error = client.server.local_error().expect("the connection goes on");
    assert_eq!((error.is_app, error.error_code), (is_app, code), "{:?}", error.reason);
}

#[test]
fn contiguous_bytes_of_a_stream() {
    let mut client = RawClient::established();
    let memory = send(&mut client, STREAM, bytes(1, 200_000, 1)).unwrap();
    println!("200,000 contiguous fragments of a byte: {memory} bytes held");
    assert!(memory < 2 * 200_000, "{memory} bytes");
    assert_eq!(read(&mut client), Err(Error::Done));
}

#[test]
fn contiguous_bytes_before_the_handshake() {
    let mut client = RawClient::before_the_handshake();
    let memory = send(&mut client, CRYPTO, bytes(1, 60_000, 1)).unwrap();
    println!("60,000 contiguous fragments of a byte in CRYPTO frames: {memory} bytes held");
    assert!(memory < 2 * 60_000, "{memory} bytes");
}

#[test]
fn contiguous_bytes_from_the_end() {
    let mut client = RawClient::established();
    let mut ranges: Vec<_> = bytes(0, 50_000, 1).collect();
    ranges.reverse();
    let last = ranges.split_off(ranges.len() - 1);
    let memory = send(&mut client, STREAM, ranges.into_iter()).unwrap();
    assert!(memory < 2 * 50_000, "{memory} bytes");
    send(&mut client, STREAM, last.into_iter()).unwrap();
    assert_eq!(read(&mut client), Ok(content(0..50_000)));
}

#[test]
fn every_second_byte_of_a_stream() {
    let mut client = RawClient::established();
    let memory = send(&mut client, STREAM, bytes(1, 1000, 2)).unwrap();
    println!("1,000 gaps: {memory} bytes held");
    assert!(memory < 250_000, "{memory} bytes");
    assert_eq!(send(&mut client, STREAM, bytes(3001, 1, 1)), Err(Error::InvalidState));
    assert_closed(&client, true, 0x107); // H3_EXCESSIVE_LOAD
}

#[test]
fn every_second_byte_before_the_handshake() {
    let mut client = RawClient::before_the_handshake();
    let memory = send(&mut client, CRYPTO, bytes(1, 1000, 2)).unwrap();
    println!("1,000 gaps in CRYPTO frames: {memory} bytes held");
    assert!(memory < 250_000, "{memory} bytes");
    assert_eq!(send(&mut client, CRYPTO, bytes(3001, 1, 1)), Err(Error::CryptoBufferExceeded));
    assert_closed(&client, false, 0xd); // CRYPTO_BUFFER_EXCEEDED
}

#[test]
fn fragments_that_overlap_but_for_a_byte() {
    let mut client = RawClient::established();
    let memory = send(&mut client, STREAM, (1..10_000).map(|offset| offset..offset + 1000)).unwrap();
    println!("11,000 bytes in overlapping fragments of 1,000: {memory} bytes held");
    assert!(memory < 3 * 11_000, "{memory} bytes");
}

#[test]
fn gaps_that_were_filled_do_not_count() {
    let mut client = RawClient::established();
    for round in 0..5 {
        let start = round * 1600;
        send(&mut client, STREAM, bytes(start + 1, 800, 2)).unwrap();
        send(&mut client, STREAM, bytes(start, 800, 2)).unwrap();
        assert_eq!(read(&mut client), Ok(content(start..start + 1600)));
    }
}

#[test]
fn gaps_that_were_thrown_away_do_not_count() {
    let mut client = RawClient::established();
    send(&mut client, STREAM, bytes(1, 1000, 2)).unwrap();
    client.server.stream_shutdown(0, Shutdown::Read, 0).unwrap();
    send(&mut client, STREAM, bytes(5001, 1000, 2)).unwrap();
    assert!(client.server.local_error().is_none());
}

#[test]
fn any_order_any_overlap() {
    const LEN: u32 = 30_000;
    for seed in 1..=20u32 {
        let mut random = seed;
        let mut next = move |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        let mut client = RawClient::established();
        let mut received = Vec::new();
        for _ in 0..1500 {
            let longest = [3, 40, 700][next(3) as usize];
            let start = next(LEN - longest);
            send(&mut client, STREAM, [start..start + 1 + next(longest)].into_iter()).unwrap();
            if next(50) == 0 {
                let mut part = vec![0; next(2000) as usize];
                if let Ok((len, _)) = client.server.stream_recv(0, &mut part) {
                    received.extend(&part[..len]);
                }
            }
        }
        send(&mut client, STREAM_FIN, [LEN - 1..LEN].into_iter()).unwrap();
        send(&mut client, STREAM, (0..LEN).step_by(500).map(|start| start..start + 500)).unwrap();
        received.extend(read(&mut client).unwrap());
        assert!(client.server.stream_finished(0));
        assert!(received == content(0..LEN), "seed {seed}");
    }
}
