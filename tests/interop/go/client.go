package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// connection is one QUIC connection with a UDP socket of its own: http3.Transport dials on the first request.
func (o *options) connection() (*http3.Transport, error) {
	config, err := o.tls()
	if err != nil {
		return nil, err
	}
	q := &quic.Config{MaxIdleTimeout: o.timeout}
	if o.version2 {
		q.Versions = []quic.Version{quic.Version2}
	}
	if o.window > 0 {
		w := uint64(o.window)
		q.InitialStreamReceiveWindow, q.MaxStreamReceiveWindow = w, w
		q.InitialConnectionReceiveWindow, q.MaxConnectionReceiveWindow = w, w
	}
	return &http3.Transport{TLSClientConfig: config, QUICConfig: q, DisableCompression: true}, nil
}

func (o *options) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), o.timeout)
}

// exchange sends one request on a connection of its own and hands the response to use.
func (o *options) exchange(method string, body io.Reader, use func(*http.Response) error) error {
	t, err := o.connection()
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := o.context()
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, o.url, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.ContentLength = o.size
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return use(res)
}

func get(o *options) error {
	return o.exchange(o.method, nil, func(res *http.Response) error {
		err := printJSON(os.Stderr, map[string]any{"status": res.StatusCode, "proto": res.Proto, "headers": res.Header})
		if err == nil {
			_, err = io.Copy(os.Stdout, res.Body)
		}
		return err
	})
}

func upload(o *options) error {
	return o.exchange(http.MethodPost, &pattern{size: o.size}, func(res *http.Response) error {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		bytes, sum, err := digest(&pattern{size: o.size})
		if err != nil {
			return err
		}
		return printJSON(os.Stdout, map[string]any{
			"status": res.StatusCode, "body": string(body), "bytes": bytes, "sha256": sum,
		})
	})
}

func download(o *options) error {
	return o.exchange(http.MethodGet, nil, func(res *http.Response) error {
		n, sum, err := digest(res.Body)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
		return printJSON(os.Stdout, map[string]any{"status": res.StatusCode, "bytes": n, "sha256": sum})
	})
}

func trailers(o *options) error {
	return o.exchange(http.MethodGet, nil, func(res *http.Response) error {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		return printJSON(os.Stdout, map[string]any{
			"status": res.StatusCode, "headers": res.Header, "body": string(body), "trailers": res.Trailer,
		})
	})
}

// slow holds a download open without reading it: the server may send what -window allows and no more.
func slow(o *options) error {
	return o.exchange(http.MethodGet, nil, func(res *http.Response) error {
		if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
			return err
		}
		if err := printJSON(os.Stdout, map[string]any{"status": res.StatusCode}); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
}

// fetch makes one request and checks the status and the body: with -size a GET's must be the pattern, else -expect.
// A POST sends -size bytes of the pattern.
func (o *options) fetch(ctx context.Context, t http.RoundTripper) error {
	var body io.Reader
	if o.method == http.MethodPost {
		body = &pattern{size: o.size}
	}
	req, err := http.NewRequestWithContext(ctx, o.method, o.url, body)
	if err != nil {
		return err
	}
	if body != nil {
		req.ContentLength = o.size
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	if o.size > 0 && body == nil {
		checker := &patternChecker{}
		if _, err = io.Copy(checker, res.Body); err == nil && checker.offset != o.size {
			err = fmt.Errorf("%d bytes instead of %d", checker.offset, o.size)
		}
		return err
	}
	got, err := io.ReadAll(res.Body)
	if err == nil && string(got) != o.expect {
		err = fmt.Errorf("body %.80q", got)
	}
	return err
}

// tally counts what went well and keeps the first thing that did not.
type tally struct {
	sync.Mutex
	ok, failed int
	first      error
}

func (t *tally) add(err error) {
	t.Lock()
	defer t.Unlock()
	if err == nil {
		t.ok++
		return
	}
	if t.failed++; t.first == nil {
		t.first = err
	}
}

func (t *tally) report(more map[string]any) error {
	line := map[string]any{"ok": t.ok, "failed": t.failed}
	for name, value := range more {
		line[name] = value
	}
	if t.first != nil {
		line["first_error"] = t.first.Error()
	}
	if err := printJSON(os.Stdout, line); err != nil {
		return err
	}
	if t.failed > 0 || t.ok == 0 {
		return errors.Join(fmt.Errorf("%d of %d failed", t.failed, t.ok+t.failed), t.first)
	}
	return nil
}

// many has all its requests in flight together: none starts before every connection is made.
func many(o *options) error {
	ctx, cancel := o.context()
	defer cancel()
	connections, err := o.dial(ctx)
	if err != nil {
		return err
	}
	count, wait := &tally{}, sync.WaitGroup{}
	for i := range o.requests {
		wait.Go(func() { count.add(o.fetch(ctx, connections[i%len(connections)].client)) })
	}
	wait.Wait()
	for _, c := range connections {
		c.close()
	}
	return count.report(map[string]any{"connections": len(connections)})
}

func churn(o *options) error {
	ctx, cancel := o.context()
	defer cancel()
	count, wait := &tally{}, sync.WaitGroup{}
	for worker := range o.connections {
		wait.Go(func() {
			for i := worker; i < o.requests && ctx.Err() == nil; i += o.connections {
				count.add(o.once(ctx))
			}
		})
	}
	wait.Wait()
	return count.report(nil)
}

func (o *options) once(ctx context.Context) error {
	t, err := o.connection()
	if err != nil {
		return err
	}
	return errors.Join(o.fetch(ctx, t), t.Close())
}
