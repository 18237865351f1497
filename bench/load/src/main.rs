//! The load client: one thread, one kind of work, every byte checked.
//!
//! `bench-load URL CERTIFICATE kind=requests [connections= streams= duration= size= idle=]`
//!
//! It connects and warms up, prints `ready`, waits for a line, works, prints one line of JSON, and keeps its
//! connections until its standard input ends: the runner reads the server's CPU time and memory in between.
//! Whatever is not as it should be ends the program with exit 1 and one line that says what it was.

mod body;
mod datagrams;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::Request;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{pem::PemObject, CertificateDer};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::{spawn_local, JoinHandle, LocalSet};

pub type Failure = Box<dyn std::error::Error>;
pub type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;
pub type Stream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

const HELLO: &[u8] = b"Hello, HTTP/3!";
/// The size of our packets when nobody is asked to find a larger one, as the servers send them too.
const PACKET: u16 = 1350;
const WINDOW: u32 = 16 << 20;

/// What the command line asks for.
pub struct Work {
    address: SocketAddr,
    pub url: String,
    kind: String,
    connections: usize,
    streams: usize,
    duration: Duration,
    pub size: u64,
    /// Connections that are open besides, and do nothing.
    idle: usize,
}

/// What was done, shared by all tasks.
#[derive(Default)]
pub struct Tally {
    pub requests: u64,
    pub bytes: u64,
    pub datagrams: u64,
    pub lost: u64,
    pub handshakes: u64,
    /// Nanoseconds of each request, or of each datagram where there are no requests.
    pub latencies: Vec<u64>,
}

pub type Shared = Rc<RefCell<Tally>>;

pub struct Connection {
    pub quic: quinn::Connection,
    pub http: Sender,
}

fn parse() -> Result<(Work, String), Failure> {
    let mut words = std::env::args().skip(1);
    let url = words.next().ok_or("no URL")?;
    let certificate = words.next().ok_or("no certificate")?;
    let mut work = Work {
        address: url.strip_prefix("https://").ok_or("not an https URL")?.parse()?,
        url,
        kind: "requests".into(),
        connections: 1,
        streams: 1,
        duration: Duration::from_secs(1),
        size: 16 << 20,
        idle: 0,
    };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: not name=value"))?;
        match name {
            "kind" => work.kind = value.into(),
            "connections" => work.connections = value.parse()?,
            "streams" => work.streams = value.parse()?,
            "duration" => work.duration = Duration::from_secs_f64(value.parse()?),
            "size" => work.size = value.parse()?,
            "idle" => work.idle = value.parse()?,
            _ => return Err(format!("{name}: no such option").into()),
        }
    }
    Ok((work, certificate))
}

/// One UDP socket for all connections, with buffers that lose nothing.
fn endpoint(certificate: &str) -> Result<quinn::Endpoint, Failure> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_send_buffer_size(4 << 20)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).map_err(|e| format!("{certificate}: {e:?}"))?)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls.resumption = rustls::client::Resumption::disabled(); // every handshake is a whole one

    let mut transport = quinn::TransportConfig::default();
    transport
        .initial_mtu(PACKET)
        .mtu_discovery_config(None)
        .stream_receive_window((WINDOW / 2).into())
        .receive_window(WINDOW.into())
        .max_idle_timeout(Some(quinn::IdleTimeout::try_from(Duration::from_secs(60))?));
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint = quinn::Endpoint::new(Default::default(), None, socket.into(), runtime)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

