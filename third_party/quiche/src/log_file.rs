//! Log files of a connection that say when they cannot be written any more: quiche's own writers drop the error.
//!
//! The functions are documented in `include/quiche_h3_extra.h`.

use std::ffi::{c_char, c_int, CStr, OsStr};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Result, Write};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;

use quiche::Connection;

/// Takes everything, and writes it until that fails for the first time.
struct LogFile {
    file: File,
    given_up: bool,
    failed: *mut bool,
}

impl LogFile {
    fn new(file: File, failed: *mut bool) -> LogFile {
        LogFile { file, given_up: false, failed }
    }
}

// SAFETY: it belongs to a connection, as the flag does; whoever uses the one may use the other.
unsafe impl Send for LogFile {}
unsafe impl Sync for LogFile {}

impl Write for LogFile {
    fn write(&mut self, data: &[u8]) -> Result<usize> {
        if !self.given_up {
            match self.file.write(data) {
                Err(error) if error.kind() != ErrorKind::Interrupted => self.given_up = true,
                result => return result,
            }
            // SAFETY: whoever gave the flag keeps it as long as the connection.
            unsafe { *self.failed = true };
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(()) // a file has no buffer
    }
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call; the texts end with NUL, `title` and
/// `description` are UTF-8; `failed` is valid until `conn` was freed.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_set_qlog(
    conn: *mut Connection, path: *const c_char, title: *const c_char, description: *const c_char,
    failed: *mut bool,
) -> bool {
    let path = OsStr::from_bytes(CStr::from_ptr(path).to_bytes());
    let Ok(file) = OpenOptions::new().write(true).create_new(true).open(path) else { return false };
    let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
    let writer = BufWriter::new(LogFile::new(file, failed));
    (*conn).set_qlog(Box::new(writer), text(title), text(description));
    true
}

/// # Safety
/// `conn` came from quiche and is not in use elsewhere during the call; `fd` is the caller's to give away; `failed`
/// is valid until `conn` was freed.
#[no_mangle]
pub unsafe extern "C" fn quiche_h3_conn_set_keylog(conn: *mut Connection, fd: c_int, failed: *mut bool) {
    (*conn).set_keylog(Box::new(LogFile::new(File::from_raw_fd(fd), failed)));
}
