package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/webtransport-go"
)

func closePath(code uint32, reason string) string {
	return fmt.Sprintf("/close?code=%d&reason=%s", code, url.QueryEscape(reason))
}

func tell(what string, value any) { _ = printJSON([]any{what, value}) }

// eachStream uses every stream of the peer, each in a goroutine, to the end of the session.
func eachStream(s *webtransport.Session, use func(*webtransport.Stream)) {
	for {
		stream, err := s.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go use(stream)
	}
}

func eachUniStream(s *webtransport.Session, use func(*webtransport.ReceiveStream)) {
	for {
		stream, err := s.AcceptUniStream(context.Background())
		if err != nil {
			return
		}
		go use(stream)
	}
}

func echo(s *webtransport.Session, _ *http.Request) {
	go func() {
		for {
			datagram, err := s.ReceiveDatagram(s.Context())
			if err != nil {
				return
			}
			_ = s.SendDatagram(datagram)
		}
	}()
	go eachUniStream(s, func(stream *webtransport.ReceiveStream) {
		if back, err := s.OpenUniStreamSync(s.Context()); err == nil {
			_, _ = io.Copy(back, stream)
			_ = back.Close()
		}
	})
	eachStream(s, func(stream *webtransport.Stream) {
		_, _ = io.Copy(stream, stream)
		_ = stream.Close()
	})
}

func push(s *webtransport.Session, _ *http.Request) {
	uni, err := s.OpenUniStreamSync(s.Context())
	if err != nil {
		return
	}
	_, _ = io.WriteString(uni, "from the server")
	_ = uni.Close()
	bidi, err := s.OpenStreamSync(s.Context())
	if err != nil {
		return
	}
	_, _ = io.WriteString(bidi, "from the server")
	_ = bidi.Close()
	answer, _ := io.ReadAll(bidi)
	tell("answer", string(answer))
}

func digestStreams(s *webtransport.Session, _ *http.Request) {
	eachStream(s, func(stream *webtransport.Stream) {
		n, sum, err := digest(stream)
		if err == nil {
			_, _ = fmt.Fprintf(stream, `{"bytes": %d, "sha256": "%s"}`, n, sum)
		}
		_ = stream.Close()
	})
}

func sendPattern(s *webtransport.Session, _ *http.Request) {
	eachStream(s, func(stream *webtransport.Stream) {
		text, _ := io.ReadAll(stream)
		if size, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			_, _ = io.Copy(stream, &pattern{size: size})
		}
		_ = stream.Close()
	})
}

func code(r *http.Request) uint32 {
	n, _ := strconv.ParseUint(r.URL.Query().Get("code"), 10, 32)
	return uint32(n)
}

func closeSession(s *webtransport.Session, r *http.Request) {
	_ = s.CloseWithError(webtransport.SessionErrorCode(code(r)), r.URL.Query().Get("reason"))
}

func wait(s *webtransport.Session, _ *http.Request) {
	_, err := s.AcceptStream(context.Background())
	var closed *webtransport.SessionError
	if errors.As(err, &closed) {
		tell("closed", []any{closed.ErrorCode, closed.Message, closed.Remote})
	} else {
		tell("closed", []any{0, "", true})
	}
}

func reset(s *webtransport.Session, r *http.Request) {
	eachStream(s, func(stream *webtransport.Stream) {
		_, _ = stream.Read(make([]byte, 1))
		stream.CancelWrite(webtransport.StreamErrorCode(code(r)))
	})
}

func stop(s *webtransport.Session, r *http.Request) {
	eachUniStream(s, func(stream *webtransport.ReceiveStream) {
		_, _ = stream.Read(make([]byte, 1))
		stream.CancelRead(webtransport.StreamErrorCode(code(r)))
	})
}

func aborted(s *webtransport.Session, _ *http.Request) {
	told := func(what string, err error) {
		var stream *webtransport.StreamError
		if errors.As(err, &stream) {
			tell(what, stream.ErrorCode)
		} else if err == nil {
			tell("finished", what)
		}
	}
	read := func(stream io.Reader) {
		data := make([]byte, 1024)
		_, err := stream.Read(data)
		for ; err == nil; _, err = stream.Read(data) {
			if begun, err := s.OpenUniStream(); err == nil {
				_, _ = io.WriteString(begun, "begun")
				_ = begun.Close()
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		told("reset", err)
	}
	go eachUniStream(s, func(stream *webtransport.ReceiveStream) { read(stream) })
	eachStream(s, func(stream *webtransport.Stream) {
		go func() {
			var err error
			for err == nil {
				_, err = io.WriteString(stream, "written")
			}
			told("stopped", err)
		}()
		read(stream)
	})
}

func protocols(s *webtransport.Session, _ *http.Request) {
	name := s.SessionState().ApplicationProtocol
	if name == "" {
		name = "none"
	}
	if stream, err := s.OpenUniStreamSync(s.Context()); err == nil {
		_, _ = io.WriteString(stream, name)
		_ = stream.Close()
	}
	<-s.Context().Done()
}

func serve(o *options) error {
	certificate, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", o.address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	server := &webtransport.Server{
		H3: &http3.Server{
			Handler:    mux,
			TLSConfig:  http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}),
			QUICConfig: quicConfig(),
		},
		ApplicationProtocols: []string{"bb", "cc"},
		CheckOrigin:          func(*http.Request) bool { return true },
	}
	webtransport.ConfigureHTTP3Server(server.H3)
	for path, handler := range map[string]func(*webtransport.Session, *http.Request){
		"/echo": echo, "/push": push, "/digest": digestStreams, "/pattern": sendPattern, "/close": closeSession,
		"/wait": wait, "/reset": reset, "/stop": stop, "/aborted": aborted, "/protocols": protocols,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			session, err := server.Upgrade(w, r)
			if err != nil {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			handler(session, r)
		})
	}
	mux.HandleFunc("/reject", func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		w.WriteHeader(status)
	})
	go func() {
		untilStdinEnds()
		_ = server.Close()
	}()
	if err := printJSON(map[string]any{"port": socket.LocalAddr().(*net.UDPAddr).Port}); err != nil {
		return err
	}
	err = server.Serve(socket)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
