package calls

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"

	"example.com/leasehold"
)

func TestFreeLockIsGranted(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	obtain(t, b, ttl)
	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	between(t, time.Until(lease.Until()), ttl-2*time.Second, ttl)
}

func TestHeldLockIsRefused(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	check(t, !setNX(t, a, "value", ttl))
	obtain(t, b, ttl)
	_, err := redislock.Obtain(ctx, client, b, ttl, nil)
	check(t, errors.Is(err, redislock.ErrNotObtained), err)
	acquire(t, c, leasehold.Request{TTLMs: ttlMs, Holder: "me"})
	_, err = locks.Acquire(ctx, c, leasehold.Request{})
	held := problem(t, err, 423, "lock-held")
	check(t, held.Holder == "me", held)
	between(t, time.Duration(held.ExpiresInMs)*time.Millisecond, ttl-2*time.Second, ttl)
}

func TestWaiterGetsTheLockWhenItIsFree(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	lock := obtain(t, b, ttl)
	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
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
			if waited := time.Since(begun); waited < 200*time.Millisecond || waited > 5*time.Second {
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
		next, err := locks.Acquire(ctx, c, leasehold.Request{TTLMs: ttlMs, WaitMs: 5000})
		if err == nil && time.Until(next.Until()) < ttl-2*time.Second {
			return fmt.Errorf("the wait was taken off the lease: %v are left", time.Until(next.Until()))
		}
		return err
	})
	all.Wait()
}

func TestWaitingInVain(t *testing.T) {
	t.Parallel()
	_, b, c := keys(t)
	obtain(t, b, ttl)
	retry := redislock.LimitRetry(redislock.LinearBackoff(10*time.Millisecond), 20)
	_, err := redislock.Obtain(ctx, client, b, ttl, &redislock.Options{RetryStrategy: retry})
	check(t, errors.Is(err, redislock.ErrNotObtained), err)
	acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	begun := time.Now()
	_, err = locks.Acquire(ctx, c, leasehold.Request{WaitMs: 200})
	problem(t, err, 423, "wait-timeout")
	between(t, time.Since(begun), 200*time.Millisecond, 2*time.Second)
}

func TestWaitersAreServedInOrder(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	order := make(chan int, 8)
	for waiter := 0; waiter < cap(order); waiter++ {
		waiter := waiter
		go func() {
			next, err := locks.Acquire(ctx, c, leasehold.Request{TTLMs: ttlMs, WaitMs: 20_000})
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
	t.Parallel()
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

	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs, Holder: "me", Metadata: map[string]string{"run": "nightly"}})
	shown := status(t, c)
	check(t, shown["holder"] == "me", shown)
	check(t, shown["metadata"].(map[string]any)["run"] == "nightly", shown)
	check(t, lease.ID != "" && !strings.Contains(fmt.Sprint(shown), lease.ID), shown)
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", time.Second))
	check(t, client.Expire(ctx, a, ttl).Val())
	lock := obtain(t, b, time.Second)
	must(t, lock.Refresh(ctx, ttl, nil))
	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	time.Sleep(1100 * time.Millisecond)
	until := lease.Until()
	must(t, lease.Renew(ctx))
	between(t, time.Until(lease.Until()), ttl-2*time.Second, ttl)
	between(t, lease.Until().Sub(until), time.Second, 5*time.Second)
	between(t, client.PTTL(ctx, a).Val(), ttl-4*time.Second, ttl)
	left, err := lock.TTL(ctx)
	must(t, err)
	between(t, left, ttl-4*time.Second, ttl)
	shown := status(t, c)
	check(t, shown["held"] == true, shown)
	between(t, time.Duration(shown["expires_in_ms"].(float64))*time.Millisecond, ttl-2*time.Second, ttl)
}

func TestRenewalNeverShortens(t *testing.T) {
	t.Parallel()
	_, b, c := keys(t)
	lock := obtain(t, b, ttl)
	must(t, lock.Refresh(ctx, time.Second, nil))
	left, err := lock.TTL(ctx)
	must(t, err)
	between(t, left, 0, time.Second)
	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	code, renewed := call(t, "PUT", "/locks/"+c+"/lease", locks.Token, http.Header{"Lease-Id": {lease.ID}}, `{"ttl_ms": 1000}`)
	check(t, code == 200 && renewed["expires_in_ms"].(float64) > ttlMs-2000, code, renewed)
}

func TestRelease(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	check(t, client.Del(ctx, a).Val() == 1)
	check(t, client.PTTL(ctx, a).Val() == -2)
	lock := obtain(t, b, ttl)
	must(t, lock.Release(ctx))
	left, err := lock.TTL(ctx)
	check(t, left == 0 && err == nil, left, err)
	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	must(t, lease.Release(ctx))
	check(t, status(t, c)["held"] == false)
	must(t, lease.Release(ctx)) // a repetition changes nothing
}

