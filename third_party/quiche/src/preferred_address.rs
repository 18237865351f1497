//! The server's preferred address (RFC 9000 section 9.6), in bytes as a transport parameter has it.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::slice;

use quiche::{Connection, Error, PreferredAddress};

const NONE: i32 = -1;
const NOT_YET: i32 = 0;
const BEGUN: i32 = 1;

unsafe fn bytes<const N: usize>(from: *const u8) -> [u8; N] {
    slice::from_raw_parts(from, N).try_into().expect("as many bytes")
}

unsafe fn port(from: *const u8) -> u16 {
    u16::from_be_bytes(bytes(from))
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call. `v4` points to 6 readable bytes, `v6` to 18, or
/// they are NULL; `cid` points to `cid_len` of them, `token` to 16.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_set_preferred_address(
    conn: *mut Connection,
    v4: *const u8,
    v6: *const u8,
    cid: *const u8,
    cid_len: usize,
    token: *const u8,
) -> bool {
    let preferred = PreferredAddress {
        v4: (!v4.is_null()).then(|| SocketAddrV4::new(bytes::<4>(v4).into(), port(v4.add(4)))),
        v6: (!v6.is_null()).then(|| SocketAddrV6::new(bytes::<16>(v6).into(), port(v6.add(16)), 0, 0)),
        cid: slice::from_raw_parts(cid, cid_len).to_vec().into(),
        reset_token: u128::from_be_bytes(bytes(token)),
    };
    (*conn).set_preferred_address(preferred).is_ok()
}

/// What the server says may not make us send to ourselves, or to many (RFC 9000 section 21.5).
fn allowed(to: SocketAddr, from: SocketAddr) -> bool {
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    let ip = to.ip().to_canonical();
    to.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && ip != IpAddr::from([255; 4])
        && (loopback(from.ip()) || !loopback(ip))
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_probe_preferred_address(conn: *mut Connection) -> i32 {
    let conn = &mut *conn;
    if !conn.is_handshake_confirmed() {
        return NOT_YET;
    }
    let Some((local, peer)) =
        conn.path_stats().find(|path| path.active).map(|path| (path.local_addr, path.peer_addr))
    else {
        return NONE;
    };
    let preferred = conn.preferred_address().and_then(|preferred| {
        if peer.is_ipv4() { preferred.v4.map(SocketAddr::from) } else { preferred.v6.map(SocketAddr::from) }
    });
    match preferred.filter(|to| *to != peer && allowed(*to, peer)) {
        None => NONE,
        Some(to) => match conn.probe_path(local, to) {
            Ok(_) => BEGUN,
            Err(Error::OutOfIdentifiers) => NOT_YET,
            Err(_) => NONE,
        },
    }
}
