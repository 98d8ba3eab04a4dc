package calls

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"migration/plain"
)

// relay passes bytes between its clients and a server. It gives what a client sends to loses first. If that returns true, the relay
// closes the connection instead of passing the answer on.
func relay(t *testing.T, server string, loses func(sent string) bool) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go relayOne(client, server, loses)
		}
	}()
	return listener.Addr().String()
}

func relayOne(client net.Conn, address string, loses func(sent string) bool) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	var lost atomic.Bool
	go func() {
		defer client.Close()
		buffer := make([]byte, 65536)
		for {
			n, err := server.Read(buffer)
			if err != nil || lost.Load() {
				return
			}
			_, _ = client.Write(buffer[:n])
		}
	}()
	buffer := make([]byte, 65536)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		lost.Store(loses(string(buffer[:n])))
		_, _ = server.Write(buffer[:n])
	}
}

// forgetful is a relay that loses the answer to the first message with this word.
func forgetful(t *testing.T, server, word string) string {
	var done atomic.Bool
	return relay(t, server, func(sent string) bool {
		return strings.Contains(sent, word) && done.CompareAndSwap(false, true)
	})
}

// stalling is Leasehold behind a relay that passes nothing on while the mutex is locked.
func stalling(t *testing.T) (plain.Locks, *sync.RWMutex) {
	var gate sync.RWMutex
	address := relay(t, strings.TrimPrefix(serverURL, "http://"), func(string) bool {
		gate.RLock()
		defer gate.RUnlock()
		return false
	})
	return plain.Locks{URL: "http://" + address, Token: locks.Token}, &gate
}

// sleep returns false if the context ended first.
func sleep(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

func TestLostAnswer(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	password := os.Getenv("REDIS_PASSWORD")

	// The client has the lock, and go-redis tells it that it does not.
	one := redis.NewClient(&redis.Options{Addr: forgetful(t, redisAddr, a), Password: password})
	ok, err := one.SetNX(ctx, a, "mine", ttl).Result()
	must(t, err)
	check(t, !ok && client.Get(ctx, a).Val() == "mine", ok)

	two := redis.NewClient(&redis.Options{Addr: forgetful(t, redisAddr, b), Password: password})
	_, err = redislock.Obtain(ctx, two, b, ttl, nil)
	must(t, err)

	three := plain.Locks{URL: "http://" + forgetful(t, strings.TrimPrefix(serverURL, "http://"), c), Token: locks.Token}
	lease, err := three.Acquire(ctx, c, plain.Request{TTLMs: ttlMs})
	must(t, err)
	check(t, status(t, c)["fencing_token"] == float64(lease.FencingToken))
	must(t, lease.Release(ctx))
}

func TestKeptLeaseOutlivesItsTTL(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := acquire(t, c, plain.Request{TTLMs: 3000})
	kept, stop := lease.Keep(ctx)
	check(t, sleep(kept, 5*time.Second), "the lease was lost")
	check(t, status(t, c)["fencing_token"] == float64(lease.FencingToken))
	stop()
	time.Sleep(3200 * time.Millisecond)
	check(t, status(t, c)["held"] == false, "a renewal came after the stop")
}

func TestKeptLeaseThatWasBrokenEndsTheWork(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := acquire(t, c, plain.Request{TTLMs: 3000})
	kept, stop := lease.Keep(ctx)
	defer stop()
	path := "/locks/" + c + "?force=true&fencing_token=" + strconv.FormatInt(lease.FencingToken, 10)
	code, body := call(t, "DELETE", path, os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 204, code, body)
	check(t, !sleep(kept, 5*time.Second), "the work goes on")
	check(t, time.Now().Before(lease.Until()), "the work ended only with the lease")
}

func TestWorkEndsInTimeWithoutAnswers(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	locks, gate := stalling(t)
	lease, err := locks.Acquire(ctx, c, plain.Request{TTLMs: 3000})
	must(t, err)
	kept, stop := lease.Keep(ctx)
	defer stop()
	gate.Lock()
	defer gate.Unlock()
	check(t, !sleep(kept, 10*time.Second), "the work goes on")
	between(t, time.Since(lease.Until()), -time.Second, time.Second)
}

func TestKeepSurvivesAStallOfTheServer(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	locks, gate := stalling(t)
	lease, err := locks.Acquire(ctx, c, plain.Request{TTLMs: 6000})
	must(t, err)
	kept, stop := lease.Keep(ctx)
	defer stop()
	gate.Lock()
	time.AfterFunc(4300*time.Millisecond, gate.Unlock) // longer than the first attempt
	check(t, sleep(kept, 8*time.Second), "the lease was lost")
	check(t, status(t, c)["fencing_token"] == float64(lease.FencingToken))
}
