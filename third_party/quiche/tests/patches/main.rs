//! Each patch's behaviour, seen through quiche's public API. One binary: it is linked with LTO, as the library.

mod claimed_streams;
mod close_ends_sending;
mod discard_streams;
mod early_errors;
mod fragments;
mod frames;
mod h3_server;
mod handshakes;
mod http3_codes;
mod key_update;
mod large_field_sections;
mod make_room_for_paths;
mod memory;
mod pair;
mod qpack_instructions;
mod raw;
mod received_bytes;
mod reordering;
mod report_every_stop;
mod reserved_bits;
mod reset_stream_at;
mod retire_twice;
mod retired_ids;
mod send_the_fin;
mod take_the_fin;
mod transport_parameters;
