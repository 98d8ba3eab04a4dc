// The table "call by call" of the README: each row with go-redis, with redislock and with Leasehold, side by side, on one Redis.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
)

const (
	redisAddr = "redis-sentinel-master.redis-sentinel.svc.cluster.local:6379"
	serverURL = "http://leasehold.redis-sentinel.svc:8080"
	ttl       = 10 * time.Second
	ttlMs     = 10_000
	short     = 200 * time.Millisecond
	shortMs   = 200
)

var (
	ctx    = context.Background()
	client = redis.NewClient(&redis.Options{Addr: redisAddr, Password: os.Getenv("REDIS_PASSWORD")})
	locks  = Locks{URL: serverURL, Token: os.Getenv("LOCK_TOKEN")}
)

// keys are one for each of the three, as otherwise the first two would lock each other out; new ones for each run.
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

func acquire(t *testing.T, key string, request Request) *Lease {
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

// call is a request that the README's client does not make.
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
		check(t, time.Now().Before(limit), "nobody waits:", status(t, key))
		time.Sleep(5 * time.Millisecond)
	}
}

func problem(t *testing.T, err error, status int, name string) *Problem {
	t.Helper()
	problem, ok := refused(err, status)
	check(t, ok && problem.Type == "urn:leasehold:problem:"+name, err)
	return problem
}

func between(t *testing.T, got, low, high time.Duration) {
	t.Helper()
	check(t, low <= got && got <= high, got, "is not between", low, "and", high)
}

func TestFreeLockIsGranted(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	obtain(t, b, ttl)
	lease := acquire(t, c, Request{TTLMs: ttlMs})
	between(t, time.Until(lease.Until), ttl-time.Second, ttl)
}

func TestHeldLockIsRefused(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	check(t, !setNX(t, a, "value", ttl))
	obtain(t, b, ttl)
	_, err := redislock.Obtain(ctx, client, b, ttl, nil)
	check(t, errors.Is(err, redislock.ErrNotObtained), err)
	acquire(t, c, Request{TTLMs: ttlMs, Holder: "me"})
	_, err = locks.Acquire(ctx, c, Request{})
	held := problem(t, err, 423, "lock-held")
	check(t, held.Holder == "me", held)
	between(t, time.Duration(held.ExpiresInMs)*time.Millisecond, ttl-time.Second, ttl)
}

func TestWhoWaitsHasItOnceItIsFree(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	lock := obtain(t, b, ttl)
	lease := acquire(t, c, Request{TTLMs: ttlMs})
	time.AfterFunc(300*time.Millisecond, func() {
		client.Del(ctx, a)
		_ = lock.Release(ctx)
		_ = lease.Release(ctx)
	})
	begun := time.Now()
	var all sync.WaitGroup
	waiter := func(wait func() error) {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := wait(); err != nil {
				t.Error(err)
			}
			if waited := time.Since(begun); waited < 200*time.Millisecond || waited > 3*time.Second {
				t.Error("it waited", waited)
			}
		}()
	}
	waiter(func() error {
		for {
			if ok, err := client.SetNX(ctx, a, "value", ttl).Result(); ok || err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	waiter(func() error {
		retry := redislock.LinearBackoff(10 * time.Millisecond)
		_, err := redislock.Obtain(ctx, client, b, ttl, &redislock.Options{RetryStrategy: retry})
		return err
	})
	waiter(func() error {
		next, err := locks.Acquire(ctx, c, Request{TTLMs: ttlMs, WaitMs: 5000})
		if err == nil && time.Until(next.Until) < ttl-time.Second {
			return fmt.Errorf("the wait was taken off the lease: %v are left", time.Until(next.Until))
		}
		return err
	})
	all.Wait()
}

func TestWaitingInVain(t *testing.T) {
	_, b, c := keys(t)
	obtain(t, b, ttl)
	retry := redislock.LimitRetry(redislock.LinearBackoff(10*time.Millisecond), 20)
	_, err := redislock.Obtain(ctx, client, b, ttl, &redislock.Options{RetryStrategy: retry})
	check(t, errors.Is(err, redislock.ErrNotObtained), err)
	acquire(t, c, Request{TTLMs: ttlMs})
	begun := time.Now()
	_, err = locks.Acquire(ctx, c, Request{WaitMs: 200})
	problem(t, err, 423, "wait-timeout")
	between(t, time.Since(begun), 200*time.Millisecond, 2*time.Second)
}

func TestWaitersAreServedInTheirOrder(t *testing.T) {
	_, _, c := keys(t)
	lease := acquire(t, c, Request{TTLMs: ttlMs})
	order := make(chan int, 8)
	for waiter := 0; waiter < cap(order); waiter++ {
		waiter := waiter
		go func() {
			next, err := locks.Acquire(ctx, c, Request{TTLMs: ttlMs, WaitMs: 20_000})
			if err != nil {
				t.Error(err)
				order <- -1
				return
			}
			order <- waiter
			_ = next.Release(ctx)
		}()
		untilWaiting(t, c, waiter+1)
	}
	must(t, lease.Release(ctx))
	for waiter := 0; waiter < cap(order); waiter++ {
		got := <-order
		check(t, got == waiter, got, "came before", waiter)
	}
}

func TestSecretsStaySecretAndMetadataIsShown(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "nightly", ttl))
	value, err := client.Get(ctx, a).Result()
	must(t, err)
	check(t, value == "nightly", value)

	lock, err := redislock.Obtain(ctx, client, b, ttl, &redislock.Options{Metadata: "nightly"})
	must(t, err)
	value, err = client.Get(ctx, b).Result()
	must(t, err)
	check(t, lock.Metadata() == "nightly" && value == lock.Token()+"nightly", value)

	lease := acquire(t, c, Request{TTLMs: ttlMs, Holder: "me", Metadata: map[string]string{"run": "nightly"}})
	shown := status(t, c)
	check(t, shown["holder"] == "me", shown)
	check(t, shown["metadata"].(map[string]any)["run"] == "nightly", shown)
	check(t, lease.ID != "" && !strings.Contains(fmt.Sprint(shown), lease.ID), shown)
}

