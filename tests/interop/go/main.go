// interop is an HTTP/3 client and server on quic-go: an independent peer for the tests and the benchmark.
//
// Every client command takes its options, then a URL, and prints one line of JSON. A transfer that fails, or that
// brings other bytes than it should, exits 1 with the reason on standard error; wrong usage exits 2.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"
)

type options struct {
	url                   string
	insecure              bool
	ca, serverName        string
	timeout, duration     time.Duration
	requests, connections int
	streams               int
	size, window          int64
	expect, method        string
	address, cert, key    string
	clientCA, resetKey    string
	retry, version2       bool
	maxStreams            int64
}

var commands = map[string]struct {
	help string
	run  func(*options) error
}{
	"get":      {"print the body on stdout; status and headers as JSON on stderr", get},
	"many":     {"-n concurrent GETs over -connections connections, each checked against -expect", many},
	"churn":    {"-n connections one after the other (-connections at a time), a GET on each", churn},
	"upload":   {"POST -size bytes of the pattern", upload},
	"download": {"read a body into SHA-256", download},
	"trailers": {"print headers, body and trailers", trailers},
	"slow":     {"read the first byte of a body, then nothing until stdin ends", slow},
	"load":     {"-streams requests at a time on each of -connections connections, for -duration", load},
	"serve":    {"HTTP/3 server on -address; prints its port as JSON, ends with stdin", serve},
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: interop COMMAND [options] [URL]")
	for name, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-9s %s\n", name, c.help)
	}
	os.Exit(2)
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	command, known := commands[os.Args[1]]
	if !known {
		usage()
	}
	o := &options{}
	f := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	f.BoolVar(&o.insecure, "insecure", false, "do not verify the server's certificate")
	f.StringVar(&o.ca, "ca", "", "PEM file of the authorities to trust")
	f.StringVar(&o.serverName, "server-name", "", "name to ask for and verify, when it is not the URL's host")
	timeout := f.Float64("timeout", 60, "limit of the whole command in seconds")
	duration := f.Float64("duration", 2, "how long load goes on, in seconds")
	f.IntVar(&o.requests, "n", 1, "requests or connections to make")
	f.IntVar(&o.connections, "connections", 1, "connections open at a time")
	f.IntVar(&o.streams, "streams", 1, "requests in flight on each connection")
	f.Int64Var(&o.size, "size", 0, "bytes to upload, or that a body of /bytes must have")
	f.Int64Var(&o.window, "window", 0, "fixed receive window of stream and connection in bytes; 0: quic-go's own")
	f.StringVar(&o.expect, "expect", "", "body that every response must have")
	f.StringVar(&o.method, "method", "GET", "method of get, many, churn and load")
	f.StringVar(&o.address, "address", "127.0.0.1:0", "address to serve on")
	f.StringVar(&o.cert, "cert", "", "PEM file with the server's certificate")
	f.StringVar(&o.key, "key", "", "PEM file with its key")
	f.StringVar(&o.clientCA, "client-ca", "", "PEM file of the authorities that must have signed clients' certificates")
	f.StringVar(&o.resetKey, "reset-key", "", "seed of stateless resets, which a server needs that is started again")
	f.BoolVar(&o.retry, "retry", false, "have every client prove its address first")
	f.BoolVar(&o.version2, "quic-v2", false, "speak version 2 of QUIC; a server speaks both")
	f.Int64Var(&o.maxStreams, "max-streams", 0, "requests that a client may have open; 0: quic-go's own")
	_ = f.Parse(os.Args[2:])
	o.timeout = time.Duration(*timeout * float64(time.Second))
	o.duration = time.Duration(*duration * float64(time.Second))
	if o.url = f.Arg(0); (o.url == "") != (os.Args[1] == "serve") || f.NArg() > 1 {
		f.Usage()
		os.Exit(2)
	}
	if err := command.run(o); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func (o *options) tls() (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: o.insecure, ServerName: o.serverName}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New(o.ca + ": holds no certificate")
		}
	}
	return config, nil
}

func printJSON(f *os.File, value any) error { return json.NewEncoder(f).Encode(value) }
