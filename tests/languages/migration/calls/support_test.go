// Package calls tests the table "Call by call" of ../README.md: each row with go-redis, redislock and Leasehold on one Redis.
package calls

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"migration/plain"
)

const (
	ttl     = 10 * time.Second
	ttlMs   = 10_000
	short   = time.Second
	shortMs = 1000
)

var (
	ctx       = context.Background()
	redisAddr = os.Getenv("REDIS_ADDR")
	serverURL = os.Getenv("LEASEHOLD_SERVER")
	client    = redis.NewClient(&redis.Options{Addr: redisAddr, Password: os.Getenv("REDIS_PASSWORD")})
	locks     = plain.Locks{URL: serverURL, Token: os.Getenv("LEASEHOLD_TOKEN")}
)

// keys returns a key for each of the three, because the first two would lock each other out. Each run has new keys.
func keys(t *testing.T) (string, string, string) {
	name := t.Name() + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	return name + "-setnx", name + "-redislock", name
}

func setNX(t *testing.T, key, value string, ttl time.Duration) bool {
	t.Helper()
	ok, err := client.SetNX(ctx, key, value, ttl).Result()
	must(t, err)
	return ok
}

func obtain(t *testing.T, key string, ttl time.Duration) *redislock.Lock {
	t.Helper()
	lock, err := redislock.Obtain(ctx, client, key, ttl, nil)
	must(t, err)
	return lock
}

func acquire(t *testing.T, key string, request plain.Request) *plain.Lease {
	t.Helper()
	lease, err := locks.Acquire(ctx, key, request)
	must(t, err)
	return lease
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, ok bool, what ...any) {
	t.Helper()
	if !ok {
		t.Fatal(what...)
	}
}

// call sends a request that the client does not send.
func call(t *testing.T, method, path, token string, header http.Header, body string) (int, map[string]any) {
	t.Helper()
	request, err := http.NewRequest(method, serverURL+path, strings.NewReader(body))
	must(t, err)
	request.Header = header.Clone()
	if request.Header == nil {
		request.Header = http.Header{}
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	must(t, err)
	defer answer.Body.Close()
	fields := map[string]any{}
	if answer.StatusCode != 204 {
		must(t, json.NewDecoder(answer.Body).Decode(&fields))
	}
	return answer.StatusCode, fields
}

func status(t *testing.T, key string) map[string]any {
	t.Helper()
	code, fields := call(t, "GET", "/locks/"+key, locks.Token, nil, "")
	check(t, code == 200, code, fields)
	return fields
}

func untilWaiting(t *testing.T, key string, waiters int) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); status(t, key)["waiters"] != float64(waiters); {
		check(t, time.Now().Before(limit), "the waiters are missing:", status(t, key))
		time.Sleep(5 * time.Millisecond)
	}
}

func problem(t *testing.T, err error, status int, name string) *plain.Problem {
	t.Helper()
	problem, ok := plain.Refused(err, status)
	check(t, ok && problem.Type == "urn:leasehold:problem:"+name, err)
	return problem
}

func between(t *testing.T, got, low, high time.Duration) {
	t.Helper()
	check(t, low <= got && got <= high, got, "is not between", low, "and", high)
}
