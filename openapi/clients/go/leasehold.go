// Package leasehold is a client for Leasehold in one file, with the standard library alone: copy it.
//
//	lease, err := leasehold.New().Acquire(ctx, "reports/nightly", leasehold.Options{})
//	if err != nil {
//		return err
//	}
//	failure := write(lease.Context(), lease.FencingToken) // the context ends when the lease is lost
//	return errors.Join(failure, lease.Release())          // an error if the lease was lost during the work
package leasehold

import (
	"bytes"
	"cmp"
	"context"
	random "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

const (
	NoWait   = time.Duration(-1) // for Options.Wait
	forever  = time.Duration(1 << 62)
	patience = 10 * time.Second // for how long a call is repeated at least while no server can serve
	answered = 5 * time.Second  // a healthy server answers sooner, apart from the wait
)

// ErrLost says that the lock may be another client's: stop the work.
var ErrLost, errReleased = errors.New("the lease was lost"), errors.New("the lease was released")

// A server that is reachable accepts a connection within 2 s. It closes one that is idle for 75 s.
var dialer = &net.Dialer{Timeout: 2 * time.Second}
var client = http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, IdleConnTimeout: time.Minute}}

// Refused is a refusal. Status 423: another client holds the lock; see Problem. 503: no server can serve.
type Refused struct {
	Status     int
	Problem    map[string]any
	retryAfter time.Duration
}

func (r *Refused) Error() string {
	return fmt.Sprint(r.Status, " ", r.Problem["type"], ": ", r.Problem["detail"])
}

// Options of an acquisition. The zero value waits without a limit for a lease of 30 s.
type Options struct {
	TTL, Wait   time.Duration
	MaxHold     time.Duration  // then the lease is renewed no more, and counts as lost
	HoldAtLeast time.Duration  // others get the lock no sooner, also after a release
	Fields      map[string]any // what others see: holder, a text; metadata, a map of texts
}

// Locks are the servers of one service, tried in turn.
type Locks struct {
	Servers []string
	Token   string
	current atomic.Uint32
}

// New takes the servers (addresses with commas between them) and the bearer token from the environment.
func New() *Locks {
	servers := cmp.Or(os.Getenv("LEASEHOLD_SERVER"), "http://127.0.0.1:8080")
	return &Locks{Servers: strings.Split(servers, ","), Token: os.Getenv("LEASEHOLD_TOKEN")}
}

