//! Each patch's behaviour, seen through quiche's public API. One binary: it is linked with LTO, as the library.

mod discard_streams;
mod pair;
mod send_the_fin;
