"""libev 4 as <ev.h> declares it: types, constants and functions, nothing else.

Callback types are the real ones. A callback runs inside `ev_run` with the GIL held and may not let an exception
through, so it must be declared `noexcept`; Cython refuses any other. The two hooks around the poll run without
the GIL. They and all types stand outside the `nogil` block, which would apply to the callback types too.
"""

cdef extern from "<ev.h>":
    ctypedef double ev_tstamp

    struct ev_loop:
        pass

    # The common head of all watchers. `active` and `pending` are read through the macros below.
    ctypedef struct ev_watcher:
        void* data

    ctypedef struct ev_io:
        void* data
        int fd
        int events          # carries EV__IOFDSET besides EV_READ and EV_WRITE

    ctypedef struct ev_timer:
        void* data
        ev_tstamp repeat

    ctypedef struct ev_async:
        void* data

    ctypedef struct ev_prepare:
        void* data

    ctypedef struct ev_check:
        void* data

    ctypedef struct ev_idle:
        void* data

    ctypedef void (*ev_io_cb)(ev_loop*, ev_io*, int) noexcept
    ctypedef void (*ev_timer_cb)(ev_loop*, ev_timer*, int) noexcept
    ctypedef void (*ev_async_cb)(ev_loop*, ev_async*, int) noexcept
    ctypedef void (*ev_prepare_cb)(ev_loop*, ev_prepare*, int) noexcept
    ctypedef void (*ev_check_cb)(ev_loop*, ev_check*, int) noexcept
    ctypedef void (*ev_idle_cb)(ev_loop*, ev_idle*, int) noexcept
    ctypedef void (*ev_release_cb)(ev_loop*) noexcept nogil

    int EV_READ, EV_WRITE, EV_TIMER, EV_SIGNAL, EV_ASYNC, EV_PREPARE, EV_CHECK, EV_IDLE, EV_ERROR
    unsigned int EVFLAG_AUTO, EVFLAG_NOENV
    unsigned int EVBACKEND_SELECT, EVBACKEND_POLL, EVBACKEND_EPOLL, EVBACKEND_KQUEUE
    unsigned int EVBACKEND_LINUXAIO, EVBACKEND_IOURING
    int EVRUN_NOWAIT, EVRUN_ONCE
    int EVBREAK_CANCEL, EVBREAK_ONE, EVBREAK_ALL

    # Only these two run callbacks, and so need the GIL.
    int ev_run(ev_loop*, int flags)
    void ev_invoke_pending(ev_loop*)

    void ev_set_loop_release_cb(ev_loop*, ev_release_cb release, ev_release_cb acquire)

    void ev_io_init(ev_io*, ev_io_cb, int fd, int events)
    void ev_timer_init(ev_timer*, ev_timer_cb, ev_tstamp after, ev_tstamp repeat)
    void ev_async_init(ev_async*, ev_async_cb)
    void ev_prepare_init(ev_prepare*, ev_prepare_cb)
    void ev_check_init(ev_check*, ev_check_cb)
    void ev_idle_init(ev_idle*, ev_idle_cb)

cdef extern from "<ev.h>" nogil:
    int ev_version_major()
    int ev_version_minor()
    unsigned int ev_supported_backends()
    unsigned int ev_recommended_backends()

    ev_loop* ev_loop_new(unsigned int flags)
    void ev_loop_destroy(ev_loop*)
    void ev_loop_fork(ev_loop*)
    unsigned int ev_backend(ev_loop*)
    ev_tstamp ev_now(ev_loop*)
    void ev_now_update(ev_loop*)
    unsigned int ev_iteration(ev_loop*)
    unsigned int ev_pending_count(ev_loop*)
    void ev_break(ev_loop*, int how)
    void ev_ref(ev_loop*)
    void ev_unref(ev_loop*)
    void ev_verify(ev_loop*)
    void ev_set_userdata(ev_loop*, void*)
    void* ev_userdata(ev_loop*)

    # Macros over the common head: any watcher type is taken.
    bint ev_is_active(void* watcher)
    bint ev_is_pending(void* watcher)
    void ev_feed_event(ev_loop*, void* watcher, int revents)

    # The watcher must be stopped when these change it.
    void ev_io_set(ev_io*, int fd, int events)
    void ev_timer_set(ev_timer*, ev_tstamp after, ev_tstamp repeat)

    void ev_io_start(ev_loop*, ev_io*)
    void ev_io_stop(ev_loop*, ev_io*)
    void ev_timer_start(ev_loop*, ev_timer*)
    void ev_timer_stop(ev_loop*, ev_timer*)
    void ev_timer_again(ev_loop*, ev_timer*)        # with repeat 0 this stops the timer
    ev_tstamp ev_timer_remaining(ev_loop*, ev_timer*)
    void ev_async_start(ev_loop*, ev_async*)
    void ev_async_stop(ev_loop*, ev_async*)
    void ev_async_send(ev_loop*, ev_async*)         # from any thread and from C signal handlers
    void ev_prepare_start(ev_loop*, ev_prepare*)
    void ev_prepare_stop(ev_loop*, ev_prepare*)
    void ev_check_start(ev_loop*, ev_check*)
    void ev_check_stop(ev_loop*, ev_check*)
    void ev_idle_start(ev_loop*, ev_idle*)
    void ev_idle_stop(ev_loop*, ev_idle*)
