//! What TLS needs beyond quiche's C API: of a server certificates by name, tickets whose key changes, 0-RTT that cannot
//! be replayed, and the demand of a client's certificate; of both the choice of cipher suites.
//!
//! All of it is set on the `SSL_CTX` of a `quiche::Config`. The functions are documented in
//! `include/quiche_h3_extra.h`.

use std::collections::{HashMap, HashSet};
use std::ffi::{c_char, c_int, c_long, c_void, CStr};
use std::mem::take;
use std::ptr::{null, null_mut};
use std::slice;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

const OK: c_int = 0;
const FAILED: c_int = -1;

const SSL_TLSEXT_ERR_OK: c_int = 0;
const SSL_VERIFY_PEER: c_int = 1;
const SSL_VERIFY_FAIL_IF_NO_PEER_CERT: c_int = 2;
const NAME_TYPE_HOST: c_int = 0;

type TicketCallback =
    unsafe extern "C" fn(*mut c_void, *mut u8, *mut u8, *mut c_void, *mut c_void, c_int) -> c_int;
type NameCallback = unsafe extern "C" fn(*mut c_void, *mut c_int, *mut c_void) -> c_int;

// BoringSSL. SSL_CTX, SSL, EVP_CIPHER_CTX, HMAC_CTX and their like are opaque here.
extern "C" {
    fn SSL_CTX_get_ex_new_index(
        argl: c_long, argp: *mut c_void, unused: *mut c_void, dup: *mut c_void, free: *mut c_void,
    ) -> c_int;
    fn SSL_CTX_set_ex_data(ctx: *mut c_void, index: c_int, data: *mut c_void) -> c_int;
    fn SSL_CTX_get_ex_data(ctx: *const c_void, index: c_int) -> *mut c_void;
    fn SSL_CTX_set_tlsext_servername_callback(ctx: *mut c_void, callback: NameCallback) -> c_int;
    fn SSL_CTX_set_tlsext_servername_arg(ctx: *mut c_void, arg: *mut c_void) -> c_int;
    fn SSL_CTX_set_tlsext_ticket_key_cb(ctx: *mut c_void, callback: TicketCallback) -> c_int;
    fn SSL_CTX_set_verify(ctx: *mut c_void, mode: c_int, callback: *const c_void);
    fn SSL_CTX_set1_tls13_ciphers(ctx: *mut c_void, ids: *const u16, flags: *const u32, n: usize) -> c_int;
    fn SSL_CTX_set_session_id_context(ctx: *mut c_void, id: *const u8, len: usize) -> c_int;
    fn SSL_get_SSL_CTX(ssl: *const c_void) -> *mut c_void;
    fn SSL_set_SSL_CTX(ssl: *mut c_void, ctx: *mut c_void) -> *mut c_void;
    fn SSL_get_servername(ssl: *const c_void, kind: c_int) -> *const c_char;
    fn SSL_set_early_data_enabled(ssl: *mut c_void, enabled: c_int);
    fn EVP_aes_128_cbc() -> *const c_void;
    fn EVP_sha256() -> *const c_void;
    fn EVP_EncryptInit_ex(
        ctx: *mut c_void, cipher: *const c_void, engine: *const c_void, key: *const u8, iv: *const u8,
    ) -> c_int;
    fn EVP_DecryptInit_ex(
        ctx: *mut c_void, cipher: *const c_void, engine: *const c_void, key: *const u8, iv: *const u8,
    ) -> c_int;
    fn HMAC_Init_ex(
        ctx: *mut c_void, key: *const c_void, len: usize, digest: *const c_void, engine: *const c_void,
    ) -> c_int;
    fn RAND_bytes(out: *mut u8, len: usize) -> c_int;
}

/// Remembers the tickets that have brought early data, for the servers of this process that share a key.
///
/// Two generations of at most `capacity` tickets each: when one is full the older is forgotten, and tickets issued
/// before the older of those that are left began bring no early data any more.
struct Register {
    id: [u8; 8],
    born: Instant,
    capacity: usize,
    seen: [HashSet<[u8; 16]>; 2],
    began: [u32; 2],
}

impl Register {
    fn new(capacity: usize) -> Register {
        let mut id = [0; 8];
        // SAFETY: the buffer has that length.
        unsafe { RAND_bytes(id.as_mut_ptr(), id.len()) };
        Register { id, born: Instant::now(), capacity, seen: Default::default(), began: [0; 2] }
    }

