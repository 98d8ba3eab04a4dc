// Package plain makes the calls of Leasehold one by one, for the tests of the table. Programs take the client in openapi/clients.
package plain

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	connectTimeout = 2 * time.Second  // a server that is reachable accepts a connection sooner
	answerTimeout  = 5 * time.Second  // a healthy server answers sooner, apart from the wait for a lock
	retryFor       = 10 * time.Second // how long a call is repeated, apart from that wait
	defaultTTL     = 30 * time.Second // of the server
)

var client = &http.Client{Transport: &http.Transport{
	DialContext:     (&net.Dialer{Timeout: connectTimeout}).DialContext,
	IdleConnTimeout: time.Minute, // the server closes idle connections after 75 s
}}

// Locks is a Leasehold server.
type Locks struct {
	URL   string
	Token string // bearer token, if the server wants one
}

// Request is what an acquisition asks for. The server has a default for each field that is left out.
type Request struct {
	TTLMs    int64             `json:"ttl_ms,omitempty"`
	WaitMs   int64             `json:"wait_ms,omitempty"`
	Holder   string            `json:"holder,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// Lease is a lock that was granted. Count on it until Until.
type Lease struct {
	ID           string
	FencingToken int64
	RenewAfter   time.Duration // a third of the TTL

	locks Locks
	path  string
	mutex sync.Mutex
	until time.Time
}

type grant struct {
	LeaseID      string `json:"lease_id"`
	FencingToken int64  `json:"fencing_token"`
	WaitedMs     int64  `json:"waited_ms"`
	ExpiresInMs  int64  `json:"expires_in_ms"`
	RenewAfterMs int64  `json:"renew_after_ms"`
}

// Problem is a refusal. Status 423: another client holds the lock. 409: the lease is lost.
type Problem struct {
	Status      int    `json:"status"`
	Type        string `json:"type"`
	Detail      string `json:"detail"`
	Holder      string `json:"holder"`        // with 423, if the holder gave its name
	ExpiresInMs int64  `json:"expires_in_ms"` // with 423
	Reason      string `json:"reason"`        // with 409
}

func (p *Problem) Error() string { return fmt.Sprintf("%d %s: %s", p.Status, p.Type, p.Detail) }

// Refused returns the refusal if err is one with this status.
func Refused(err error, status int) (*Problem, bool) {
	var problem *Problem
	return problem, errors.As(err, &problem) && problem.Status == status
}

// Acquire waits up to request.WaitMs for the lock.
func (l Locks) Acquire(ctx context.Context, key string, request Request) (*Lease, error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	// Each attempt has the same key. The server answers all of them with the same lease.
	header := http.Header{"Idempotency-Key": {hex.EncodeToString(random)}}
	path := "/locks/" + url.PathEscape(key) // the key is one segment: its slashes become %2F
	ttl, wait := defaultTTL, milliseconds(request.WaitMs)
	if request.TTLMs > 0 {
		ttl = milliseconds(request.TTLMs)
	}
	// An answer that comes a TTL after the wait is of no use, because its lease is over.
	timeout := wait + least(ttl, answerTimeout)
	var granted grant
	sent, err := l.call(ctx, "POST", path, header, request, &granted, timeout, time.Now().Add(wait+retryFor))
	if err != nil {
		return nil, err
	}
	lease := &Lease{
		ID: granted.LeaseID, FencingToken: granted.FencingToken, RenewAfter: milliseconds(granted.RenewAfterMs),
		locks: l, path: path,
	}
	lease.extend(sent, granted)
	if time.Until(lease.Until()) <= 0 {
		return nil, errors.New("the lease was over before the answer came")
	}
	return lease, nil
}

// Until is the end of the lease. Go compares such times on its monotonic clock.
func (l *Lease) Until() time.Time {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.until
}

func (l *Lease) extend(sent time.Time, granted grant) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.until = sent.Add(milliseconds(granted.WaitedMs + granted.ExpiresInMs))
}

// Renew makes the lease last its TTL from now. An attempt takes a third of the TTL, so that another fits.
func (l *Lease) Renew(ctx context.Context) error {
	var granted grant
	sent, err := l.call(ctx, "PUT", l.path+"/lease", &granted, l.Until())
	if err == nil {
		l.extend(sent, granted)
	}
	return err
}

// Release frees the lock. Without an answer the lock is free when the lease is over.
func (l *Lease) Release(ctx context.Context) error {
	until := time.Now().Add(least(time.Until(l.Until()), retryFor))
	_, err := l.call(ctx, "DELETE", l.path, nil, until)
	return err
}

func (l *Lease) call(ctx context.Context, method, path string, result any, until time.Time) (time.Time, error) {
	header := http.Header{"Lease-Id": {l.ID}}
	return l.locks.call(ctx, method, path, header, nil, result, least(l.RenewAfter, answerTimeout), until)
}

// call repeats a call without a clear answer until `until`. It returns the time of sending.
func (l Locks) call(
	ctx context.Context, method, path string, header http.Header, body, result any, timeout time.Duration, until time.Time,
) (time.Time, error) {
	backoff := 100 * time.Millisecond
	for {
		limit := answerTimeout // of the one attempt after the end
		if left := time.Until(until); left > 0 {
			limit = least(timeout, left)
		}
		attempt, end := context.WithTimeout(ctx, limit)
		sent := time.Now()
		retryAfter, err := l.send(attempt, method, path, header, body, result)
		end()
		var problem *Problem
		if err == nil || errors.As(err, &problem) && problem.Status < 500 && problem.Status != 429 {
			return sent, err
		}
		pause := backoff - jitter(backoff/2)
		if pause < retryAfter {
			pause = retryAfter
		}
		if time.Until(until) <= pause || !sleep(ctx, pause) {
			return sent, err
		}
		backoff = least(2*backoff, 2*time.Second)
	}
}

// send is one attempt. It returns how long the server asks to wait before another.
func (l Locks) send(
	ctx context.Context, method, path string, header http.Header, body, result any,
) (time.Duration, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(l.URL, "/")+path, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	request.Header = header.Clone()
	request.Header.Set("Content-Type", "application/json")
	if l.Token != "" {
		request.Header.Set("Authorization", "Bearer "+l.Token)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		problem := &Problem{}
		_ = json.NewDecoder(answer.Body).Decode(problem) // the answer of a proxy has no such body; its status counts
		problem.Status = answer.StatusCode
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return time.Duration(seconds) * time.Second, problem
	}
	if result == nil {
		return 0, nil
	}
	return 0, json.NewDecoder(answer.Body).Decode(result)
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func least(a, b time.Duration) time.Duration {
	if a < b {
		return a
	}
	return b
}

// jitter is a random time below max.
func jitter(max time.Duration) time.Duration {
	var random [8]byte
	_, _ = rand.Read(random[:])
	return time.Duration(binary.BigEndian.Uint64(random[:]) % uint64(max))
}

// sleep returns false if the context ended first.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
