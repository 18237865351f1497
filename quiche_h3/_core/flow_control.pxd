from libc.stdint cimport uint64_t


cdef class SessionFlow:
    cdef bint newest                # the peer speaks the last drafts
    cdef uint64_t window            # bytes the peer may be ahead of what was read
    cdef uint64_t streams[2]        # its streams there may be at once, by kind: unidirectional, bidirectional
    cdef uint64_t received          # bytes of its streams that have arrived
    cdef uint64_t consumed          # and that were read
    cdef uint64_t granted           # bytes it was told that it may send
    cdef uint64_t begun[2]          # its streams so far
    cdef uint64_t ended[2]          # of these, how many have ended
    cdef uint64_t granted_streams[2]
    cdef uint64_t sent              # bytes that we have sent
    cdef uint64_t limit             # bytes that we may send
    cdef uint64_t opened[2]         # our streams so far
    cdef uint64_t limit_streams[2]
    cdef uint64_t told              # the limit that we have told we are blocked by; it is said once
    cdef uint64_t told_streams[2]
    cdef uint64_t room(self) noexcept
    cdef bint may_open(self, unsigned char bidi) noexcept
