package calls

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"example.com/leasehold"
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

// keep acquires with the client that renews in the background.
func keep(t *testing.T, key string) *leasehold.Lease {
	t.Helper()
	servers := leasehold.Locks{Servers: []string{serverURL}, Token: locks.Token}
	lease, err := servers.Acquire(ctx, key, leasehold.Options{TTL: 3 * time.Second})
	must(t, err)
	return lease
}

func TestLeaseInTheBackgroundOutlivesItsTTL(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := keep(t, c)
	check(t, sleep(lease.Context(), 5*time.Second), "the lease was lost")
	check(t, status(t, c)["fencing_token"] == float64(lease.FencingToken))
	must(t, lease.Release())
	check(t, status(t, c)["held"] == false)
}

func TestLeaseThatWasBrokenEndsTheWork(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := keep(t, c)
	path := "/locks/" + c + "?force=true&fencing_token=" + strconv.FormatInt(lease.FencingToken, 10)
	code, body := call(t, "DELETE", path, os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 204, code, body)
	check(t, !sleep(lease.Context(), 2*time.Second), "the work goes on")
}
