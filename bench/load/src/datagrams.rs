//! HTTP/3 datagrams (RFC 9297) that the server sends back, alone or with requests between them.
//!
//! They belong to a `POST /datagrams` whose body stays open while they are sent.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::Request;
use tokio::sync::oneshot;
use tokio::task::{spawn_local, JoinHandle};

use crate::{accepted, hello, Connection, Failure, Sender, Shared, Work};

const PAYLOAD: usize = 1000;
/// A datagram that has not come back after this time is counted as lost.
const LOST_AFTER: Duration = Duration::from_millis(250);
/// Where datagrams and requests are mixed, so many datagrams follow each request.
const PER_REQUEST: usize = 4;

/// Who waits for which datagram: one each worker.
type Waiting = Rc<RefCell<Vec<(u32, Option<oneshot::Sender<()>>)>>>;

struct Worker {
    quic: quinn::Connection,
    number: u32,
    sequence: u32,
    quarter_stream_id: u64,
    waiting: Waiting,
    tally: Shared,
}

impl Worker {
    /// Sends one datagram and waits for it to come back.
    async fn echo(&mut self) -> Result<(), Failure> {
        self.sequence += 1;
        let mut payload = Vec::with_capacity(8 + PAYLOAD);
        payload.extend_from_slice(&(self.quarter_stream_id | 3 << 62).to_be_bytes()); // a varint of eight bytes
        payload.extend_from_slice(&self.number.to_be_bytes());
        payload.extend_from_slice(&self.sequence.to_be_bytes());
        payload.resize(8 + PAYLOAD, self.sequence as u8);
        let (there, back) = oneshot::channel();
        self.waiting.borrow_mut()[self.number as usize] = (self.sequence, Some(there));
        self.quic.send_datagram(Bytes::from(payload))?;
        let came = tokio::time::timeout(LOST_AFTER, back).await.is_ok();
        let mut tally = self.tally.borrow_mut();
        tally.datagrams += came as u64;
        tally.lost += !came as u64;
        Ok(())
    }

    async fn work(mut self, mut http: Option<Sender>, work: Rc<Work>, end: Instant) -> Result<(), Failure> {
        while Instant::now() < end {
            let start = Instant::now();
            if let Some(http) = &mut http {
                hello(http, &work).await?;
                self.tally.borrow_mut().requests += 1;
                self.tally.borrow_mut().latencies.push(start.elapsed().as_nanos() as u64);
                for _ in 0..PER_REQUEST {
                    self.echo().await?;
                }
            } else {
                self.echo().await?;
                self.tally.borrow_mut().latencies.push(start.elapsed().as_nanos() as u64);
            }
        }
        Ok(())
    }
}

/// Hands what comes in to whoever waits for it.
async fn receive(quic: quinn::Connection, waiting: Waiting) -> Result<(), Failure> {
    loop {
        let mut payload = quic.read_datagram().await?;
        payload.advance(payload.first().map_or(0, |byte| 1 << (byte >> 6)).min(payload.len()));
        if payload.len() != PAYLOAD || payload[8..].iter().any(|&byte| byte != payload[7]) {
            return Err("a datagram came back changed".into());
        }
        let number = u32::from_be_bytes(payload[..4].try_into()?);
        let sequence = u32::from_be_bytes(payload[4..8].try_into()?);
        let mut waiting = waiting.borrow_mut();
        let slot = waiting.get_mut(number as usize).ok_or("a datagram of nobody came back")?;
        if slot.0 == sequence {
            slot.1.take().map(|waiter| waiter.send(()));
        }
    }
}

/// Starts `streams` workers, each with one datagram in flight, and what they need.
pub async fn spawn(
    connection: &Connection,
    work: Rc<Work>,
    streams: usize,
    requests: bool,
    end: Instant,
    tally: Shared,
) -> Result<Vec<JoinHandle<Result<(), Failure>>>, Failure> {
    let mut http = connection.http.clone();
    let mut session = http.send_request(Request::post(format!("{}/datagrams", work.url)).body(())?).await?;
    accepted(&mut session).await?;
    let quarter_stream_id = session.id().into_inner() / 4;
    let waiting: Waiting = Rc::new(RefCell::new((0..streams).map(|_| (0, None)).collect()));
    let receiver = spawn_local(receive(connection.quic.clone(), waiting.clone()));
    let workers: Vec<_> = (0..streams as u32)
        .map(|number| Worker {
            quic: connection.quic.clone(),
            number,
            sequence: 0,
            quarter_stream_id,
            waiting: waiting.clone(),
            tally: tally.clone(),
        })
        .map(|worker| spawn_local(worker.work(requests.then(|| connection.http.clone()), work.clone(), end)))
        .collect();
    // One task for all: when they are done nobody receives any more, and the session ends.
    Ok(vec![spawn_local(async move {
        for worker in workers {
            if receiver.is_finished() {
                break;
            }
            worker.await??;
        }
        if receiver.is_finished() {
            return receiver.await?;
        }
        receiver.abort();
        session.finish().await?;
        Ok(())
    })])
}
