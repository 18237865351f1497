package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// isEarly says whether the handshake is still under way: the request came in 0-RTT.
func isEarly(r *http.Request) bool {
	select {
	case <-r.Context().Value(connection{}).(*quic.Conn).HandshakeComplete():
		return false
	default:
		return true
	}
}

// describe tells what the server was asked, as JSON.
func describe(w http.ResponseWriter, r *http.Request) {
	early := isEarly(r)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	headers := map[string]string{}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	subject := ""
	if len(r.TLS.PeerCertificates) > 0 {
		subject = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "path": r.URL.RequestURI(), "authority": r.Host, "headers": headers, "body": string(body),
		"early": early, "resumed": r.TLS.DidResume, "client": r.RemoteAddr, "subject": subject,
	})
}

// rest adds what a client of a REST service meets.
func rest(mux *http.ServeMux, server func() *http3.Server) {
	mux.HandleFunc("/describe", describe)
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, "status %d", code)
	})
	mux.HandleFunc("/redirect/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.PathValue("n"))
		target := "/describe"
		if n > 1 {
			target = fmt.Sprintf("/redirect/%d", n-1)
		}
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		if code == 0 {
			code = http.StatusFound
		}
		http.Redirect(w, r, target, code)
	})
	mux.HandleFunc("/cookie/set", func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
		http.SetCookie(w, &http.Cookie{Name: "b", Value: "2"})
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/too-early", func(w http.ResponseWriter, r *http.Request) {
		if isEarly(r) {
			w.WriteHeader(http.StatusTooEarly)
			return
		}
		describe(w, r)
	})
	mux.HandleFunc("/interim", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.WriteHeader(http.StatusProcessing)
		_, _ = io.WriteString(w, "after two")
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) { // the body is left unread
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too much")
	})
	mux.HandleFunc("/break/{how}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "the beginning")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body) // until the client has seen it, and says so
		if r.PathValue("how") == "reset" {
			panic(http.ErrAbortHandler)
		}
		code := quic.ApplicationErrorCode(http3.ErrCodeInternalError)
		_ = r.Context().Value(connection{}).(*quic.Conn).CloseWithError(code, "going down")
	})
	mux.HandleFunc("/goaway", func(w http.ResponseWriter, r *http.Request) {
		go func() { _ = server().Shutdown(context.Background()) }()
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "the last one")
	})
}