func TestTooLateToRenew(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "mine", short))
	lock := obtain(t, b, short)
	lease := acquire(t, c, leasehold.Request{TTLMs: shortMs})
	time.Sleep(short + 100*time.Millisecond)
	check(t, setNX(t, a, "another client's", 5*time.Second))
	obtain(t, b, 5*time.Second)
	next := acquire(t, c, leasehold.Request{TTLMs: 5000, WaitMs: 2000})
	// This renews the lock of another client.
	check(t, client.Expire(ctx, a, ttl).Val())
	check(t, client.PTTL(ctx, a).Val() > 6*time.Second)
	err := lock.Refresh(ctx, ttl, nil)
	check(t, errors.Is(err, redislock.ErrNotObtained), err)
	err = lease.Renew(ctx)
	check(t, problem(t, err, 409, "lease-lost").Reason == "held_by_other", err)
	check(t, status(t, c)["fencing_token"] == float64(next.FencingToken))
}

func TestTooLateToRelease(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "mine", short))
	lock := obtain(t, b, short)
	lease := acquire(t, c, leasehold.Request{TTLMs: shortMs})
	time.Sleep(short + 100*time.Millisecond)
	check(t, setNX(t, a, "another client's", ttl))
	obtain(t, b, ttl)
	next := acquire(t, c, leasehold.Request{TTLMs: ttlMs, WaitMs: 2000})
	// This deletes the lock of another client, and a third client gets it too.
	check(t, client.Del(ctx, a).Val() == 1)
	check(t, setNX(t, a, "a third client's", ttl))
	err := lock.Release(ctx)
	check(t, errors.Is(err, redislock.ErrLockNotHeld), err)
	problem(t, lease.Release(ctx), 409, "lease-lost")
	check(t, status(t, c)["fencing_token"] == float64(next.FencingToken))
}

func TestTokensRise(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	highest := int64(0)
	for round := 0; round < 5; round++ {
		lease := acquire(t, c, leasehold.Request{})
		check(t, lease.FencingToken > highest, lease.FencingToken)
		highest = lease.FencingToken
		must(t, lease.Release(ctx))
	}
}

func TestBreakLeavesALaterHolderAlone(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	check(t, client.Del(ctx, a).Val() == 1)
	obtain(t, b, ttl)
	check(t, client.Del(ctx, b).Val() == 1)
	first := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	path := "/locks/" + c + "?force=true&fencing_token="
	code, body := call(t, "DELETE", path+strconv.FormatInt(first.FencingToken, 10), os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 204, code, body)
	second := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	code, body = call(t, "DELETE", path+strconv.FormatInt(first.FencingToken, 10), os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 409, code, body)
	check(t, status(t, c)["fencing_token"] == float64(second.FencingToken))
}

func TestOldLocksAndLeasesDoNotExcludeEachOther(t *testing.T) {
	t.Parallel()
	_, b, c := keys(t)
	check(t, setNX(t, c, "value", ttl))
	obtain(t, b, ttl)
	acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	acquire(t, b, leasehold.Request{TTLMs: ttlMs})
}

func TestValuesWithoutACounterpartAreRefused(t *testing.T) {
	t.Parallel()
	a, _, c := keys(t)
	check(t, setNX(t, a, "for ever", 0))
	check(t, client.PTTL(ctx, a).Val() == -1)
	_, err := locks.Acquire(ctx, c, leasehold.Request{TTLMs: 3_600_001})
	problem(t, err, 400, "invalid-request")
	_, err = locks.Acquire(ctx, c, leasehold.Request{TTLMs: 99})
	problem(t, err, 400, "invalid-request")
	_, err = locks.Acquire(ctx, c, leasehold.Request{WaitMs: 50_001})
	problem(t, err, 400, "invalid-request")
	for _, key := range []string{"{" + c + "}", c + " " + c} {
		check(t, setNX(t, key, "value", ttl))
		_, err = locks.Acquire(ctx, key, leasehold.Request{})
		problem(t, err, 400, "invalid-key")
	}
}

func TestPlaceIsKeptForTheNextRequest(t *testing.T) {
	t.Parallel()
	_, _, c := keys(t)
	lease := acquire(t, c, leasehold.Request{TTLMs: ttlMs})
	header := http.Header{"Idempotency-Key": {"place-0123456789abcdef"}}
	code, body := call(t, "POST", "/locks/"+c, locks.Token, header, `{"wait_ms": 200}`)
	check(t, code == 423 && body["position"] == float64(1), code, body)
	next := make(chan error, 1)
	go func() {
		_, err := locks.Acquire(ctx, c, leasehold.Request{WaitMs: 8000})
		next <- err
	}()
	// A kept place counts.
	untilWaiting(t, c, 2)
	code, body = call(t, "POST", "/locks/"+c, locks.Token, header, `{"wait_ms": 200}`)
	check(t, code == 423 && body["position"] == float64(1), code, body)
	must(t, lease.Release(ctx))
	must(t, <-next)
}
