package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/webtransport-go"
)

// caller holds what the functions share: where the server is, and how long they may take.
type caller struct {
	url    string
	ctx    context.Context
	dialer *webtransport.Transport
}

type arguments []json.RawMessage

func argument[T any](from arguments, index int) T {
	var value T
	if index >= len(from) || json.Unmarshal(from[index], &value) != nil {
		panic(fmt.Sprintf("argument %d is missing, or of another type", index))
	}
	return value
}

var functions = map[string]func(*caller, arguments) (any, error){
	"datagrams":      datagrams,
	"clientStreams":  clientStreams,
	"serverStreams":  serverStreams,
	"large":          large,
	"echoLarge":      echoLarge,
	"manyStreams":    manyStreams,
	"closedByServer": closedByServer,
	"closeByClient":  closeByClient,
	"leave":          leave,
	"resetByServer":  resetByServer,
	"stopByServer":   stopByServer,
	"abort":          abort,
	"abortUnsent":    abortUnsent,
	"rejected":       rejected,
	"sessions":       sessions,
	"protocol":       protocol,
	"unread":         unread,
}

func call(o *options, url, name, text string) error {
	function, known := functions[name]
	if !known {
		return errors.New(name + " is no function")
	}
	var given arguments
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		return err
	}
	config, err := o.tls()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	dialer := &webtransport.Transport{TLSClientConfig: config, QUICConfig: quicConfig()}
	defer dialer.Close()
	result, err := function(&caller{strings.TrimSuffix(url, "/"), ctx, dialer}, given)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := printJSON(result); err != nil {
		return err
	}
	untilStdinEnds()
	return nil
}

func (c *caller) connect(path string) (*webtransport.Session, error) {
	_, session, err := c.dialer.Dial(c.ctx, c.url+path, nil)
	return session, err
}

// exchange writes a stream to its end and reads the other half.
func exchange(stream *webtransport.Stream, data []byte) ([]byte, error) {
	written := make(chan error, 1)
	go func() {
		_, err := stream.Write(data)
		written <- errors.Join(err, stream.Close())
	}()
	back, err := io.ReadAll(stream)
	return back, errors.Join(err, <-written)
}

func checksum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func datagrams(c *caller, a arguments) (any, error) {
	session, err := c.connect("/echo")
	if err != nil {
		return nil, err
	}
	missing := argument[[]int](a, 0)
	seen := []int{}
	for len(missing) > 0 {
		for _, size := range missing {
			if err := session.SendDatagram(bytes.Repeat([]byte{byte(size)}, size)); err != nil {
				return nil, err
			}
		}
		ctx, cancel := context.WithTimeout(c.ctx, 100*time.Millisecond)
		for len(missing) > 0 {
			datagram, err := session.ReceiveDatagram(ctx)
			if err != nil {
				break
			}
			size := len(datagram)
			if slices.Contains(missing, size) && bytes.Count(datagram, []byte{byte(size)}) == size {
				missing = slices.DeleteFunc(missing, func(n int) bool { return n == size })
				seen = append(seen, size)
			}
		}
		cancel()
		if c.ctx.Err() != nil {
			return nil, fmt.Errorf("no answer to %v", missing)
		}
	}
	slices.Sort(seen)
	return map[string]any{"seen": seen, "most": 1000}, session.CloseWithError(0, "")
}

func clientStreams(c *caller, a arguments) (any, error) {
	session, err := c.connect("/echo")
	if err != nil {
		return nil, err
	}
	text := []byte(argument[string](a, 0))
	bidi, err := session.OpenStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	first, err := exchange(bidi, text)
	if err != nil {
		return nil, err
	}
	uni, err := session.OpenUniStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	_, err = uni.Write(text)
	if err = errors.Join(err, uni.Close()); err != nil {
		return nil, err
	}
	answer, err := session.AcceptUniStream(c.ctx)
	if err != nil {
		return nil, err
	}
	second, err := io.ReadAll(answer)
	return map[string]string{"bidi": string(first), "uni": string(second)}, err
}

