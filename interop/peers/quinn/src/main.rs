//! An interop endpoint on quinn, both roles: HTTP/0.9 (`hq-interop`), by the interop runner's contract.

use std::env;
use std::error::Error;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, Incoming, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt};
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer};
use rustls::{CipherSuite, KeyLogFile, RootCertStore};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const UNSUPPORTED: u8 = 127;
const ALPN: &[u8] = b"hq-interop";
const SERVER: [&str; 7] = ["handshake", "transfer", "multiconnect", "retry", "resumption", "zerortt", "chacha20"];

fn provider(case: &str) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if case == "chacha20" {
        // quinn protects Initial packets with AES-128 whatever the handshake leads to, and looks for it here.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    }
    Arc::new(provider)
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(VarInt::from_u32(180_000).into()));
    transport.mtu_discovery_config(None); // its probes would count as data that did not go in 0-RTT
    Arc::new(transport)
}

// ---- server ----

async fn answer(mut send: SendStream, mut receive: RecvStream) -> Result<()> {
    let line = String::from_utf8(receive.read_to_end(4096).await?)?;
    let name = line.trim_end().strip_prefix("GET /").ok_or("no request")?;
    let file = Path::new("/www").join(Path::new(name).file_name().ok_or("no file name")?);
    send.write_all(&tokio::fs::read(file).await?).await?;
    send.finish()?;
    Ok(())
}

async fn serve_connection(incoming: Incoming) -> Result<()> {
    let connection = match incoming.accept()?.into_0rtt() {
        Ok((connection, _)) => connection, // what comes in 0-RTT is read at once
        Err(connecting) => connecting.await?,
    };
    while let Ok((send, receive)) = connection.accept_bi().await {
        tokio::spawn(async move {
            if let Err(error) = answer(send, receive).await {
                eprintln!("stream: {error}");
            }
        });
    }
    Ok(())
}

async fn server(case: String) -> Result<()> {
    let chain = CertificateDer::pem_file_iter("/certs/cert.pem")?.collect::<std::result::Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file("/certs/priv.key")?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider(&case))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(KeyLogFile::new());
    tls.max_early_data_size = if case == "zerortt" { u32::MAX } else { 0 };
    tls.ignore_client_order = case == "chacha20";
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = Endpoint::server(config, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443)))?;
    while let Some(incoming) = endpoint.accept().await {
        if case == "retry" && !incoming.remote_address_validated() {
            incoming.retry()?;
            continue;
        }
        tokio::spawn(async move {
            if let Err(error) = serve_connection(incoming).await {
                eprintln!("connection: {error}");
            }
        });
    }
    Ok(())
}

// ---- client ----

struct Url {
    host: String,
    path: String,
}

fn urls() -> Result<Vec<Url>> {
    env::var("REQUESTS")?
        .split_whitespace()
        .map(|text| {
            let (host, path) =
                text.strip_prefix("https://").and_then(|rest| rest.split_once('/')).ok_or("no https URL")?;
            let host = host.strip_suffix(":443").unwrap_or(host);
            Ok(Url { host: host.to_owned(), path: path.to_owned() })
        })
        .collect()
}

async fn request(connection: &Connection, path: &str) -> Result<RecvStream> {
    let (mut send, receive) = connection.open_bi().await?;
    send.write_all(format!("GET /{path}\r\n").as_bytes()).await?;
    send.finish()?;
    Ok(receive)
}

async fn save(mut receive: RecvStream, path: String) -> Result<()> {
    let body = receive.read_to_end(usize::MAX).await?;
    let target: PathBuf = Path::new("/downloads").join(path);
    tokio::fs::write(target, body).await?;
    Ok(())
}

async fn fetch_all(endpoint: &Endpoint, urls: &[Url], case: &str) -> Result<()> {
    let host = &urls[0].host;
    let address = (host.as_str(), 443).to_socket_addrs()?.next().ok_or("no address")?;
    let connecting = endpoint.connect(address, host)?;
    let connection = if case == "zerortt" {
        match connecting.into_0rtt() {
            Ok((connection, _)) => connection,
            Err(connecting) => connecting.await?,
        }
    } else {
        connecting.await?
    };
    if case == "keyupdate" {
        connection.force_key_update();
    }
    let mut saving = Vec::new();
    for url in urls {
        let receive = request(&connection, &url.path).await?;
        saving.push(tokio::spawn(save(receive, url.path.clone())));
    }
    for save in saving {
        save.await??;
    }
    if matches!(case, "resumption" | "zerortt") {
        tokio::time::sleep(Duration::from_millis(200)).await; // for the ticket, of which quinn does not tell
    }
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(())
}

async fn client(case: String) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter("/certs/ca.pem")? {
        roots.add(authority?)?;
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(provider(&case))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.key_log = Arc::new(KeyLogFile::new());
    tls.enable_early_data = case == "zerortt";
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let mut endpoint = Endpoint::client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
    endpoint.set_default_client_config(config);
    let urls = urls()?;
    match case.as_str() {
        "multiconnect" => {
            for url in urls.chunks(1) {
                fetch_all(&endpoint, url, &case).await?;
            }
        }
        "resumption" | "zerortt" => {
            fetch_all(&endpoint, &urls[..1], &case).await?;
            fetch_all(&endpoint, &urls[1..], &case).await?;
        }
        _ => fetch_all(&endpoint, &urls, &case).await?,
    }
    Ok(())
}

// One thread: all requests are written before the first packet is made.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let case = env::var("TESTCASE").unwrap_or_default();
    let serving = env::var("ROLE").is_ok_and(|role| role == "server");
    // A client has to offer ChaCha20 alone, which quinn's TLS refuses: it wants AES-128 for Initial packets.
    let supported = SERVER.contains(&case.as_str()) || (!serving && case == "keyupdate");
    if !supported || (!serving && case == "chacha20") {
        return ExitCode::from(UNSUPPORTED);
    }
    let done = if serving {
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        tokio::select! {
            done = server(case) => done,
            _ = stop.recv() => Ok(()),
        }
    } else {
        client(case).await
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