func TestRenewal(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", time.Second))
	check(t, client.Expire(ctx, a, ttl).Val())
	lock := obtain(t, b, time.Second)
	must(t, lock.Refresh(ctx, ttl, nil))
	lease := acquire(t, c, Request{TTLMs: ttlMs})
	time.Sleep(1100 * time.Millisecond)
	renewed, err := lease.Renew(ctx)
	must(t, err)
	between(t, time.Until(renewed.Until), ttl-time.Second, ttl)
	between(t, renewed.Until.Sub(lease.Until), time.Second, 3*time.Second)
	between(t, client.PTTL(ctx, a).Val(), ttl-4*time.Second, ttl)
	left, err := lock.TTL(ctx)
	must(t, err)
	between(t, left, ttl-4*time.Second, ttl)
	shown := status(t, c)
	check(t, shown["held"] == true, shown)
	between(t, time.Duration(shown["expires_in_ms"].(float64))*time.Millisecond, ttl-time.Second, ttl)
}

func TestRenewalNeverShortens(t *testing.T) {
	_, b, c := keys(t)
	lock := obtain(t, b, ttl)
	must(t, lock.Refresh(ctx, time.Second, nil))
	left, err := lock.TTL(ctx)
	must(t, err)
	between(t, left, 0, time.Second)
	lease := acquire(t, c, Request{TTLMs: ttlMs})
	code, renewed := call(t, "PUT", "/locks/"+c+"/lease", locks.Token, http.Header{"Lease-Id": {lease.ID}}, `{"ttl_ms": 1000}`)
	check(t, code == 200 && renewed["expires_in_ms"].(float64) > ttlMs-2000, code, renewed)
}

func TestRelease(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	check(t, client.Del(ctx, a).Val() == 1)
	check(t, client.PTTL(ctx, a).Val() == -2)
	lock := obtain(t, b, ttl)
	must(t, lock.Release(ctx))
	left, err := lock.TTL(ctx)
	check(t, left == 0 && err == nil, left, err)
	lease := acquire(t, c, Request{TTLMs: ttlMs})
	must(t, lease.Release(ctx))
	check(t, status(t, c)["held"] == false)
	must(t, lease.Release(ctx)) // a repetition does no harm
}