async fn connect(endpoint: &quinn::Endpoint, work: &Work) -> Result<Connection, Failure> {
    let quic = endpoint.connect(work.address, "localhost")?.await?;
    let (mut driver, http) = h3::client::builder()
        .enable_datagram(true)
        .build::<_, _, Bytes>(h3_quinn::Connection::new(quic.clone()))
        .await?;
    spawn_local(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    Ok(Connection { quic, http })
}

/// Waits for the response's status, which must be 200.
pub async fn accepted(stream: &mut Stream) -> Result<(), Failure> {
    let status = stream.recv_response().await?.status();
    if status != 200 {
        return Err(format!("status {status}").into());
    }
    Ok(())
}

/// Reads a small body, which must be the one expected.
async fn expect(stream: &mut Stream, expected: &[u8]) -> Result<(), Failure> {
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await? {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    if body != expected {
        return Err(format!("the body is {:?}", String::from_utf8_lossy(&body)).into());
    }
    Ok(())
}

pub async fn hello(http: &mut Sender, work: &Work) -> Result<(), Failure> {
    let mut stream = http.send_request(Request::get(format!("{}/hello", work.url)).body(())?).await?;
    stream.finish().await?;
    accepted(&mut stream).await?;
    expect(&mut stream, HELLO).await
}

async fn download(http: &mut Sender, work: &Work, size: u64) -> Result<(), Failure> {
    let request = Request::get(format!("{}/bytes/{size}", work.url)).body(())?;
    let mut stream = http.send_request(request).await?;
    stream.finish().await?;
    accepted(&mut stream).await?;
    let mut checker = body::Checker::default();
    while let Some(mut data) = stream.recv_data().await? {
        while data.has_remaining() {
            let chunk = data.chunk();
            checker.check(chunk)?;
            let length = chunk.len();
            data.advance(length);
        }
    }
    checker.end(size)
}

async fn upload(http: &mut Sender, work: &Work, size: u64) -> Result<(), Failure> {
    let mut stream = http.send_request(Request::post(format!("{}/upload", work.url)).body(())?).await?;
    for chunk in body::chunks(size) {
        stream.send_data(chunk).await?;
    }
    stream.finish().await?;
    accepted(&mut stream).await?;
    expect(&mut stream, size.to_string().as_bytes()).await
}

/// One stream's share of the work, until `end`.
async fn stream(mut http: Sender, work: Rc<Work>, end: Instant, size: u64, tally: Shared) -> Result<(), Failure> {
    while Instant::now() < end {
        let start = Instant::now();
        match work.kind.as_str() {
            "requests" => hello(&mut http, &work).await?,
            "download" => download(&mut http, &work, size).await?,
            "upload" => upload(&mut http, &work, size).await?,
            other => return Err(format!("{other}: no such kind").into()),
        }
        let mut tally = tally.borrow_mut();
        tally.requests += 1;
        tally.bytes += if work.kind == "requests" { 0 } else { size };
        tally.latencies.push(start.elapsed().as_nanos() as u64);
    }
    Ok(())
}

/// Connections one after another, each with one request.
async fn handshakes(endpoint: quinn::Endpoint, work: Rc<Work>, end: Instant, tally: Shared) -> Result<(), Failure> {
    while Instant::now() < end {
        let start = Instant::now();
        let mut connection = connect(&endpoint, &work).await?;
        hello(&mut connection.http, &work).await?;
        connection.quic.close(0x100u32.into(), b"");
        let mut tally = tally.borrow_mut();
        tally.handshakes += 1;
        tally.latencies.push(start.elapsed().as_nanos() as u64);
    }
    Ok(())
}

/// Does the work for a while on all connections and streams.
async fn run(
    endpoint: &quinn::Endpoint,
    work: &Rc<Work>,
    connections: &[Connection],
    duration: Duration,
    size: u64,
) -> Result<(Tally, f64), Failure> {
    let tally = Shared::default();
    let start = Instant::now();
    let end = start + duration;
    let mut tasks: Vec<JoinHandle<Result<(), Failure>>> = Vec::new();
    match work.kind.as_str() {
        "idle" => tokio::time::sleep(duration).await,
        "handshakes" => {
            tasks.extend((0..work.connections).map(|_| {
                spawn_local(handshakes(endpoint.clone(), work.clone(), end, tally.clone()))
            }));
        }
        "datagrams" | "mixed" => {
            for connection in connections {
                let requests = work.kind == "mixed";
                tasks.extend(
                    datagrams::spawn(connection, work.clone(), work.streams, requests, end, tally.clone()).await?,
                );
            }
        }
        _ => {
            for connection in connections {
                tasks.extend((0..work.streams).map(|_| {
                    spawn_local(stream(connection.http.clone(), work.clone(), end, size, tally.clone()))
                }));
            }
        }
    }
    for task in tasks {
        task.await??;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok((tally.take(), seconds))
}

fn report(mut tally: Tally, seconds: f64) -> String {
    tally.latencies.sort_unstable();
    let count = tally.latencies.len();
    let percentile = |share: f64| match count {
        0 => 0.0,
        _ => tally.latencies[((count as f64 * share) as usize).min(count - 1)] as f64 / 1000.0,
    };
    format!(
        "{{\"requests\": {}, \"bytes\": {}, \"datagrams\": {}, \"lost\": {}, \"handshakes\": {}, \
         \"seconds\": {seconds:.6}, \"p50\": {:.1}, \"p99\": {:.1}, \"p99.9\": {:.1}}}",
        tally.requests,
        tally.bytes,
        tally.datagrams,
        tally.lost,
        tally.handshakes,
        percentile(0.5),
        percentile(0.99),
        percentile(0.999),
    )
}

async fn work() -> Result<(), Failure> {
    let (work, certificate) = parse()?;
    let work = Rc::new(work);
    let endpoint = endpoint(&certificate)?;
    let active = if work.kind == "handshakes" { 0 } else { work.connections };
    let mut connections = Vec::new();
    for _ in 0..active + work.idle {
        let mut connection = connect(&endpoint, &work).await?;
        hello(&mut connection.http, &work).await?;
        connections.push(connection);
    }
    let warm_up = if work.kind == "idle" { Duration::ZERO } else { work.duration.min(Duration::from_millis(250)) };
    run(&endpoint, &work, &connections[..active], warm_up, work.size.min(1 << 20)).await?;

    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    println!("ready");
    if input.read_line(&mut line).await? == 0 {
        return Ok(());
    }
    let (tally, seconds) = run(&endpoint, &work, &connections[..active], work.duration, work.size).await?;
    println!("{}", report(tally, seconds));
    input.read_line(&mut line).await?;
    for connection in &connections {
        if let Some(reason) = connection.quic.close_reason() {
            return Err(format!("a connection was lost: {reason}").into());
        }
        connection.quic.close(0x100u32.into(), b"");
    }
    endpoint.wait_idle().await;
    Ok(())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = LocalSet::new().block_on(&runtime, work());
    if let Err(failure) = done {
        eprintln!("bench-load: {failure}");
        std::process::exit(1);
    }
    std::process::exit(0); // the thread that reads standard input has nothing more to say
}
