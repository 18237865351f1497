package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// connection is the key of a request's connection in its context.
type connection struct{}

func routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "Hello, HTTP/3!")
	})
	mux.HandleFunc("GET /bytes/{size}", func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.ParseInt(r.PathValue("size"), 10, 64)
		if err != nil || size < 0 {
			http.Error(w, "size is no number", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.Copy(w, &pattern{size: size})
	})
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		n, sum, err := digest(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprintf(w, `{"bytes": %d, "sha256": "%s"}`, n, sum)
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		if _, err := io.Copy(w, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		for name, values := range r.Trailer {
			w.Header()[http.TrailerPrefix+name] = values
		}
	})
	mux.HandleFunc("GET /trailers", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Trailer")
		_, _ = io.WriteString(w, "body before trailers")
		w.Header().Set("X-Trailer", "after the body")
	})
	return mux
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
	config := &tls.Config{Certificates: []tls.Certificate{certificate}}
	if o.clientCA != "" {
		pem, err := os.ReadFile(o.clientCA)
		if err != nil {
			return err
		}
		config.ClientCAs = x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(pem)
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	transport := &quic.Transport{Conn: socket, VerifySourceAddress: func(net.Addr) bool { return o.retry }}
	if o.resetKey != "" {
		key := quic.StatelessResetKey(sha256.Sum256([]byte(o.resetKey)))
		transport.StatelessResetKey = &key
	}
	listener, err := transport.ListenEarly(
		http3.ConfigureTLSConfig(config), &quic.Config{Allow0RTT: true, MaxIncomingStreams: o.maxStreams})
	if err != nil {
		return err
	}
	mux := routes()
	server := &http3.Server{
		Handler: mux,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			return context.WithValue(ctx, connection{}, c)
		},
	}
	rest(mux, func() *http3.Server { return server })
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
		close(ended)
	}()
	port := socket.LocalAddr().(*net.UDPAddr).Port
	if err := printJSON(os.Stdout, map[string]any{"port": port}); err != nil {
		return err
	}
	if err := server.ServeListener(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-ended // after a GOAWAY requests go on
	return nil
}
