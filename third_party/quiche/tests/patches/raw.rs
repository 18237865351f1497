//! Packets of a client that says what quiche never would: any first byte, any frames, correctly encrypted
//! (RFC 9001 section 5, with AEAD_AES_128_GCM, which both sides choose). For what `Connection` will not send.

use std::ffi::c_void;
use std::io::{Result, Write};
use std::sync::{Arc, Mutex};

use quiche::{accept, connect, Connection, ConnectionId, Error, RecvInfo};

use crate::pair::{config, Pair, CLIENT, SERVER};

// BoringSSL, which quiche brings along.
extern "C" {
    fn EVP_sha256() -> *const c_void;
    fn HKDF_extract(
        out: *mut u8, out_len: *mut usize, digest: *const c_void, secret: *const u8, secret_len: usize,
        salt: *const u8, salt_len: usize,
    ) -> i32;
    fn HKDF_expand(
        out: *mut u8, out_len: usize, digest: *const c_void, prk: *const u8, prk_len: usize, info: *const u8,
        info_len: usize,
    ) -> i32;
    fn EVP_aead_aes_128_gcm() -> *const c_void;
    fn EVP_AEAD_CTX_new(aead: *const c_void, key: *const u8, key_len: usize, tag_len: usize) -> *mut c_void;
    fn EVP_AEAD_CTX_free(context: *mut c_void);
    fn EVP_AEAD_CTX_seal(
        context: *const c_void, out: *mut u8, out_len: *mut usize, max_out_len: usize, nonce: *const u8,
        nonce_len: usize, data: *const u8, data_len: usize, ad: *const u8, ad_len: usize,
    ) -> i32;
    fn AES_set_encrypt_key(key: *const u8, bits: u32, schedule: *mut u32) -> i32;
    fn AES_encrypt(block: *const u8, out: *mut u8, schedule: *const u32);
}

const SERVER_CID: [u8; 16] = [2; 16];

#[derive(Clone, Default)]
struct KeyLog(Arc<Mutex<Vec<u8>>>);