// Acquire waits for the lock, and returns a lease that is renewed until it is released.
func (l *Locks) Acquire(ctx context.Context, key string, o Options) (*Lease, error) {
	o.TTL, o.Wait, o.MaxHold = cmp.Or(o.TTL, 30*time.Second), cmp.Or(o.Wait, forever), cmp.Or(o.MaxHold, forever)
	path := "/locks/" + url.PathEscape(key) // the key is one segment: its slashes become %2F
	id := make([]byte, 16)
	_, _ = random.Read(id)
	body := map[string]any{"ttl_ms": o.TTL.Milliseconds(), "hold_at_least_ms": o.HoldAtLeast.Milliseconds()}
	maps.Copy(body, o.Fields)
	begun, patience := time.Now(), max(o.Wait%forever, patience)
	for attempt := 0; ; attempt++ {
		sent := time.Now()
		wait := min(max(o.Wait-time.Since(begun), 0), 20*time.Second) // a longer wait is made of several requests
		body["wait_ms"] = wait.Milliseconds()
		header := http.Header{"Idempotency-Key": {fmt.Sprintf("%x", id)}} // one acquisition, one place in the queue
		// An answer that comes a TTL after the wait is of no use, because its lease is over.
		grant, refused := l.call(ctx, "POST", path, header, body, wait+min(o.TTL, answered))
		if refused == nil {
			return l.hold(ctx, path, grant, sent, o.MaxHold)
		}
		pause := max(pause(attempt), refused.retryAfter)
		if s := refused.Status; s == 423 && time.Since(begun) < o.Wait { // another client has it: ask on
			attempt, patience, pause = -1, max(patience, o.Wait), time.Second/4-time.Since(sent)
		} else if s < 500 && s != 408 && s != 429 || time.Since(begun)+pause >= patience {
			return nil, refused
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// call is one attempt at the server that answered last. After a failure the next attempt goes to the next server.
func (l *Locks) call(ctx context.Context, method, path string, header http.Header, body any, timeout time.Duration) (
	answer map[string]any, refused *Refused) {
	ctx, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	current := l.current.Load()
	data := []byte(nil)
	if body != nil {
		data, _ = json.Marshal(body)
	}
	server := strings.Trim(l.Servers[int(current)%len(l.Servers)], " /")
	request, err := http.NewRequestWithContext(ctx, method, server+path, bytes.NewReader(data))
	if err != nil {
		return nil, &Refused{Status: 400, Problem: map[string]any{"detail": err.Error()}}
	}
	header.Set("Content-Type", "application/json")
	if request.Header = header; l.Token != "" {
		header.Set("Authorization", "Bearer "+l.Token)
	}
	response, err := client.Do(request)
	if err == nil {
		defer response.Body.Close()
		err = json.NewDecoder(response.Body).Decode(&answer) // it fails with the answer of a proxy
		if s := response.StatusCode; s == 204 || s < 300 && err == nil {
			return answer, nil
		} else if s >= 300 {
			refused = &Refused{Status: s, Problem: answer}
			refused.retryAfter, _ = time.ParseDuration(response.Header.Get("Retry-After") + "s")
		}
	}
	if refused == nil {
		refused = &Refused{Status: 503, Problem: map[string]any{"type": "no answer", "detail": fmt.Sprint(err)}}
	}
	if refused.Status >= 500 {
		l.current.CompareAndSwap(current, current+1)
	}
	return nil, refused
}

// Lease is a lock that is held.
type Lease struct {
	FencingToken int64
	ctx          context.Context
	cancel       context.CancelCauseFunc
	call         func(method, suffix string, timeout time.Duration) (map[string]any, *Refused)
	ttl          time.Duration
	ends         time.Time
	until        atomic.Pointer[time.Time]
}

func (l *Locks) hold(ctx context.Context, path string, grant map[string]any, sent time.Time, maxHold time.Duration) (
	*Lease, error) {
	id, _ := grant["lease_id"].(string)
	token, _ := grant["fencing_token"].(float64) // it is below 2^53
	lease := &Lease{FencingToken: int64(token), ttl: ms(grant, "ttl_ms")}
	lease.call = func(method, suffix string, timeout time.Duration) (map[string]any, *Refused) {
		return l.call(context.WithoutCancel(ctx), method, path+suffix, http.Header{"Lease-Id": {id}}, nil, timeout)
	}
	lease.ctx, lease.cancel = context.WithCancelCause(ctx)
	lease.ends = sent.Add(ms(grant, "waited_ms")).Add(maxHold)
	due := lease.extend(grant, sent)
	go lease.renew(due)
	go func() { // a timer does not count suspensions: look at the clock now and then
		for lease.Check() == nil {
			time.Sleep(min(lease.Left(), lease.ttl/20, time.Second/2))
		}
	}()
	return lease, lease.Check()
}

// Context ends when the lease is lost, or released: give it to the work.
func (l *Lease) Context() context.Context { return l.ctx }

// Left is for how long the work can go on without a further renewal.
func (l *Lease) Left() time.Duration { return max(0, min(left(*l.until.Load()), left(l.ends))) }

// Check returns an error if the lock may be another client's soon. Call it before each step of the work.
func (l *Lease) Check() error {
	if left(l.ends) <= 0 {
		l.cancel(fmt.Errorf("%w: it was held for as long as it may be", ErrLost)) // the first cause stays
	} else if l.Left() == 0 {
		l.cancel(fmt.Errorf("%w: it was not renewed in time", ErrLost))
	}
	return context.Cause(l.ctx)
}

// Release frees the lock. Without an answer of a server it is free when the lease is over.
func (l *Lease) Release() error {
	lost := l.Check() // what was done was not protected to its end
	if errors.Is(lost, errReleased) {
		return nil
	}
	l.cancel(errReleased)
	for attempt, begun := 0, time.Now(); ; attempt++ {
		_, refused := l.call("DELETE", "", min(l.ttl/3, answered))
		if refused == nil || refused.Status < 500 || l.Left() == 0 || time.Since(begun) >= patience {
			return lost
		}
		time.Sleep(pause(attempt))
	}
}

func (l *Lease) renew(due time.Time) {
	for l.Check() == nil {
		sent := time.Now()
		if wait := left(due); wait > 0 {
			time.Sleep(min(wait, time.Second/2))
		} else if grant, refused := l.call("PUT", "/lease", min(l.ttl/6, answered)); refused == nil && l.Check() == nil {
			due = l.extend(grant, sent) // an answer that comes too late revives nothing
		} else if due = time.Now().Add(min(l.ttl/20, time.Second)); refused != nil && refused.Status == 409 {
			l.cancel(fmt.Errorf("%w: %w", ErrLost, refused))
		}
	}
}

// extend counts the lease from the sending, and ends it a little before others can have it. It returns when to renew.
func (l *Lease) extend(grant map[string]any, sent time.Time) time.Time {
	granted := sent.Add(ms(grant, "waited_ms"))
	until := granted.Add(ms(grant, "expires_in_ms") - min(l.ttl/10, time.Second))
	l.until.Store(&until)
	return granted.Add(l.ttl / 3)
}

// left is the time until then by the clock that says less: one stops in suspensions, the other may be set back.
func left(then time.Time) time.Duration {
	return min(time.Until(then), then.Round(0).Sub(time.Now().Round(0)))
}

func ms(grant map[string]any, field string) time.Duration {
	number, _ := grant[field].(float64)
	return time.Duration(number) * time.Millisecond
}

// pause doubles up to 2 s. A random part keeps clients apart that fail at the same moment.
func pause(attempt int) time.Duration {
	return time.Duration(float64(min(time.Second/10<<min(attempt, 5), 2*time.Second)) * (0.5 + rand.Float64()/2))
}
