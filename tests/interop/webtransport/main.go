// webtransport is a WebTransport client and server on webtransport-go: an independent peer for the tests.
//
//	webtransport call [options] URL FUNCTION ARGUMENTS
//
// calls a function of client.go, which does what the function of the same name does in a browser
// (tests/browser/page/features.js), prints its result as a line of JSON, and ends with its standard input.
//
//	webtransport serve [options]
//
// serves the paths of tests/interop/sessions.py. It prints its port as a line of JSON, then a line for each thing it
// tells, and ends with its standard input.
//
// Its client takes no server that cannot do RESET_STREAM_AT, or does not say so.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

type options struct {
	ca, cert, key, address string
	timeout                time.Duration
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: webtransport call|serve [options] ...")
		os.Exit(2)
	}
	o := &options{}
	f := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	f.StringVar(&o.ca, "ca", "", "PEM file of the authorities to trust; none takes any certificate")
	f.StringVar(&o.cert, "cert", "", "PEM file with the server's certificate")
	f.StringVar(&o.key, "key", "", "PEM file with its key")
	f.StringVar(&o.address, "address", "127.0.0.1:0", "address to serve on")
	timeout := f.Float64("timeout", 60, "limit of a call in seconds")
	_ = f.Parse(os.Args[2:])
	o.timeout = time.Duration(*timeout * float64(time.Second))
	var err error
	switch {
	case os.Args[1] == "call" && f.NArg() == 3:
		err = call(o, f.Arg(0), f.Arg(1), f.Arg(2))
	case os.Args[1] == "serve" && f.NArg() == 0:
		err = serve(o)
	default:
		f.Usage()
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "webtransport:", err)
		os.Exit(1)
	}
}

func (o *options) tls() (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: o.ca == "", NextProtos: []string{"h3"}}
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

func quicConfig() *quic.Config {
	return &quic.Config{
		EnableDatagrams:                  true,
		EnableStreamResetPartialDelivery: true,
		MaxIncomingStreams:               1000,
		MaxIncomingUniStreams:            1000,
	}
}

var printing sync.Mutex

func printJSON(value any) error {
	printing.Lock()
	defer printing.Unlock()
	return json.NewEncoder(os.Stdout).Encode(value)
}

func untilStdinEnds() { _, _ = io.Copy(io.Discard, os.Stdin) }