func TestTooLateToRenew(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "mine", short))
	lock := obtain(t, b, short)
	lease := acquire(t, c, Request{TTLMs: shortMs})
	time.Sleep(short + 100*time.Millisecond)
	check(t, setNX(t, a, "another's", 5*time.Second))
	obtain(t, b, 5*time.Second)
	next := acquire(t, c, Request{TTLMs: 5000, WaitMs: 2000})
	// This prolongs the lock of another one.
	check(t, client.Expire(ctx, a, ttl).Val())
	check(t, client.PTTL(ctx, a).Val() > 6*time.Second)
	err := lock.Refresh(ctx, ttl, nil)
	check(t, errors.Is(err, redislock.ErrNotObtained), err)
	_, err = lease.Renew(ctx)
	check(t, problem(t, err, 409, "lease-lost").Reason == "held_by_other", err)
	check(t, status(t, c)["fencing_token"] == float64(next.FencingToken))
}

func TestTooLateToRelease(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "mine", short))
	lock := obtain(t, b, short)
	lease := acquire(t, c, Request{TTLMs: shortMs})
	time.Sleep(short + 100*time.Millisecond)
	check(t, setNX(t, a, "another's", ttl))
	obtain(t, b, ttl)
	next := acquire(t, c, Request{TTLMs: ttlMs, WaitMs: 2000})
	// This deletes the lock of another one, and a third one has it too.
	check(t, client.Del(ctx, a).Val() == 1)
	check(t, setNX(t, a, "a third one's", ttl))
	err := lock.Release(ctx)
	check(t, errors.Is(err, redislock.ErrLockNotHeld), err)
	problem(t, lease.Release(ctx), 409, "lease-lost")
	check(t, status(t, c)["fencing_token"] == float64(next.FencingToken))
}

func TestTokensRise(t *testing.T) {
	_, _, c := keys(t)
	highest := int64(0)
	for round := 0; round < 5; round++ {
		lease := acquire(t, c, Request{})
		check(t, lease.FencingToken > highest, lease.FencingToken)
		highest = lease.FencingToken
		must(t, lease.Release(ctx))
	}
}

func TestBreakHitsNobodyWhoCameLater(t *testing.T) {
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	check(t, client.Del(ctx, a).Val() == 1)
	obtain(t, b, ttl)
	check(t, client.Del(ctx, b).Val() == 1)
	first := acquire(t, c, Request{TTLMs: ttlMs})
	path := "/locks/" + c + "?force=true&fencing_token="
	code, body := call(t, "DELETE", path+strconv.FormatInt(first.FencingToken, 10), os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 204, code, body)
	second := acquire(t, c, Request{TTLMs: ttlMs})
	code, body = call(t, "DELETE", path+strconv.FormatInt(first.FencingToken, 10), os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 409, code, body)
	check(t, status(t, c)["fencing_token"] == float64(second.FencingToken))
}

// forgetful passes bytes to and fro, but breaks the first connection on which word was said, once that was answered.
func forgetful(t *testing.T, to, word string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	var once sync.Once
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer from.Close()
				server, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer server.Close()
				lost := make(chan bool, 1)
				go func() {
					defer from.Close()
					buffer := make([]byte, 65536)
					for {
						n, err := server.Read(buffer)
						if err != nil {
							return
						}
						select {
						case <-lost:
							return
						default:
						}
						_, _ = from.Write(buffer[:n])
					}
				}()
				buffer := make([]byte, 65536)
				for {
					n, err := from.Read(buffer)
					if err != nil {
						return
					}
					if strings.Contains(string(buffer[:n]), word) {
						once.Do(func() { lost <- true })
					}
					_, _ = server.Write(buffer[:n])
				}
			}()
		}
	}()
	return listener.Addr().String()
}

func TestLostAnswer(t *testing.T) {
	a, b, c := keys(t)
	password := os.Getenv("REDIS_PASSWORD")

	// It has the lock, and is told that somebody else has.
	one := redis.NewClient(&redis.Options{Addr: forgetful(t, redisAddr, a), Password: password})
	ok, err := one.SetNX(ctx, a, "mine", ttl).Result()
	must(t, err)
	check(t, !ok && client.Get(ctx, a).Val() == "mine", ok)

	two := redis.NewClient(&redis.Options{Addr: forgetful(t, redisAddr, b), Password: password})
	_, err = redislock.Obtain(ctx, two, b, ttl, nil)
	must(t, err)

	three := Locks{URL: "http://" + forgetful(t, strings.TrimPrefix(serverURL, "http://"), c), Token: locks.Token}
	lease, err := three.Acquire(ctx, c, Request{TTLMs: ttlMs})
	must(t, err)
	check(t, status(t, c)["fencing_token"] == float64(lease.FencingToken))
	must(t, lease.Release(ctx))
}