func serverStreams(c *caller, a arguments) (any, error) {
	session, err := c.connect("/push")
	if err != nil {
		return nil, err
	}
	uni, err := session.AcceptUniStream(c.ctx)
	if err != nil {
		return nil, err
	}
	first, err := io.ReadAll(uni)
	if err != nil {
		return nil, err
	}
	bidi, err := session.AcceptStream(c.ctx)
	if err != nil {
		return nil, err
	}
	second, err := exchange(bidi, []byte(argument[string](a, 0)))
	return map[string]string{"uni": string(first), "bidi": string(second)}, err
}

func large(c *caller, a arguments) (any, error) {
	down, err := c.connect("/pattern")
	if err != nil {
		return nil, err
	}
	source, err := down.OpenStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	data, err := exchange(source, fmt.Append(nil, argument[int](a, 0)))
	if err != nil {
		return nil, err
	}
	up, err := c.connect("/digest")
	if err != nil {
		return nil, err
	}
	target, err := up.OpenStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	answer, err := exchange(target, data)
	return map[string]any{"bytes": len(data), "sha256": checksum(data), "server": json.RawMessage(answer)}, err
}

func echoLarge(c *caller, a arguments) (any, error) {
	session, err := c.connect("/echo")
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(&pattern{size: argument[int64](a, 0)})
	if err != nil {
		return nil, err
	}
	stream, err := session.OpenStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	back, err := exchange(stream, data)
	return []any{checksum(data), checksum(back), len(back)}, err
}

func manyStreams(c *caller, a arguments) (any, error) {
	session, err := c.connect("/echo")
	if err != nil {
		return nil, err
	}
	count := argument[int](a, 0)
	var expected sync.Map
	var wait sync.WaitGroup
	failed := make(chan error, 3*count)
	results := make(chan [2]int, 2*count)
	for n := range count {
		text := strings.Repeat(fmt.Sprintf("stream %d ", n), 100*(n+1))
		expected.Store(text, true)
		wait.Go(func() {
			stream, err := session.OpenStreamSync(c.ctx)
			if err == nil {
				var back []byte
				if back, err = exchange(stream, []byte(text)); err == nil && string(back) == text {
					results <- [2]int{1, 0}
				}
			}
			failed <- err
		})
		wait.Go(func() {
			stream, err := session.OpenUniStreamSync(c.ctx)
			if err == nil {
				_, err = stream.Write([]byte(text))
				err = errors.Join(err, stream.Close())
			}
			failed <- err
		})
		wait.Go(func() {
			stream, err := session.AcceptUniStream(c.ctx)
			if err == nil {
				var back []byte
				back, err = io.ReadAll(stream)
				if _, there := expected.LoadAndDelete(string(back)); there {
					results <- [2]int{0, 1}
				}
			}
			failed <- err
		})
	}
	wait.Wait()
	close(failed)
	close(results)
	for one := range failed {
		err = errors.Join(err, one)
	}
	sum := [2]int{}
	for one := range results {
		sum[0] += one[0]
		sum[1] += one[1]
	}
	return sum, err
}

func closedByServer(c *caller, a arguments) (any, error) {
	session, err := c.connect(closePath(argument[uint32](a, 0), argument[string](a, 1)))
	if err != nil {
		return nil, err
	}
	_, err = session.AcceptStream(c.ctx)
	var closed *webtransport.SessionError
	if !errors.As(err, &closed) || !closed.Remote {
		return nil, fmt.Errorf("ended with %w", err)
	}
	return []any{closed.ErrorCode, closed.Message}, nil
}

func closeByClient(c *caller, a arguments) (any, error) {
	session, err := c.connect("/wait")
	if err != nil {
		return nil, err
	}
	code, reason := argument[uint32](a, 0), argument[string](a, 1)
	return []any{code, reason}, session.CloseWithError(webtransport.SessionErrorCode(code), reason)
}

// leave closes the whole connection, and no session before.
func leave(c *caller, _ arguments) (any, error) {
	session, err := c.connect("/wait")
	if err == nil {
		err = c.dialer.Close()
	}
	_ = session
	return nil, err
}

func failure(err error) (any, error) {
	var stream *webtransport.StreamError
	if !errors.As(err, &stream) || !stream.Remote {
		return nil, fmt.Errorf("ended with %w", err)
	}
	return map[string]any{"name": "WebTransportError", "source": "stream", "code": stream.ErrorCode}, nil
}

