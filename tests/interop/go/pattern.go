package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/hex"
	"fmt"
	"io"
)

// patternPeriod is prime, so that no swap or repetition of aligned blocks leaves the bytes as they were.
const patternPeriod = 65521

// patternBlock is one period; it is stored twice so that any 64 KiB of the pattern are one slice of it.
var patternBlock = func() []byte {
	once := make([]byte, patternPeriod)
	xof := sha3.NewSHAKE256()
	_, _ = xof.Write([]byte("quiche_h3"))
	_, _ = xof.Read(once)
	return append(once, once...)
}()

// pattern reads as the first size bytes of the repeated block: the content of every large body in these tests.
type pattern struct{ offset, size int64 }

func (p *pattern) Read(b []byte) (int, error) {
	left := p.size - p.offset
	if left <= 0 {
		return 0, io.EOF
	}
	start := p.offset % patternPeriod
	n := copy(b[:min(int64(len(b)), left)], patternBlock[start:start+patternPeriod])
	p.offset += int64(n)
	return n, nil
}

// patternChecker fails on the first byte that is not the pattern's, and counts those that are.
type patternChecker struct{ offset int64 }

func (c *patternChecker) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		start := c.offset % patternPeriod
		n := min(len(b)-done, patternPeriod)
		if !bytes.Equal(b[done:done+n], patternBlock[start:start+int64(n)]) {
			return done, fmt.Errorf("wrong byte in the %d bytes from offset %d", n, c.offset)
		}
		done += n
		c.offset += int64(n)
	}
	return len(b), nil
}

// digest returns the number of bytes of a body and their SHA-256 in hexadecimal.
func digest(r io.Reader) (int64, string, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return n, hex.EncodeToString(h.Sum(nil)), err
}
