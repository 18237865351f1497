package main

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// dialed is a connection whose handshake is done, with a UDP socket of its own.
type dialed struct {
	client *http3.ClientConn
	close  func()
}

// dial opens all connections before the first request, each from a port of its own.
func (o *options) dial(ctx context.Context) ([]dialed, error) {
	target, err := url.Parse(o.url)
	if err != nil {
		return nil, err
	}
	config, err := o.tls()
	if err != nil {
		return nil, err
	}
	if config.ServerName == "" {
		config.ServerName = target.Hostname()
	}
	address, err := net.ResolveUDPAddr("udp", target.Host)
	if err != nil {
		return nil, err
	}
	var all []dialed
	for range o.connections {
		t, err := o.connection()
		if err != nil {
			return nil, err
		}
		socket, err := net.ListenUDP("udp", nil)
		if err != nil {
			return nil, err
		}
		q := &quic.Transport{Conn: socket}
		c, err := q.Dial(ctx, address, http3.ConfigureTLSConfig(config), t.QUICConfig)
		if err != nil {
			return nil, err
		}
		all = append(all, dialed{t.NewClientConn(c), func() {
			_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
			_ = q.Close()
			_ = socket.Close()
		}})
	}
	return all, nil
}

// load is the benchmark's generator: it reports requests, bytes, seconds and its own CPU time.
func load(o *options) error {
	ctx, cancel := o.context()
	defer cancel()
	connections, err := o.dial(ctx)
	if err != nil {
		return err
	}
	count, wait := &tally{}, sync.WaitGroup{}
	start := time.Now()
	end := start.Add(o.duration)
	for _, c := range connections {
		for range o.streams {
			wait.Go(func() {
				for time.Now().Before(end) {
					err := o.fetch(ctx, c.client)
					count.add(err)
					if err != nil {
						return
					}
				}
			})
		}
	}
	wait.Wait()
	seconds := time.Since(start).Seconds()
	for _, c := range connections {
		c.close()
	}
	var used syscall.Rusage
	err = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
	return errors.Join(err, count.report(map[string]any{"seconds": seconds, "cpu_seconds": cpu}))
}