func TestKeptLeaseOutlivesItsTTL(t *testing.T) {
	_, _, c := keys(t)
	lease := acquire(t, c, Request{TTLMs: 1500})
	kept, stop := lease.Keep(ctx)
	check(t, sleep(kept, 4*time.Second), "it was lost")
	check(t, status(t, c)["fencing_token"] == float64(lease.FencingToken))
	stop()
	time.Sleep(1700 * time.Millisecond)
	check(t, status(t, c)["held"] == false, "it is renewed although nobody keeps it")
}

func TestKeptLeaseThatWasBrokenEndsTheWork(t *testing.T) {
	_, _, c := keys(t)
	lease := acquire(t, c, Request{TTLMs: 3000})
	kept, stop := lease.Keep(ctx)
	defer stop()
	path := "/locks/" + c + "?force=true&fencing_token=" + strconv.FormatInt(lease.FencingToken, 10)
	code, body := call(t, "DELETE", path, os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 204, code, body)
	check(t, !sleep(kept, 2*time.Second), "it goes on")
	check(t, time.Now().Before(lease.Until), "it was noticed only once the lease was over")
}

func TestWorkEndsInTimeWhenNobodyAnswers(t *testing.T) {
	_, _, c := keys(t)
	pid, err := strconv.Atoi(os.Getenv("SERVER_PID"))
	must(t, err)
	lease := acquire(t, c, Request{TTLMs: 1500})
	kept, stop := lease.Keep(ctx)
	defer stop()
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	defer func() { must(t, syscall.Kill(pid, syscall.SIGCONT)) }()
	check(t, !sleep(kept, 5*time.Second), "it goes on")
	between(t, time.Since(lease.Until), 0, 300*time.Millisecond)
}

func TestKeepSurvivesAStallOfTheServer(t *testing.T) {
	_, _, c := keys(t)
	pid, err := strconv.Atoi(os.Getenv("SERVER_PID"))
	must(t, err)
	lease := acquire(t, c, Request{TTLMs: 3000})
	kept, stop := lease.Keep(ctx)
	defer stop()
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	time.AfterFunc(1800*time.Millisecond, func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	check(t, sleep(kept, 5*time.Second), "it was lost")
	check(t, status(t, c)["fencing_token"] == float64(lease.FencingToken))
}

func TestOldLocksAndLeasesDoNotExcludeEachOther(t *testing.T) {
	_, b, c := keys(t)
	check(t, setNX(t, c, "value", ttl))
	obtain(t, b, ttl)
	acquire(t, c, Request{TTLMs: ttlMs})
	acquire(t, b, Request{TTLMs: ttlMs})
}

func TestWhatHasNoCounterpartIsRefused(t *testing.T) {
	a, _, c := keys(t)
	check(t, setNX(t, a, "for ever", 0))
	check(t, client.PTTL(ctx, a).Val() == -1)
	_, err := locks.Acquire(ctx, c, Request{TTLMs: 3_600_001})
	problem(t, err, 400, "invalid-request")
	_, err = locks.Acquire(ctx, c, Request{TTLMs: 99})
	problem(t, err, 400, "invalid-request")
	_, err = locks.Acquire(ctx, c, Request{WaitMs: 50_001})
	problem(t, err, 400, "invalid-request")
	for _, key := range []string{"{" + c + "}", c + " " + c} {
		check(t, setNX(t, key, "value", ttl))
		_, err = locks.Acquire(ctx, key, Request{})
		problem(t, err, 400, "invalid-key")
	}
}

func TestPlaceIsKeptForTheNextRequest(t *testing.T) {
	_, _, c := keys(t)
	lease := acquire(t, c, Request{TTLMs: ttlMs})
	header := http.Header{"Idempotency-Key": {"place-0123456789abcdef"}}
	code, body := call(t, "POST", "/locks/"+c, locks.Token, header, `{"wait_ms": 200}`)
	check(t, code == 423 && body["position"] == float64(1), code, body)
	next := make(chan error, 1)
	go func() {
		_, err := locks.Acquire(ctx, c, Request{WaitMs: 8000})
		next <- err
	}()
	// A kept place counts.
	untilWaiting(t, c, 2)
	code, body = call(t, "POST", "/locks/"+c, locks.Token, header, `{"wait_ms": 200}`)
	check(t, code == 423 && body["position"] == float64(1), code, body)
	must(t, lease.Release(ctx))
	must(t, <-next)
}