func resetByServer(c *caller, a arguments) (any, error) {
	session, err := c.connect(fmt.Sprintf("/reset?code=%d", argument[uint32](a, 0)))
	if err != nil {
		return nil, err
	}
	stream, err := session.OpenStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	if _, err = stream.Write([]byte("now")); err != nil {
		return nil, err
	}
	_, err = stream.Read(make([]byte, 1))
	return failure(err)
}

func stopByServer(c *caller, a arguments) (any, error) {
	session, err := c.connect(fmt.Sprintf("/stop?code=%d", argument[uint32](a, 0)))
	if err != nil {
		return nil, err
	}
	stream, err := session.OpenUniStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	for err == nil {
		_, err = stream.Write([]byte("now"))
	}
	return failure(err)
}

func abort(c *caller, a arguments) (any, error) {
	session, err := c.connect("/aborted")
	if err != nil {
		return nil, err
	}
	reset, stop := argument[uint32](a, 0), argument[uint32](a, 1)
	uni, err := session.OpenUniStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	bidi, err := session.OpenStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	_, first := uni.Write([]byte("something"))
	_, second := bidi.Write([]byte("something"))
	_, third := bidi.Read(make([]byte, 1))
	for range 2 { // the server has both streams
		_, err := session.AcceptUniStream(c.ctx)
		third = errors.Join(third, err)
	}
	uni.CancelWrite(webtransport.StreamErrorCode(reset))
	bidi.CancelRead(webtransport.StreamErrorCode(stop))
	bidi.CancelWrite(webtransport.StreamErrorCode(reset + 1))
	return nil, errors.Join(first, second, third)
}

func abortUnsent(c *caller, a arguments) (any, error) {
	session, err := c.connect("/aborted")
	if err != nil {
		return nil, err
	}
	uni, err := session.OpenUniStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	uni.CancelWrite(webtransport.StreamErrorCode(argument[uint32](a, 0)))
	after, err := session.OpenUniStreamSync(c.ctx)
	if err != nil {
		return nil, err
	}
	_, err = after.Write([]byte("after"))
	return nil, errors.Join(err, after.Close())
}

func rejected(c *caller, a arguments) (any, error) {
	status := argument[int](a, 0)
	response, _, err := c.dialer.Dial(c.ctx, fmt.Sprintf("%s/reject?status=%d", c.url, status), nil)
	if err == nil || response == nil || response.StatusCode != status {
		return nil, fmt.Errorf("not refused with %d: %w", status, err)
	}
	if _, err = c.connect("/echo"); err != nil {
		return nil, err
	}
	return map[string]any{"name": "WebTransportError", "source": "session", "code": nil}, nil
}

func sessions(c *caller, a arguments) (any, error) {
	count := argument[int](a, 0)
	all := make([]*webtransport.Session, count)
	answers := make([]string, count)
	for n := range count {
		var err error
		if all[n], err = c.connect("/echo"); err != nil {
			return nil, err
		}
	}
	talk := func(session *webtransport.Session, text string) (string, error) {
		stream, err := session.OpenStreamSync(c.ctx)
		if err != nil {
			return "", err
		}
		back, err := exchange(stream, []byte(text))
		return string(back), err
	}
	for n, session := range all {
		var err error
		if answers[n], err = talk(session, fmt.Sprintf("session %d", n)); err != nil {
			return nil, err
		}
	}
	if err := all[0].CloseWithError(1, "the first"); err != nil {
		return nil, err
	}
	still, err := talk(all[count-1], "still here")
	return map[string]any{"answers": answers, "still": still}, err
}

func protocol(c *caller, a arguments) (any, error) {
	c.dialer.ApplicationProtocols = argument[[]string](a, 0)
	session, err := c.connect("/protocols")
	if err != nil {
		return nil, err
	}
	stream, err := session.AcceptUniStream(c.ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := io.ReadAll(stream)
	return []string{session.SessionState().ApplicationProtocol, string(chosen)}, err
}

func unread(c *caller, _ arguments) (any, error) {
	session, err := c.connect("/unread")
	if err != nil {
		return nil, err
	}
	stream, err := session.OpenUniStreamSync(c.ctx)
	sent := 0
	for err == nil {
		var n int
		if err = stream.SetWriteDeadline(time.Now().Add(700 * time.Millisecond)); err == nil {
			n, err = stream.Write(make([]byte, 65536))
		}
		sent += n
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	return sent, nil
}
