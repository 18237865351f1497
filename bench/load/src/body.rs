//! The content of large bodies: one block repeated. Its length is prime, so that no exchange of aligned pieces
//! goes unnoticed. Every server of the benchmark makes the same bytes.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::Failure;

const LENGTH: usize = 65_521;

pub static BLOCK: LazyLock<Bytes> =
    LazyLock::new(|| (0..LENGTH as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect());

/// The first `size` bytes, in pieces of at most a block.
pub fn chunks(size: u64) -> impl Iterator<Item = Bytes> {
    (0..size).step_by(LENGTH).map(move |at| BLOCK.slice(..LENGTH.min((size - at) as usize)))
}

/// Compares a body with what it should be, piece by piece.
#[derive(Default)]
pub struct Checker {
    seen: u64,
}

impl Checker {
    pub fn check(&mut self, mut data: &[u8]) -> Result<(), Failure> {
        while !data.is_empty() {
            let at = (self.seen % LENGTH as u64) as usize;
            let length = data.len().min(LENGTH - at);
            let (now, later) = data.split_at(length);
            if now != &BLOCK[at..at + length] {
                return Err(format!("wrong bytes after {}", self.seen).into());
            }
            self.seen += length as u64;
            data = later;
        }
        Ok(())
    }

    pub fn end(&self, size: u64) -> Result<(), Failure> {
        if self.seen != size {
            return Err(format!("{} bytes of {size}", self.seen).into());
        }
        Ok(())
    }
}
