//! A UDP socket that receives and sends trains of packets: recvmmsg with UDP_GRO, sendmsg with UDP_SEGMENT.

use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

const BATCH: usize = 16;
const SLOT: usize = 65_536;
const CONTROL: usize = 64;

pub struct Udp {
    socket: UdpSocket,
    pub local: SocketAddr,
    slots: Vec<u8>,
    names: [libc::sockaddr_in; BATCH],
    controls: [[u64; CONTROL / 8]; BATCH],
}

fn set(fd: RawFd, level: i32, name: i32, value: i32) -> Result<()> {
    let value: *const i32 = &value;
    match unsafe { libc::setsockopt(fd, level, name, value.cast(), size_of::<i32>() as u32) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn to_c(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address else { unreachable!("the socket is IPv4") };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn from_c(name: &libc::sockaddr_in) -> SocketAddr {
    (Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)), u16::from_be(name.sin_port)).into()
}

impl Udp {
    pub fn bind() -> Result<Udp> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let fd = socket.as_raw_fd();
        set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 4 << 20)?;
        set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 4 << 20)?;
        set(fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        let local = socket.local_addr()?;
        Ok(unsafe {
            Udp { socket, local, slots: vec![0; BATCH * SLOT], names: zeroed(), controls: zeroed() }
        })
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Gives every packet of one batch to `take`. False when there was less than a whole batch.
    pub fn receive(&mut self, mut take: impl FnMut(&mut [u8], SocketAddr)) -> Result<bool> {
        let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for i in 0..BATCH {
            vectors[i].iov_base = self.slots[i * SLOT..].as_mut_ptr().cast();
            vectors[i].iov_len = SLOT;
            let header = &mut messages[i].msg_hdr;
            header.msg_name = (&mut self.names[i] as *mut libc::sockaddr_in).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            header.msg_iov = &mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[i].as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
        }
        let count = unsafe {
            libc::recvmmsg(self.fd(), messages.as_mut_ptr(), BATCH as u32, 0, std::ptr::null_mut())
        };
        if count < 0 {
            let error = Error::last_os_error();
            return if error.kind() == ErrorKind::WouldBlock { Ok(false) } else { Err(error) };
        }
        for (i, message) in messages[..count as usize].iter().enumerate() {
            let length = message.msg_len as usize;
            let segment = segment_size(&message.msg_hdr).unwrap_or(length).max(1);
            let peer = from_c(&self.names[i]);
            for packet in self.slots[i * SLOT..i * SLOT + length].chunks_mut(segment) {
                take(packet, peer);
            }
        }
        Ok(count as usize == BATCH)
    }

    /// Sends a train of packets of `segment` bytes, the last perhaps shorter. False when the kernel takes none.
    pub fn send(&self, train: &[u8], segment: usize, to: SocketAddr) -> Result<bool> {
        let mut name = to_c(to);
        let mut vector = libc::iovec { iov_base: train.as_ptr() as *mut _, iov_len: train.len() };
        let mut control = [0u64; CONTROL / 8];
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = (&mut name as *mut libc::sockaddr_in).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        header.msg_iov = &mut vector;
        header.msg_iovlen = 1;
        if train.len() > segment {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
            unsafe {
                let first = libc::CMSG_FIRSTHDR(&header);
                (*first).cmsg_level = libc::SOL_UDP;
                (*first).cmsg_type = libc::UDP_SEGMENT;
                (*first).cmsg_len = libc::CMSG_LEN(2) as _;
                libc::CMSG_DATA(first).cast::<u16>().write_unaligned(segment as u16);
                header.msg_controllen = libc::CMSG_SPACE(2) as _;
            }
        }
        if unsafe { libc::sendmsg(self.fd(), &header, 0) } >= 0 {
            return Ok(true);
        }
        let error = Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN) | Some(libc::ENOBUFS) => Ok(false),
            _ => Err(error),
        }
    }
}

/// The size of each packet of a received train.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            if (*control).cmsg_level == libc::SOL_UDP && (*control).cmsg_type == libc::UDP_GRO {
                return Some(libc::CMSG_DATA(control).cast::<i32>().read_unaligned() as usize);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}
