// A server on quic-go: `go-server CERTIFICATE KEY`.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/quic-go/quic-go/http3"
)

const length = 65521

// block is the content of large bodies, repeated.
var block [length]byte

func hello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "Hello, HTTP/3!")
}

func download(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.Atoi(r.PathValue("size"))
	if err != nil {
		http.Error(w, "size is no number", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(size))
	for sent := 0; sent < size && err == nil; sent += length {
		_, err = w.Write(block[:min(length, size-sent)])
	}
}

func upload(w http.ResponseWriter, r *http.Request) {
	size, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, length))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_, _ = fmt.Fprint(w, size)
}

func datagrams(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	stream, err := w.(http3.HTTPStreamer).HTTPStream()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	ctx, cancel := context.WithCancel(r.Context())
	go func() {
		_, _ = io.Copy(io.Discard, stream)
		cancel()
	}()
	for {
		payload, err := stream.ReceiveDatagram(ctx)
		if err != nil {
			break
		}
		_ = stream.SendDatagram(payload)
	}
	_ = stream.Close()
}

func run(certificate, key string) error {
	for i := range block {
		block[i] = byte(uint32(i) * 2654435761 >> 24)
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", hello)
	mux.HandleFunc("GET /bytes/{size}", download)
	mux.HandleFunc("POST /upload", upload)
	mux.HandleFunc("POST /datagrams", datagrams)
	server := &http3.Server{
		Handler:         mux,
		EnableDatagrams: true,
		TLSConfig:       http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}),
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Printf("{\"port\": %d}\n", socket.LocalAddr().(*net.UDPAddr).Port)
	if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go-server CERTIFICATE KEY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