    fn now(&self) -> u32 {
        self.born.elapsed().as_secs() as u32
    }

    /// Whether the ticket, named by its random IV, was never used before.
    fn strike(&mut self, iv: [u8; 16], issued: u32) -> bool {
        if issued < self.began[1] || self.seen.iter().any(|s| s.contains(&iv)) {
            return false;
        }
        if self.seen[0].len() >= self.capacity {
            self.seen[1] = take(&mut self.seen[0]);
            // One second more: tickets of the same second may have been used in what is forgotten.
            self.began = [self.now() + 1, self.began[0]];
        }
        self.seen[0].insert(iv)
    }
}

fn register_of(key: &[u8; 48], capacity: usize) -> Arc<Mutex<Register>> {
    static ALL: OnceLock<Mutex<HashMap<[u8; 48], Weak<Mutex<Register>>>>> = OnceLock::new();

    let mut all = ALL.get_or_init(Default::default).lock().unwrap();
    all.retain(|_, register| register.strong_count() > 0);
    if let Some(register) = all.get(key).and_then(Weak::upgrade) {
        return register;
    }
    let register = Arc::new(Mutex::new(Register::new(capacity)));
    all.insert(*key, Arc::downgrade(&register));
    register
}

/// 48 bytes from outside: a name of 4 (12 are not used), 16 for AES, 16 for HMAC.
struct TicketKey {
    bytes: [u8; 48],
    register: Arc<Mutex<Register>>,
}

impl TicketKey {
    unsafe fn new(key: *const u8, capacity: usize) -> TicketKey {
        let mut bytes = [0; 48];
        bytes.copy_from_slice(slice::from_raw_parts(key, 48));
        TicketKey { bytes, register: register_of(&bytes, capacity) }
    }

    fn name(&self) -> &[u8] {
        &self.bytes[..4]
    }

    unsafe fn start_hmac(&self, hmac: *mut c_void) -> bool {
        HMAC_Init_ex(hmac, self.bytes[32..].as_ptr() as *const c_void, 16, EVP_sha256(), null()) == 1
    }
}

/// What the contexts of one server share. The program keeps it as long as any of their connections.
pub struct Tls {
    names: Vec<(String, *mut c_void)>,
    keys: Vec<TicketKey>,
}

impl Tls {
    /// The context of the exact name, else of the wildcard that covers it (RFC 6125 6.4.3).
    fn context_of(&self, name: &str) -> Option<*mut c_void> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let find = |wanted: &str| self.names.iter().find(|(n, _)| n == wanted).map(|(_, ctx)| *ctx);
        find(&name).or_else(|| find(&wildcard?))
    }
}

fn index() -> c_int {
    static INDEX: OnceLock<c_int> = OnceLock::new();
    // SAFETY: no callbacks are given.
    *INDEX.get_or_init(|| unsafe {
        SSL_CTX_get_ex_new_index(0, null_mut(), null_mut(), null_mut(), null_mut())
    })
}

unsafe extern "C" fn on_name(ssl: *mut c_void, _alert: *mut c_int, arg: *mut c_void) -> c_int {
    let name = SSL_get_servername(ssl, NAME_TYPE_HOST);
    if !name.is_null() {
        let found = CStr::from_ptr(name).to_str().ok().and_then(|n| (*(arg as *const Tls)).context_of(n));
        if let Some(ctx) = found {
            SSL_set_SSL_CTX(ssl, ctx);
        }
    }
    SSL_TLSEXT_ERR_OK
}

