# Socket addresses and clocks of the C library, as the core needs them.

from libc.stdint cimport uint16_t, uint64_t
from posix.types cimport time_t

cdef extern from "sys/types.h" nogil:
    ctypedef Py_ssize_t ssize_t

cdef extern from "sys/socket.h" nogil:
    enum:
        AF_INET
        AF_INET6

    ctypedef unsigned int socklen_t

    cdef struct sockaddr:
        unsigned short sa_family

    cdef struct sockaddr_storage:
        unsigned short ss_family

cdef extern from "netinet/in.h" nogil:
    cdef struct in_addr:
        pass

    cdef struct in6_addr:
        pass

    cdef struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr

    cdef struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr
        unsigned int sin6_scope_id

    uint16_t ntohs(uint16_t v)
    uint16_t htons(uint16_t v)

cdef extern from "arpa/inet.h" nogil:
    const char *inet_ntop(int af, const void *src, char *dst, socklen_t size)
    int inet_pton(int af, const char *src, void *dst)

cdef extern from "time.h" nogil:
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec

    int clock_gettime(int clock, timespec *out)
    enum:
        CLOCK_MONOTONIC


cdef inline uint64_t monotonic() noexcept nogil:
    """Nanoseconds."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1_000_000_000 + <uint64_t>t.tv_nsec
