"""HTTP/3 as others speak it: quic-go and aioquic against this library, in both roles."""