impl Write for KeyLog {
    fn write(&mut self, line: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// HKDF-Expand-Label (RFC 8446 section 7.1) with an empty context.
fn expand<const N: usize>(secret: &[u8], label: &str) -> [u8; N] {
    let label = format!("tls13 {label}");
    let info = [&[0, N as u8, label.len() as u8], label.as_bytes(), &[0]].concat();
    let mut out = [0; N];
    unsafe {
        let digest = EVP_sha256();
        HKDF_expand(out.as_mut_ptr(), N, digest, secret.as_ptr(), secret.len(), info.as_ptr(), info.len());
    }
    out
}

/// The server, and a client of which the tests make each packet themselves.
pub struct RawClient {
    pub server: Connection,
    key: [u8; 16],
    iv: [u8; 12],
    header_key: [u8; 16],
    packet_number: u32,
    is_initial: bool,
}

impl RawClient {
    fn new(server: Connection, secret: &[u8], is_initial: bool) -> RawClient {
        RawClient {
            server,
            key: expand(secret, "quic key"),
            iv: expand(secret, "quic iv"),
            header_key: expand(secret, "quic hp"),
            packet_number: 1000, // more than a real client used before
            is_initial,
        }
    }

    /// The server has not heard of the client yet, which sends Initial packets.
    pub fn before_the_handshake() -> RawClient {
        let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let scid = ConnectionId::from_ref(&SERVER_CID);
        let server = accept(&scid, None, server, client, &mut config()).unwrap();
        let salt = [
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
            0xcc, 0xbb, 0x7f, 0x0a,
        ];
        let (mut secret, mut len) = ([0; 32], 0);
        unsafe {
            let (out, out_len, digest) = (secret.as_mut_ptr(), &mut len, EVP_sha256());
            let (cid, salt_) = (SERVER_CID.as_ptr(), salt.as_ptr());
            HKDF_extract(out, out_len, digest, cid, SERVER_CID.len(), salt_, salt.len());
        }
        RawClient::new(server, &expand::<32>(&secret, "client in"), true)
    }

    /// The handshake is done; the client sends 1-RTT packets.
    pub fn established() -> RawClient {
        let (client, server) = (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let (cid, scid) = (ConnectionId::from_ref(&[1; 16]), ConnectionId::from_ref(&SERVER_CID));
        let mut client_config = config();
        client_config.log_keys();
        let mut pair = Pair {
            client: connect(Some("quic.tech"), &cid, client, server, &mut client_config).unwrap(),
            server: accept(&scid, None, server, client, &mut config()).unwrap(),
        };
        let log = KeyLog::default();
        pair.client.set_keylog(Box::new(log.clone()));
        pair.settle();
        assert!(pair.server.is_established());
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = log.lines().find(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 ")).unwrap();
        let secret = line.rsplit(' ').next().unwrap().as_bytes();
        let secret: Vec<u8> = secret
            .chunks(2)
            .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect();
        RawClient::new(pair.server, &secret, false)
    }

    /// The server receives one packet of these frames.
    pub fn send(&mut self, frames: &[u8]) -> std::result::Result<usize, Error> {
        self.send_with_bits(0, frames)
    }

    /// The same, with `bits` set in the first byte of the header.
    pub fn send_with_bits(&mut self, bits: u8, frames: &[u8]) -> std::result::Result<usize, Error> {
        let packet = self.seal(bits, frames);
        self.deliver(packet)
    }

    /// The same, with `bits` of the first byte changed on the way.
    pub fn send_tampered(&mut self, bits: u8, frames: &[u8]) -> std::result::Result<usize, Error> {
        let mut packet = self.seal(0, frames);
        packet[0] ^= bits;
        self.deliver(packet)
    }

    fn deliver(&mut self, mut packet: Vec<u8>) -> std::result::Result<usize, Error> {
        let info = RecvInfo { from: CLIENT.parse().unwrap(), to: SERVER.parse().unwrap() };
        self.server.recv(&mut packet, info)
    }

    fn seal(&mut self, bits: u8, frames: &[u8]) -> Vec<u8> {
        let packet_number = self.packet_number.to_be_bytes();
        self.packet_number += 1;
        let mut header = Vec::new();
        if self.is_initial {
            header.extend([0xc3 | bits, 0, 0, 0, 1, 16]);
            header.extend(SERVER_CID);
            header.extend([16].iter().chain(&[1; 16]).chain(&[0])); // the client's ID, no token
            header.extend((0x4000 | (4 + frames.len() + 16) as u16).to_be_bytes());
        } else {
            header.push(0x43 | bits);
            header.extend(SERVER_CID);
        }
        header.extend(packet_number);
        let mut nonce = self.iv;
        nonce[8..].iter_mut().zip(packet_number).for_each(|(byte, number)| *byte ^= number);
        let (mut sealed, mut len) = (vec![0; frames.len() + 16], 0);
        let (mut mask, mut schedule) = ([0; 16], [0; 64]);
        unsafe {
            let context = EVP_AEAD_CTX_new(EVP_aead_aes_128_gcm(), self.key.as_ptr(), 16, 16);
            let (out, max, nonce) = (sealed.as_mut_ptr(), sealed.len(), nonce.as_ptr());
            let (frames_len, frames, ad) = (frames.len(), frames.as_ptr(), header.as_ptr());
            let ok = EVP_AEAD_CTX_seal(
                context, out, &mut len, max, nonce, 12, frames, frames_len, ad, header.len(),
            );
            assert_eq!(ok, 1);
            EVP_AEAD_CTX_free(context);
            AES_set_encrypt_key(self.header_key.as_ptr(), 128, schedule.as_mut_ptr());
            AES_encrypt(sealed.as_ptr(), mask.as_mut_ptr(), schedule.as_ptr());
        }
        header[0] ^= mask[0] & if self.is_initial { 0x0f } else { 0x1f };
        let at = header.len() - 4;
        header[at..].iter_mut().zip(&mask[1..]).for_each(|(byte, mask)| *byte ^= mask);
        header.extend(sealed);
        header
    }
}
