from libc.stdint cimport uint64_t
from quiche_h3._core.libc_net cimport sockaddr_storage
from quiche_h3._core.stateless cimport token_bucket

cdef enum verdict:
    ADMIT
    DEMAND_RETRY    # the address is to be proven first
    REFUSE          # the client may be told
    DROP            # nothing is done for the packet

cdef struct admission_counters:
    uint64_t refused
    uint64_t refused_by_address
    uint64_t half_open_dropped
    uint64_t half_open


cdef class Host:
    cdef bytes key
    cdef uint64_t connections
    cdef uint64_t half_open
    cdef token_bucket fresh             # connections begun without a proof of the address
    cdef token_bucket proven            # those begun with one
    cdef uint64_t idle_since


cdef class Admission:
    cdef dict hosts                     # key -> Host: those with connections, and for a while afterwards
    cdef object idle                    # deque of Hosts without connections, the longest first
    cdef admission_counters n
    cdef bint server
    cdef bint retry_always
    cdef bint limit_loopback
    cdef uint64_t max_connections
    cdef uint64_t max_per_address
    cdef uint64_t max_half_open_per_address
    cdef uint64_t retry_threshold
    cdef uint64_t max_unproven
    cdef uint64_t unproven              # connections begun without a proof of the address since the last turn
    cdef double rate

    cdef Host host_of(self, const sockaddr_storage *address, uint64_t now)
    cdef verdict judge(self, Host host, uint64_t connections, bint proven, uint64_t now)
    cdef void began(self, Host host) noexcept
    cdef void opened(self, Host host) noexcept
    cdef void ended(self, Host host, bint was_open, uint64_t now)
