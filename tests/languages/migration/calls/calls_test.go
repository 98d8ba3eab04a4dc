package calls

import (
	"errors"
	"fmt"
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

func TestFreeLockIsGranted(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "value", ttl))
	obtain(t, b, ttl)
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
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
	acquire(t, c, plain.Request{TTLMs: ttlMs, Holder: "me"})
	_, err = locks.Acquire(ctx, c, plain.Request{})
	held := problem(t, err, 423, "lock-held")
	check(t, held.Holder == "me", held)
	// For others the lease ends with the clock skew.
	between(t, time.Duration(held.ExpiresInMs)*time.Millisecond, ttl-2*time.Second, ttl+time.Second)
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

	lease := acquire(t, c, plain.Request{TTLMs: ttlMs, Holder: "me", Metadata: map[string]string{"run": "nightly"}})
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
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
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
	between(t, time.Duration(shown["expires_in_ms"].(float64))*time.Millisecond, ttl-2*time.Second, ttl+time.Second)
}

func TestRenewalNeverShortens(t *testing.T) {
	t.Parallel()
	_, b, c := keys(t)
	lock := obtain(t, b, ttl)
	must(t, lock.Refresh(ctx, time.Second, nil))
	left, err := lock.TTL(ctx)
	must(t, err)
	between(t, left, 0, time.Second)
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
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
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
	must(t, lease.Release(ctx))
	check(t, status(t, c)["held"] == false)
	must(t, lease.Release(ctx)) // a repetition changes nothing
}

func TestReleaseByScript(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	script := redis.NewScript(`if redis.call("get", KEYS[1]) == ARGV[1] then return redis.call("del", KEYS[1]) end return 0`)
	release := func(value string) int64 {
		deleted, err := script.Run(ctx, client, []string{a}, value).Int64()
		must(t, err)
		return deleted
	}
	check(t, setNX(t, a, "mine", ttl))
	check(t, release("another client's") == 0)
	check(t, release("mine") == 1)
	lock := obtain(t, b, ttl)
	must(t, lock.Release(ctx))
	err := lock.Release(ctx)
	check(t, errors.Is(err, redislock.ErrLockNotHeld), err)
	lease := acquire(t, c, plain.Request{TTLMs: ttlMs})
	header := http.Header{"Lease-Id": {strings.Repeat("0", len(lease.ID))}}
	code, body := call(t, "DELETE", "/locks/"+c, locks.Token, header, "")
	check(t, code == 409 && body["reason"] == "held_by_other", code, body)
	must(t, lease.Release(ctx))
}

func TestTooLateToRenew(t *testing.T) {
	t.Parallel()
	a, b, c := keys(t)
	check(t, setNX(t, a, "mine", short))
	lock := obtain(t, b, short)
	lease := acquire(t, c, plain.Request{TTLMs: shortMs})
	time.Sleep(short + 100*time.Millisecond)
	check(t, setNX(t, a, "another client's", 5*time.Second))
	obtain(t, b, 5*time.Second)
	next := acquire(t, c, plain.Request{TTLMs: 5000, WaitMs: 2000})
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
	lease := acquire(t, c, plain.Request{TTLMs: shortMs})
	time.Sleep(short + 100*time.Millisecond)
	check(t, setNX(t, a, "another client's", ttl))
	obtain(t, b, ttl)
	next := acquire(t, c, plain.Request{TTLMs: ttlMs, WaitMs: 2000})
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
		lease := acquire(t, c, plain.Request{})
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
	first := acquire(t, c, plain.Request{TTLMs: ttlMs})
	path := "/locks/" + c + "?force=true&fencing_token="
	code, body := call(t, "DELETE", path+strconv.FormatInt(first.FencingToken, 10), os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 204, code, body)
	second := acquire(t, c, plain.Request{TTLMs: ttlMs})
	code, body = call(t, "DELETE", path+strconv.FormatInt(first.FencingToken, 10), os.Getenv("BREAK_TOKEN"), nil, "")
	check(t, code == 409, code, body)
	check(t, status(t, c)["fencing_token"] == float64(second.FencingToken))
}

func TestOldLocksAndLeasesDoNotExcludeEachOther(t *testing.T) {
	t.Parallel()
	_, b, c := keys(t)
	check(t, setNX(t, c, "value", ttl))
	obtain(t, b, ttl)
	acquire(t, c, plain.Request{TTLMs: ttlMs})
	acquire(t, b, plain.Request{TTLMs: ttlMs})
}

func TestValuesWithoutACounterpartAreRefused(t *testing.T) {
	t.Parallel()
	a, _, c := keys(t)
	check(t, setNX(t, a, "for ever", 0))
	check(t, client.PTTL(ctx, a).Val() == -1)
	_, err := locks.Acquire(ctx, c, plain.Request{TTLMs: 3_600_001})
	problem(t, err, 400, "invalid-request")
	_, err = locks.Acquire(ctx, c, plain.Request{TTLMs: 99})
	problem(t, err, 400, "invalid-request")
	_, err = locks.Acquire(ctx, c, plain.Request{WaitMs: 50_001})
	problem(t, err, 400, "invalid-request")
	for _, key := range []string{"{" + c + "}", c + " " + c} {
		check(t, setNX(t, key, "value", ttl))
		_, err = locks.Acquire(ctx, key, plain.Request{})
		problem(t, err, 400, "invalid-key")
	}
}