/// The ticket's 16 bytes of key name: 4 of the key, 8 of the register, 4 of the time in seconds of the register.
unsafe extern "C" fn on_ticket(
    ssl: *mut c_void, name: *mut u8, iv: *mut u8, cipher: *mut c_void, hmac: *mut c_void, encrypt: c_int,
) -> c_int {
    let tls = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), index()) as *const Tls;
    if tls.is_null() {
        return 0;
    }
    let keys = &(*tls).keys;
    let name = slice::from_raw_parts_mut(name, 16);
    if encrypt == 1 {
        let Some(key) = keys.first() else { return -1 };
        if RAND_bytes(iv, 16) != 1 {
            return -1;
        }
        let Ok(register) = key.register.lock() else { return -1 };
        name[..4].copy_from_slice(key.name());
        name[4..12].copy_from_slice(&register.id);
        name[12..].copy_from_slice(&register.now().to_be_bytes());
        let ready = EVP_EncryptInit_ex(cipher, EVP_aes_128_cbc(), null(), key.bytes[16..].as_ptr(), iv) == 1;
        return if ready && key.start_hmac(hmac) { 1 } else { -1 };
    }
    let Some(at) = keys.iter().position(|k| k.name() == &name[..4]) else { return 0 };
    let key = &keys[at];
    let issued = u32::from_be_bytes([name[12], name[13], name[14], name[15]]);
    let Ok(mut register) = key.register.lock() else { return -1 };
    let mut once = [0; 16];
    once.copy_from_slice(slice::from_raw_parts(iv, 16));
    // A ticket of another process may have been used there: it resumes the session, without early data.
    if register.id != name[4..12] || !register.strike(once, issued) {
        SSL_set_early_data_enabled(ssl, 0);
    }
    let ready = EVP_DecryptInit_ex(cipher, EVP_aes_128_cbc(), null(), key.bytes[16..].as_ptr(), iv) == 1;
    match ready && key.start_hmac(hmac) {
        true => 1 + c_int::from(at > 0), // 2: a ticket of the key before is renewed
        false => -1,
    }
}

#[no_mangle]
pub extern "C" fn quiche_h3_tls_new() -> *mut Tls {
    Box::into_raw(Box::new(Tls { names: Vec::new(), keys: Vec::new() }))
}

/// # Safety
/// `tls` came from `quiche_h3_tls_new()`; no handshake of its configurations goes on any more.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_tls_free(tls: *mut Tls) {
    drop(Box::from_raw(tls));
}

/// # Safety
/// `tls` came from `quiche_h3_tls_new()`, is not in use yet, and `key` points to 48 bytes.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_tls_add_ticket_key(tls: *mut Tls, key: *const u8, capacity: usize) {
    (*tls).keys.push(TicketKey::new(key, capacity));
}

/// # Safety
/// `tls` came from `quiche_h3_tls_new()`, no other thread uses its configurations, and `key` points to 48 bytes.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_tls_rotate_ticket_key(tls: *mut Tls, key: *const u8, capacity: usize) {
    let keys = &mut (*tls).keys;
    keys.insert(0, TicketKey::new(key, capacity));
    keys.truncate(2);
}

/// # Safety
/// `tls` and `config` are not in use elsewhere; `name` ends with NUL; `config` outlives the handshakes of `tls`.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_tls_add_name(
    tls: *mut Tls, name: *const c_char, config: *mut quiche::Config,
) -> c_int {
    let Ok(name) = CStr::from_ptr(name).to_str() else { return FAILED };
    (*tls).names.push((name.to_ascii_lowercase(), (*config).tls_context()));
    OK
}

/// # Safety
/// `tls` outlives the connections of `config`; `context` points to 32 bytes.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_tls_attach(
    tls: *mut Tls, config: *mut quiche::Config, context: *const u8, demand_certificate: bool,
) -> c_int {
    let ctx = (*config).tls_context();
    let mut done = SSL_CTX_set_ex_data(ctx, index(), tls as *mut c_void) == 1
        && SSL_CTX_set_session_id_context(ctx, context, 32) == 1
        && SSL_CTX_set_tlsext_servername_callback(ctx, on_name) == 1
        && SSL_CTX_set_tlsext_servername_arg(ctx, tls as *mut c_void) == 1;
    if !(*tls).keys.is_empty() {
        done = done && SSL_CTX_set_tlsext_ticket_key_cb(ctx, on_ticket) == 1;
    }
    if demand_certificate {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, null());
    }
    if done { OK } else { FAILED }
}

/// # Safety
/// `config` came from `quiche_config_new()` and is not in use elsewhere during the call; `ids` points to `n` readable
/// values.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_config_set_cipher_suites(
    config: *mut quiche::Config, ids: *const u16, n: usize,
) -> c_int {
    if SSL_CTX_set1_tls13_ciphers((*config).tls_context(), ids, null(), n) == 1 { OK } else { FAILED }
}
