//! The C functions that quiche's own C API lacks.
//!
//! This crate is linked as one shared library. quiche's `quiche_*` symbols come out of it unchanged, the
//! functions below come beside them. Each is declared in `include/quiche_h3_extra.h`, which documents it.

mod log_file;
mod preferred_address;
mod tls;

use std::ffi::c_void;
use std::slice;
use std::time::Duration;

use quiche::{h3, Config, Connection, EcnState};

const OK: i32 = 0;
/// `QUICHE_H3_ERR_DONE`, `_STREAM_BLOCKED` and `_SETTINGS_ERROR` of quiche.h.
const DONE: i64 = -1;
const STREAM_BLOCKED: i64 = -13;
const SETTINGS_ERROR: i32 = -14;

/// # Safety
/// `config` came from `quiche_config_new()` and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_set_initial_rtt(config: *mut Config, ms: u64) {
    (*config).set_initial_rtt(Duration::from_millis(ms));
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_revalidate_pmtu(conn: *mut Connection) {
    (*conn).revalidate_pmtu();
}

/// # Safety
/// `config` came from `quiche_h3_config_new()` and is not in use elsewhere during the call; `pairs` points to
/// `2 * n` readable values, or `n` is 0.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_set_additional_settings(
    config: *mut h3::Config,
    pairs: *const u64,
    n: usize,
) -> i32 {
    // A slice may not start at NULL, not even an empty one.
    let values = match n {
        0 => &[],
        _ => slice::from_raw_parts(pairs, 2 * n),
    };
    let settings = values.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();

    match (*config).set_additional_settings(settings) {
        Ok(()) => OK,
        Err(_) => SETTINGS_ERROR,
    }
}

/// # Safety
/// `event` came from `quiche_h3_conn_poll()` and was not freed.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_event_reset_code(event: *const h3::Event) -> u64 {
    match *event {
        h3::Event::Reset(code) => code,
        _ => u64::MAX,
    }
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_update_key(conn: *mut Connection) -> bool {
    (*conn).initiate_key_update().is_ok()
}

/// # Safety
/// `config` came from `quiche_config_new()` and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_enable_ecn(config: *mut Config, enabled: bool) {
    (*config).enable_ecn(enabled);
}

/// # Safety
/// `config` came from `quiche_config_new()` and is not in use elsewhere during the call; `versions` points to `n`
/// readable values, of which there is at least one.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_set_versions(config: *mut Config, versions: *const u32, n: usize) -> bool {
    (*config).set_versions(slice::from_raw_parts(versions, n)).is_ok()
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_version(conn: *const Connection) -> u32 {
    (*conn).version()
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_set_received_ecn(conn: *mut Connection, codepoint: u8) {
    (*conn).set_received_ecn(codepoint);
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call; `ce` is writable or NULL.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_ecn(conn: *const Connection, ce: *mut u64) -> i32 {
    if !ce.is_null() {
        *ce = (*conn).ecn_ce_count();
    }
    match (*conn).ecn_state() {
        EcnState::Off => 0,
        EcnState::Marking => 1,
        EcnState::Failed => 2,
    }
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_peer_disables_migration(conn: *const Connection) -> bool {
    (*conn)
        .peer_transport_params()
        .is_some_and(|params| params.disable_active_migration)
}

/// # Safety
/// `config` came from `quiche_config_new()` and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_enable_reset_stream_at(config: *mut Config, enabled: bool) -> i32 {
    (*config).enable_reset_stream_at(enabled);
    OK
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_reset_stream_at_negotiated(conn: *const Connection) -> bool {
    (*conn).is_reset_stream_at_negotiated()
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_stream_reset_at(
    conn: *mut Connection,
    stream_id: u64,
    error: u64,
    reliable_size: u64,
) -> bool {
    (*conn).stream_reset_at(stream_id, error, reliable_size).is_ok()
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call; `read` and `received` point to writable values.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_stream_offsets(
    conn: *const Connection,
    stream_id: u64,
    read: *mut u64,
    received: *mut u64,
) -> bool {
    let offsets = (*conn).stream_offsets(stream_id);
    if let Some(offsets) = offsets {
        (*read, *received) = offsets;
    }
    offsets.is_some()
}

/// # Safety
/// `h3` and `conn` came from quiche, belong together and are not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_stream_discard(
    h3: *mut h3::Connection,
    conn: *const Connection,
    stream_id: u64,
) {
    (*h3).stream_discard(&*conn, stream_id);
}

/// # Safety
/// `config` came from `quiche_h3_config_new()` and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_claim_streams(config: *mut h3::Config, enabled: bool) -> i32 {
    (*config).claim_streams(enabled);
    OK
}

/// # Safety
/// `h3` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_next_claimed_stream(h3: *mut h3::Connection) -> i64 {
    (*h3).next_claimed_stream().map_or(DONE, |stream_id| stream_id as i64)
}

/// # Safety
/// `h3` and `conn` came from quiche, belong together and are not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_open_claimed_stream(
    h3: *mut h3::Connection,
    conn: *mut Connection,
    bidi: bool,
) -> i64 {
    let opened = (*h3).open_claimed_stream(&mut *conn, bidi);
    opened.map_or(STREAM_BLOCKED, |stream_id| stream_id as i64)
}

/// # Safety
/// `h3` came from quiche and is not in use elsewhere during the call; `ids` has room for `n` values, of which there
/// is at least one.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_incomplete_requests(
    h3: *const h3::Connection,
    ids: *mut u64,
    n: usize,
) -> usize {
    let room = slice::from_raw_parts_mut(ids, n);
    let found = (*h3).incomplete_requests().zip(room.iter_mut());
    found.map(|(id, slot)| *slot = id).count()
}

/// # Safety
/// `h3` and `conn` came from quiche, belong together and are not in use elsewhere during the call; `write` has
/// written as many bytes as it returns.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_send_body_with(
    h3: *mut h3::Connection,
    conn: *mut Connection,
    stream_id: u64,
    n: usize,
    write: extern "C" fn(room: *mut u8, n: usize, argp: *mut c_void) -> usize,
    argp: *mut c_void,
) -> isize {
    let sent = (*h3).send_body_with(&mut *conn, stream_id, n, |room| {
        write(room.as_mut_ptr().cast(), room.len(), argp)
    });
    sent.map_or_else(h3::Error::to_c, |n| n as isize)
}

/// # Safety
/// `config` came from `quiche_h3_config_new()` and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_set_idle_frame_rate(config: *mut h3::Config, n: u64) {
    (*config).set_idle_frame_rate(n);
}

/// # Safety
/// `h3` came from quiche and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_idle_frames_spent(h3: *const h3::Connection) -> bool {
    (*h3).idle_frames_spent()
}

/// # Safety
/// `config` came from `quiche_config_new()` and is not in use elsewhere during the call.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_set_max_send_window(config: *mut Config, n: usize) {
    (*config).set_max_send_window(n);
}
