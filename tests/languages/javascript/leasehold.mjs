// A client for Leasehold in one file, with Node alone: copy it.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const ANSWER_MS = 5000; // a healthy server answers sooner, apart from the time that a request waits for a lock
const RETRY_MS = 10_000; // how long a call is repeated, apart from that time

/** The server refused a call. Status 423: another client holds the lock. 409: the lease is lost. */
export class Refused extends Error {
  constructor(status, problem) {
    super(`${status} ${problem.type}: ${problem.detail}`);
    Object.assign(this, { status, problem });
  }
}

/** A Leasehold server. */
export class Locks {
  constructor(url, token) {
    this.url = url.replace(/\/$/, "");
    this.headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  }

  /** Waits up to `wait_ms` for the lock. `fields` are `holder` and `metadata`. */
  async acquire(key, { ttl_ms = 30_000, wait_ms = 0, ...fields } = {}) {
    const path = `/locks/${encodeURIComponent(key)}`; // the key is one segment: its slashes become %2F
    // Each attempt has the same key. The server answers all of them with the same lease.
    const headers = { "Idempotency-Key": randomUUID() };
    const body = { ttl_ms, wait_ms, ...fields };
    // An answer that comes a TTL after the wait is of no use, because its lease is over.
    const timeout = wait_ms + Math.min(ttl_ms, ANSWER_MS);
    const lease = new Lease(
      this,
      path,
      await this.call("POST", path, headers, body, timeout, performance.now() + wait_ms + RETRY_MS),
    );
    if (lease.leftMs() <= 0) throw new Error("the lease was over before the answer came");
    return lease;
  }

  /** Repeats a call without a clear answer until `until`. Returns the time of sending and the body. */
  async call(method, path, headers, body, timeout, until) {
    for (let attempt = 0; ; attempt++) {
      const sent = performance.now();
      const left = until - sent;
      const limit = left > 0 ? Math.min(timeout, left) : ANSWER_MS; // the one attempt after the end
      let failure;
      let retryAfter = 0;
      try {
        const response = await fetch(this.url + path, {
          method,
          headers: { ...this.headers, ...headers },
          body: body && JSON.stringify(body),
          signal: AbortSignal.timeout(Math.ceil(limit)),
        });
        const text = await response.text();
        if (response.ok) return { sent, grant: JSON.parse(text || "{}") };
        retryAfter = 1000 * (Number(response.headers.get("Retry-After")) || 0);
        failure = new Refused(response.status, problem(text, response));
      } catch (error) {
        failure = error;
      }
      const { status } = failure;
      if (status < 500 && status !== 429) throw failure;
      const pause = Math.max(retryAfter, (0.5 + Math.random() / 2) * Math.min(100 * 2 ** attempt, 2000));
      if (performance.now() + pause >= until) throw failure;
      await sleep(pause);
    }
  }
}

/** A lock that was granted. Count on it while `leftMs()` is above 0. */
export class Lease {
  constructor(locks, path, { sent, grant }) {
    Object.assign(this, { locks, path, id: grant.lease_id, fencingToken: grant.fencing_token });
    this.extend(sent, grant);
  }

  extend(sent, grant) {
    this.renewAfterMs = grant.renew_after_ms;
    this.until = sent + grant.waited_ms + grant.expires_in_ms;
  }

  leftMs() {
    return Math.floor(this.until - performance.now());
  }

  /** Makes the lease last its TTL from now. An attempt takes a third of the TTL, so that another fits. */
  async renew() {
    const { sent, grant } = await this.call("PUT", "/lease", this.until);
    this.extend(sent, grant);
  }

  /** Frees the lock. Without an answer the lock is free when the lease is over. */
  async release() {
    await this.call("DELETE", "", Math.min(this.until, performance.now() + RETRY_MS));
  }

  call(method, path, until) {
    const timeout = Math.min(this.renewAfterMs, ANSWER_MS);
    return this.locks.call(method, this.path + path, { "Lease-Id": this.id }, undefined, timeout, until);
  }
}

function problem(text, response) {
  try {
    return JSON.parse(text);
  } catch {
    return { type: "about:blank", detail: response.statusText }; // from a proxy
  }
}
