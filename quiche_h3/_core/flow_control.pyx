"""Flow control of one WebTransport session (draft-ietf-webtrans-http3-16, section 5.6), as both sides count it.

It is on only where both have announced it. Each of the two directions has a limit of bytes on all streams together,
headers of streams left out, and one of streams of each kind, both of them counted from the session's start.
"""

from quiche_h3.capsules import decode_varint, encode_capsule, encode_varint

cdef enum:
    MAX_DATA = 0x190B4D3D
    MAX_STREAMS_BIDI = 0x190B4D3F
    MAX_STREAMS_UNI = 0x190B4D40
    DATA_BLOCKED = 0x190B4D41
    STREAMS_BLOCKED_BIDI = 0x190B4D43
    STREAMS_BLOCKED_UNI = 0x190B4D44


cdef bytes capsule(uint64_t kind, uint64_t value):
    return encode_capsule(kind, encode_varint(value))


cdef class SessionFlow:
    """What each side has sent and may send.

    `ours` and `peers` are what was announced in SETTINGS: (bytes, unidirectional streams, bidirectional streams).
    A peer of the last drafts (`newest`) may not say a limit twice, one of those before may.
    """

    def __init__(self, ours, peers, bint newest=False):
        self.newest = newest
        self.window, self.streams[0], self.streams[1] = ours
        self.granted, self.granted_streams[0], self.granted_streams[1] = ours
        self.limit, self.limit_streams[0], self.limit_streams[1] = peers

    # Receiving

    def take_stream(self, unsigned char bidi):
        """The peer has opened a stream. False: it may not."""
        self.begun[bidi] += 1
        return self.begun[bidi] <= self.granted_streams[bidi]

    def take_data(self, uint64_t n):
        """So many bytes have arrived, read or not. False: the peer may not have sent them."""
        self.received += n
        return self.received <= self.granted

    def consume(self, uint64_t n):
        """So many of them were read."""
        self.consumed += n

    def end_stream(self, unsigned char bidi):
        """A stream of the peer has ended: it may open another one."""
        self.ended[bidi] += 1

    def cut(self, uint64_t unread):
        """A half of the peer's was cut off, with at most `unread` bytes that it has sent and nobody reads."""
        if self.granted > self.consumed:
            self.consumed += min(unread, self.granted - self.consumed)

    def grants(self):
        """The capsules that give the peer more, once that is worth one."""
        cdef bytes out = b""
        cdef uint64_t more = self.consumed + self.window
        cdef int bidi
        if more - self.granted > self.window // 2:
            self.granted = more
            out += capsule(MAX_DATA, more)
        for bidi in range(2):
            more = self.ended[bidi] + self.streams[bidi]
            if more > self.granted_streams[bidi] and more - self.granted_streams[bidi] > self.streams[bidi] // 2:
                self.granted_streams[bidi] = more
                out += capsule(MAX_STREAMS_BIDI if bidi else MAX_STREAMS_UNI, more)
        return out

    # Sending

    cdef uint64_t room(self) noexcept:
        """Bytes that may be sent now."""
        return self.limit - self.sent

    cdef bint may_open(self, unsigned char bidi) noexcept:
        return self.opened[bidi] < self.limit_streams[bidi]

    def take_capsule(self, uint64_t kind, bytes value):
        """A capsule of flow control has come. False: it is malformed, or takes back what was given."""
        cdef uint64_t given, before
        cdef int bidi = kind == MAX_STREAMS_BIDI
        decoded = decode_varint(value)
        if decoded is None or decoded[1] != len(value):
            return False
        given = decoded[0]
        if kind != MAX_DATA and given > <uint64_t>1 << 60:
            return False
        if kind == STREAMS_BLOCKED_BIDI or kind == STREAMS_BLOCKED_UNI:
            return True
        before = self.limit if kind == MAX_DATA else self.limit_streams[bidi]
        if given < before or (given == before and self.newest):
            return False
        if kind == MAX_DATA:
            self.limit = given
        else:
            self.limit_streams[bidi] = given
        return True

    def blocked(self):
        """The capsules that say by which limits we are held up; each limit is told once."""
        cdef bytes out = b""
        if self.sent == self.limit and self.told != self.limit + 1:
            self.told = self.limit + 1
            out += capsule(DATA_BLOCKED, self.limit)
        return out

    def streams_blocked(self, unsigned char bidi):
        """The capsule that says that no more streams may be opened; each limit is told once."""
        cdef int kind = 1 if bidi else 0
        if self.told_streams[kind] == self.limit_streams[kind] + 1:
            return b""
        self.told_streams[kind] = self.limit_streams[kind] + 1
        return capsule(STREAMS_BLOCKED_BIDI if kind else STREAMS_BLOCKED_UNI, self.limit_streams[kind])
